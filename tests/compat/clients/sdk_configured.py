"""A task for a user endpoint of each configuration. Usage: sdk_configured.py ENDPOINT_ID CONFIG_JSON...

What each ended with is printed: the names of the process and the thread that it ran in, or its error.
"""

from __future__ import annotations

import json
import sys
import uuid

from globus_compute_sdk import Executor


def where():
    import multiprocessing
    import threading

    return [multiprocessing.current_process().name, threading.current_thread().name]


def outcome(endpoint_id: str, config: dict) -> dict:
    with Executor(endpoint_id=endpoint_id, user_endpoint_config=config, task_group_id=uuid.uuid4()) as executor:
        executor.api_burst_limit = 1  # its rate limiter is off at 1
        future = executor.submit(where)
        error = future.exception(90)
        return {"error": str(error)} if error is not None else {"where": future.result()}


def main(endpoint_id: str, *configs: str) -> None:
    print(json.dumps([outcome(endpoint_id, json.loads(config)) for config in configs]))


if __name__ == "__main__":
    main(*sys.argv[1:])
