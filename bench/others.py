"""What a user would take instead, without Parsl: no-ops at once, and one after another. Run as a script, once per tool.

Each has two workers on this machine; ours has its endpoint, and the service, there as well.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from typing import Any

_LIMIT_S = 250.0
_WORKERS = 2

Submit = Callable[[], Any]
Wait = Callable[[Sequence[Any]], Any]


def noop() -> None:
    return None


def _results(futures: Iterable[Any]) -> None:
    for future in futures:
        future.result(_LIMIT_S)


@contextlib.contextmanager
def processes(_endpoint: str | None) -> Iterator[tuple[Submit, Wait]]:
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(_WORKERS) as pool:
        yield lambda: pool.submit(noop), _results


@contextlib.contextmanager
def executorlib(_endpoint: str | None) -> Iterator[tuple[Submit, Wait]]:
    from executorlib import SingleNodeExecutor

    with SingleNodeExecutor(max_workers=_WORKERS, block_allocation=True) as executor:
        yield lambda: executor.submit(noop), _results


@contextlib.contextmanager
def ray(_endpoint: str | None) -> Iterator[tuple[Submit, Wait]]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # its sockets' paths are long
    try:
        ray.init(
            num_cpus=_WORKERS, include_dashboard=False, log_to_driver=False, configure_logging=False,
            _node_ip_address="127.0.0.1", _temp_dir=folder,
        )  # fmt: skip
        function = ray.remote(noop)
        yield function.remote, lambda references: ray.get(list(references), timeout=_LIMIT_S)
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def dask(_endpoint: str | None) -> Iterator[tuple[Submit, Wait]]:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=_WORKERS, threads_per_worker=1, dashboard_address=None, host="127.0.0.1") as cluster,
        Client(cluster) as client,
    ):
        yield lambda: client.submit(noop, pure=False), client.gather


@contextlib.contextmanager
def ours(endpoint: str | None) -> Iterator[tuple[Submit, Wait]]:
    from parsl_globus import GlobusComputeExecutor

    with GlobusComputeExecutor(endpoint, label="bench").as_concurrent() as facade:
        yield lambda: facade.submit(noop), _results


#: Each tool, and whose version is told.
TOOLS: dict[str, tuple[Callable[[str | None], Any], str | None]] = {
    "processes": (processes, None),
    "executorlib": (executorlib, "executorlib"),
    "ray": (ray, "ray"),
    "dask": (dask, "distributed"),
    "ours": (ours, "parsl-globus"),
}


def measure(submit: Submit, wait: Wait, count: int, single: int) -> dict[str, float]:
    """Tasks per second of `count` at once, and the median of `single` ones in milliseconds."""
    wait([submit() for _ in range(4 * _WORKERS)])
    times_ms = []
    for _ in range(single):
        began = time.perf_counter()
        wait([submit()])
        times_ms.append(1e3 * (time.perf_counter() - began))
    began = time.perf_counter()
    wait([submit() for _ in range(count)])
    return {"rate": count / (time.perf_counter() - began), "latency_ms": statistics.median(times_ms)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tool", choices=list(TOOLS))
    parser.add_argument("--endpoint")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--single", type=int, default=200)
    options = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed is no answer
    make, distribution = TOOLS[options.tool]
    found: dict[str, Any] = {}
    try:
        with make(options.endpoint) as (submit, wait):
            found.update(measure(submit, wait, options.count, options.single))
        found["version"] = version(distribution) if distribution else f"Python {sys.version.split()[0]}"
    except ModuleNotFoundError as exc:
        found = {"why": f"not installed (no module '{exc.name}')"}
    print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
