"""A contender's workflow process: takes a row per line on stdin, answers with what it measured on stdout.

Run as a script, so that its apps are pickled by value, as those of a user's script are.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

#: One task may take this long, whatever else the machine does, in seconds.
_TASK_LIMIT_S = 600.0

Answer = dict[str, Any]


def noop() -> None:
    return None


def size_of(data: bytes) -> int:
    return len(data)


def stage(path: str, number: int) -> str:
    """Read a file, write the next one; the first stage makes its own."""
    from pathlib import Path

    text = Path(path).read_text() if number else ""
    written = f"{path.partition('.stage')[0]}.stage{number}"
    Path(written).write_text(f"{text}{number}\n")
    return written


def sleeping(seconds: float) -> int:
    import os
    import time

    time.sleep(seconds)
    return os.getpid()


def make_executor(kind: str, endpoint_id: str | None, workers: int = 2) -> Any:
    """The executor of a contender, as its documentation tells to write it; others than local HTEX have an endpoint."""
    if kind == "local":
        from parsl.executors import HighThroughputExecutor
        from parsl.providers import LocalProvider

        provider = LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1)
        return HighThroughputExecutor(
            label="bench",
            address="127.0.0.1",
            max_workers_per_node=workers,
            cores_per_worker=0.01,
            provider=provider,
        )
    if kind in ("public", "unlimited"):
        from globus_compute_sdk import Executor
        from parsl.executors import GlobusComputeExecutor

        inner = Executor(endpoint_id=endpoint_id)
        if kind == "unlimited":
            inner.api_burst_limit = 1  # its rate limiter is off at 1
        return GlobusComputeExecutor(inner, label="bench")
    from parsl_globus import GlobusComputeExecutor as OurExecutor

    return OurExecutor(endpoint_id, label="bench")


class Workflow:
    """Runs rows with a loaded DataFlowKernel."""

    def __init__(self, kernel: Any, kind: str) -> None:
        from parsl import python_app

        self._kind = kind
        self._executor = kernel.executors["bench"]
        self._noop = python_app(noop, data_flow_kernel=kernel)
        self._size_of = python_app(size_of, data_flow_kernel=kernel)
        self._stage = python_app(stage, data_flow_kernel=kernel)
        self._sleeping = python_app(sleeping, data_flow_kernel=kernel)

    def warm(self, **_options: Any) -> Answer:
        """Two tasks, so that both workers have done something."""
        for future in [self._noop() for _ in range(4)]:
            future.result(_TASK_LIMIT_S)
        return {"value": 0.0}

    def noops(self, count: int) -> Answer:
        """No-ops at once, through the DataFlowKernel: tasks per second."""
        began = time.monotonic()
        submitted = [self._noop() for _ in range(count)]
        submit_s = time.monotonic() - began
        failed = _failures(submitted)
        return {"value": count / (time.monotonic() - began), "failed": failed, "submit_s": submit_s}

    def bare(self, count: int) -> Answer:
        """No-ops at once, through the executor alone: tasks per second."""
        submit = self._bare_submit()
        began = time.monotonic()
        failed = _failures([submit() for _ in range(count)])
        return {"value": count / (time.monotonic() - began), "failed": failed}

    def _bare_submit(self) -> Callable[[], Future[Any]]:
        executor = self._executor
        if self._kind == "local":
            return lambda: executor.submit(noop, {})
        if self._kind == "ours":
            facade = executor.as_concurrent()
            return lambda: facade.submit(noop)
        return lambda: executor.executor.submit(noop)

    def latency(self, count: int) -> Answer:
        """One after another: the median in milliseconds."""
        times_ms = []
        for _ in range(count):
            began = time.monotonic()
            self._noop().result(_TASK_LIMIT_S)
            times_ms.append(1e3 * (time.monotonic() - began))
        return {"value": statistics.median(times_ms), "slowest_ms": max(times_ms)}

    def stages(self, count: int, stages: int = 4) -> Answer:
        """Files through dependent stages: seconds."""
        with tempfile.TemporaryDirectory(dir=".") as folder:
            began = time.monotonic()
            last = []
            for number in range(count):
                path: Any = str(Path(folder).absolute() / f"{number}")
                for step in range(stages):
                    path = self._stage(path, step)
                last.append(path)
            failed = _failures(last)
            return {"value": time.monotonic() - began, "failed": failed}

    def megabytes(self, count: int, size_bytes: int = 1_000_000) -> Answer:
        """Arguments of a megabyte: seconds, and this process's peak memory in megabytes."""
        arguments = [os.urandom(size_bytes) for _ in range(count)]
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        began = time.monotonic()
        failed = _failures([self._size_of(data) for data in arguments])
        taken_s = time.monotonic() - began
        return {"value": taken_s, "failed": failed, "peak_mb": _status_kb("VmHWM") / 1e3}

    def monitored(self, count: int) -> Answer:
        """No-ops with Parsl's resource monitoring, in a workflow of their own: seconds."""
        began = time.monotonic()
        failed = _failures([self._noop() for _ in range(count)])
        return {"value": time.monotonic() - began, "failed": failed, "registrations": _registered[0]}

    def sleepers(self, workers: int, each: int = 8, sleep_s: float = 0.25) -> Answer:
        """Tasks that sleep, `each` for every worker: seconds, and what they would take without any cost."""
        seen: set[int] = set()
        until_s = time.monotonic() + _TASK_LIMIT_S
        while len(seen) < workers and time.monotonic() < until_s:
            seen |= {future.result(_TASK_LIMIT_S) for future in [self._sleeping(0.1) for _ in range(workers)]}
        began = time.monotonic()
        failed = _failures([self._sleeping(sleep_s) for _ in range(each * workers)])
        return {"value": time.monotonic() - began, "failed": failed, "ideal_s": each * sleep_s, "seen": len(seen)}


