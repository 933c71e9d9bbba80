"""What a journal costs: `submit`, the rate and the time of a task, with one and without. A script.

Both in one process and in turns, with calls that differ, as the journal tells calls apart by their arguments.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from parsl_globus import GlobusComputeExecutor

_LIMIT_S = 250.0


def same(number: int) -> int:
    return number


def measure(executor: Any, first: int, count: int, single: int) -> dict[str, float]:
    """Of so many tasks at once, and of so many one after another; their arguments are numbers from `first` on."""
    executor.submit(same, {}, first).result(_LIMIT_S)
    first += 1
    began_s = time.perf_counter()
    futures = [executor.submit(same, {}, number) for number in range(first, first + count)]
    submitted_s = time.perf_counter()
    for future in futures:
        future.result(_LIMIT_S)
    ended_s = time.perf_counter()
    times_s = []
    for number in range(first + count, first + count + single):
        sent_s = time.perf_counter()
        executor.submit(same, {}, number).result(_LIMIT_S)
        times_s.append(time.perf_counter() - sent_s)
    return {
        "submit_us": 1e6 * (submitted_s - began_s) / count,
        "rate": count / (ended_s - began_s),
        "latency_ms": 1e3 * statistics.median(times_s),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--count", type=int, default=5_000, help="tasks at once")
    parser.add_argument("--single", type=int, default=100, help="tasks one after another")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in ("without", "with")}
    for turn in range(options.rounds):
        for name, journal in (("without", None), ("with", Path(f"round-{turn}.journal"))):
            executor = GlobusComputeExecutor(options.endpoint, label=name, journal=journal)
            executor.start()
            with ExitStack() as stack:
                stack.callback(executor.shutdown)
                for key, value in measure(executor, 0, options.count, options.single).items():
                    found[name][key].append(value)
    print(json.dumps({"count": options.count, **found}))


if __name__ == "__main__":
    main()
