"""Another user, who uses functions of others on a shared endpoint. Usage: sdk_guest.py ENDPOINT_ID FUNCTIONS_JSON."""

from __future__ import annotations

import json
import sys
import threading
import time

import globus_sdk
from globus_compute_sdk import Client
from globus_compute_sdk.errors import TaskExecutionFailed


def outcome(client: Client, task_id: str, within_s: float = 60.0):
    """A task's result, or what it failed with."""
    deadline_s = time.monotonic() + within_s
    pause = threading.Event()
    try:
        while client.get_task(task_id)["pending"]:
            assert time.monotonic() < deadline_s
            pause.wait(0.1)
    except TaskExecutionFailed as exc:
        return str(exc).strip()
    return client.get_result(task_id)


def main(endpoint_id: str, functions: str) -> None:
    client = Client()
    found: dict = {}
    for name, function_id in json.loads(functions).items():
        try:
            task_id = client.run(21, endpoint_id=endpoint_id, function_id=function_id)
        except globus_sdk.GlobusAPIError as exc:
            found[name] = exc.code
            continue
        found[name] = outcome(client, task_id)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
