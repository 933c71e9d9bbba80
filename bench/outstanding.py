"""What a task costs the client while it waits: `submit`, and memory. Run as a script, once per executor.

Nothing runs the tasks: local HTEX has no blocks, and the endpoint of the others is stopped.

Memory is how much the process's resident memory has grown, per task, when all tasks are with the service: garbage that
the heap could not give back counts. Three executors are measured alike, each in a process of its own; `nothing` makes
futures and no more. What a task costs beyond what Parsl itself keeps is the value of `ours` less that of `local`,
Parsl's HighThroughputExecutor: its futures and its table of tasks. The DataFlowKernel's own records are larger, and in
none of them.

`submit` is measured while tasks are sent at the same time, as in a workflow; `cpu_us` is of the submitting thread only.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import statistics
import sys
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

#: Where it is looked whether `submit` has become slower, in parts of all tasks, and how many tasks before that count.
_LEVELS = (0.1, 0.5, 1.0)
_WINDOW = 0.05
#: So many calls are timed together. The median of such is free of Python's collector, which comes now and then and
#: takes long, for any executor.
_TIMED = 50
_SENT_LIMIT_S = 3600.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def noop() -> None:
    return None


class Nothing:
    """An executor that only makes futures: what Parsl itself keeps is more than that."""

    def submit(self, *_args: Any, **_kwargs: Any) -> Future[Any]:
        return Future()


def make(kind: str, endpoint_id: str | None, folder: str) -> Any:
    if kind == "nothing":
        return Nothing()
    if kind == "local":
        from parsl.executors import HighThroughputExecutor
        from parsl.providers import LocalProvider

        provider = LocalProvider(init_blocks=0, min_blocks=0, max_blocks=0)
        executor: Any = HighThroughputExecutor(label="bench", address="127.0.0.1", provider=provider)
        provider.script_dir = folder
    else:
        from parsl_globus import GlobusComputeExecutor

        executor = GlobusComputeExecutor(endpoint_id, label="bench")
    executor.run_dir, executor.run_id = folder, "bench"
    executor.start()
    return executor


def monitored(number: int) -> tuple[Any, Any, Any]:
    """A call as Parsl's DataFlowKernel makes it when resources are monitored: a new callable each time."""
    from parsl.monitoring.remote import monitor_wrapper

    return monitor_wrapper(
        f=noop, args=(), kwargs={}, x_try_id=0, x_task_id=number, radio_config=_radio(), run_id="bench",
        logging_level=20, sleep_dur=30.0, monitor_resources=True, run_dir=".",
    )  # fmt: skip


_radios: list[Any] = []


def _radio() -> Any:
    return _radios[0]


def rss_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES


def measure(executor: Any, count: int, *, with_monitoring: bool) -> dict[str, Any]:
    calls = [monitored(number) if with_monitoring else (noop, (), {}) for number in range(count)]
    futures: list[Any] = [None] * count
    marks: list[float] = []  # the submitting thread's time
    sent_before = _sent(executor)
    before, wall, cpu, all_cpu = rss_bytes(), time.perf_counter(), time.thread_time(), time.process_time()
    for number, (function, args, kwargs) in enumerate(calls):
        if number % _TIMED == 0:
            marks.append(time.thread_time())
        futures[number] = executor.submit(function, {}, *args, **kwargs)
    wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
    submitted = rss_bytes()
    # Until all are with the service, and the memory is what it stays.
    deadline = time.monotonic() + _SENT_LIMIT_S
    while sent_before is not None and (_sent(executor) or 0) < sent_before + count:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{_sent(executor)} tasks were sent in {_SENT_LIMIT_S:.0f} s")
        time.sleep(0.05)
    all_cpu = time.process_time() - all_cpu
    return {
        "count": count,
        "wall_us": round(1e6 * wall / count, 2),
        "cpu_us": round(1e6 * cpu / count, 2),
        "cpu_us_at": _by_level(marks, count),
        "process_cpu_us": round(1e6 * all_cpu / count, 2),
        "submitted_bytes": round((submitted - before) / count, 1),
        "memory_bytes": round((rss_bytes() - before) / count, 1),
        "done": sum(future.done() for future in futures),
    }


def _by_level(marks: list[float], count: int) -> dict[int, float]:
    """Processor time of `submit` with so many tasks outstanding, in microseconds."""
    spent = [1e6 * (later - earlier) / _TIMED for earlier, later in itertools.pairwise(marks)]
    found = {}
    for level in _LEVELS:
        end, width = round(level * len(spent)), max(1, round(_WINDOW * len(spent)))
        if spent[:end]:
            found[round(level * count)] = round(statistics.median(spent[:end][-width:]), 2)
    return found


def _sent(executor: Any) -> int | None:
    """How many tasks are with the service; `None` where they go nowhere."""
    results = getattr(executor, "_results", None)
    return None if results is None else len(results.pending)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["nothing", "local", "ours"])
    parser.add_argument("--endpoint")
    parser.add_argument("--count", type=int, default=100_000)
    options = parser.parse_args()
    folder = str(Path(f"outstanding-{options.kind}-{os.getpid()}").absolute())
    Path(folder).mkdir()
    executor = make(options.kind, options.endpoint, folder)
    # Parsl gives monitored apps their executor's radio.
    if options.kind == "ours":
        _radios.append(executor.remote_monitoring_radio)
    else:
        from parsl.monitoring.radios.udp import UDPRadio

        _radios.append(UDPRadio(address="127.0.0.1", port=9))
    found: dict[str, Any] = {"kind": options.kind}
    measure(executor, 100, with_monitoring=False)
    found["plain"] = measure(executor, options.count, with_monitoring=False)
    found["monitored"] = measure(executor, max(1, options.count // 20), with_monitoring=True)
    print(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)  # what waits is of no interest, and HTEX would be ended in order


if __name__ == "__main__":
    main()
