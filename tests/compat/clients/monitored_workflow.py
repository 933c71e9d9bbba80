"""A monitored Parsl workflow with our executor; prints rows of the database. Usage: monitored_workflow.py ID FOLDER."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import parsl
from parsl import Config, python_app
from parsl.monitoring import MonitoringHub

from parsl_globus import GlobusComputeExecutor

sys.path.append(str(Path(__file__).parents[2] / "support"))
from monitored import rows, states

TASKS = 20


@python_app
def hold_memory(megabytes):
    import time

    held = b"x" * (megabytes * 2**20)
    end = time.monotonic() + 1
    while time.monotonic() < end:
        sum(range(10_000))
    return len(held)


@python_app
def fail():
    raise KeyError("on purpose")


@python_app
def add(x, y):
    return x + y


def main(endpoint_id: str, folder: str) -> None:
    executor = GlobusComputeExecutor(endpoint_id)
    hub = MonitoringHub(resource_monitoring_interval=0.2)
    with parsl.load(Config(executors=[executor], run_dir=folder, monitoring=hub, retries=1)):
        held = hold_memory(200)
        failing = fail()
        many = [add(number, 1) for number in range(TASKS)]
        total = sum(future.result(120) for future in many)
        held.result(120)
        error = repr(failing.exception(120))
    database = Path(folder) / "monitoring.db"
    found = {
        "total": total,
        "error": error,
        "held": states(database, held.tid),
        "failed": states(database, failing.tid),
        "many": sorted({tuple(states(database, future.tid)) for future in many}),
        "peak": max(row["psutil_process_memory_resident"] or 0 for row in rows(database, "resource", "task_id = 0")),
        "samples": len(rows(database, "resource", "task_id = 0")),
        "tries": rows(database, "try"),
        "nodes": rows(database, "node"),
        "blocks": rows(database, "block"),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