_registered = [0]


def count_registrations() -> None:
    """Count the functions that this process registers; every client goes through globus_sdk."""
    import globus_sdk

    for service in (globus_sdk.ComputeClientV2, globus_sdk.ComputeClientV3):
        original = service.register_function

        def counting(self: Any, *args: Any, _original: Any = original, **kwargs: Any) -> Any:
            _registered[0] += 1
            return _original(self, *args, **kwargs)

        service.register_function = counting


def _failures(futures: list[Future[Any]]) -> int:
    return sum(future.exception(_TASK_LIMIT_S) is not None for future in futures)


def _status_kb(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return float(line.split()[1])
    raise KeyError(name)


@contextlib.contextmanager
def loaded(kind: str, endpoint_id: str | None, *, monitoring: bool, workers: int) -> Iterator[Workflow]:
    """A workflow with its DataFlowKernel."""
    import parsl
    from parsl import Config

    hub = None
    if monitoring:
        from parsl.monitoring import MonitoringHub

        count_registrations()
        hub = MonitoringHub(hub_address="127.0.0.1", resource_monitoring_enabled=True)
    # By a name with the process in it: several share a folder.
    run_dir = f"runinfo-{kind}-{os.getpid()}"
    config = Config(
        executors=[make_executor(kind, endpoint_id, workers)], run_dir=run_dir, monitoring=hub, initialize_logging=False
    )
    with parsl.load(config) as kernel:
        yield Workflow(kernel, kind)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["local", "public", "unlimited", "ours"])
    parser.add_argument("--endpoint", help="its id")
    parser.add_argument("--monitoring", action="store_true")
    parser.add_argument("--workers", type=int, default=2, help="of local HTEX")
    options = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed is no answer
    with loaded(options.kind, options.endpoint, monitoring=options.monitoring, workers=options.workers) as workflow:
        for line in sys.stdin:
            call = json.loads(line)
            answer = getattr(workflow, call.pop("row"))(**call)
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
