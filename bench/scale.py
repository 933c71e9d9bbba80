"""How the rate and the time of a task change with how many there are at once, and with how many endpoints. A script.

Through our executor's `concurrent.futures` facade, as a DataFlowKernel has limits of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any

from parsl_globus import GlobusComputeExecutor

_LIMIT_S = 250.0


def noop() -> None:
    return None


Submit = Callable[[], "Future[Any]"]


def window(submit: Submit, outstanding: int, count: int) -> dict[str, float]:
    """Keep so many tasks outstanding until `count` have ended."""
    free = threading.Semaphore(outstanding)
    times_ms: list[float] = []
    failed = [0]

    def send() -> None:
        sent_s = time.perf_counter()

        def ended(future: Future[Any]) -> None:
            times_ms.append(1e3 * (time.perf_counter() - sent_s))
            failed[0] += future.exception() is not None
            free.release()

        submit().add_done_callback(ended)

    began_s = time.perf_counter()
    for _ in range(count):
        free.acquire()
        send()
    for _ in range(outstanding):
        if not free.acquire(timeout=_LIMIT_S):
            raise TimeoutError(f"{count - len(times_ms)} of {count} tasks are not done")
    taken_s = time.perf_counter() - began_s
    times_ms.sort()
    return {
        "count": count,
        "rate": count / taken_s,
        "latency_ms": statistics.median(times_ms),
        "p99_ms": times_ms[int(0.99 * (count - 1))],
        "failed": failed[0],
    }


def spread(submits: Sequence[Submit], count: int, single: int) -> dict[str, float]:
    """Tasks over many endpoints: one after another, then all at once, each in turns."""
    for future in [submit() for submit in submits]:
        future.result(_LIMIT_S)
    times_ms = []
    for number in range(single):
        sent_s = time.perf_counter()
        submits[number % len(submits)]().result(_LIMIT_S)
        times_ms.append(1e3 * (time.perf_counter() - sent_s))
    began_s = time.perf_counter()
    futures = [submits[number % len(submits)]() for number in range(count)]
    failed = sum(future.exception(_LIMIT_S) is not None for future in futures)
    rate = count / (time.perf_counter() - began_s)
    return {"count": count, "rate": rate, "latency_ms": statistics.median(times_ms), "failed": failed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("endpoints", nargs="+", help="their ids")
    parser.add_argument("--single", type=int, default=100, help="tasks one after another, where there are several")
    options = parser.parse_args()
    with ExitStack() as stack:
        submits: list[Submit] = []
        for number, endpoint_id in enumerate(options.endpoints):
            executor = GlobusComputeExecutor(endpoint_id, label=f"bench{number}")
            facade = stack.enter_context(executor.as_concurrent())
            submits.append(lambda facade=facade: facade.submit(noop))  # type: ignore[misc]
        for line in sys.stdin:
            request = json.loads(line)
            if "outstanding" in request:
                answer = window(submits[0], request["outstanding"], request["count"])
            else:
                answer = spread(submits, request["count"], options.single)
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
