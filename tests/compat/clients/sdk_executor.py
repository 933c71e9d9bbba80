"""A user of the public SDK: nothing of this package is imported. Usage: sdk_executor.py ENDPOINT_ID."""

from __future__ import annotations

import json
import sys

from globus_compute_sdk import Client, Executor
from globus_compute_sdk.errors import TaskExecutionFailed


def add(x, y):
    return x + y


def fail():
    raise ValueError("on purpose")


def main(endpoint_id: str) -> None:
    found: dict = {}
    with Executor(endpoint_id=endpoint_id) as executor:
        executor.api_burst_limit = 1  # its rate limiter is off at 1
        found["sum"] = executor.submit(add, 40, 2).result(120)
        try:
            executor.submit(fail).result(60)
        except TaskExecutionFailed as exc:
            found["failure"] = str(exc)
        futures = [executor.submit(add, i, i) for i in range(200)]
        found["doubled"] = [future.result(60) for future in futures]
        task_ids = [future.task_id for future in futures[:3]]
        task_group_id = executor.task_group_id
    client = Client()
    found["batch"] = sorted(entry["result"] for entry in client.get_batch_result(task_ids).values())
    found["task"] = client.get_result(task_ids[1])
    found["status"] = client.get_endpoint_status(endpoint_id)["status"]
    with Executor(endpoint_id=endpoint_id, task_group_id=task_group_id) as executor:
        found["reloaded"] = sum(1 for future in executor.reload_tasks() if future.done())
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
