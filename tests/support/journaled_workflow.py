"""A workflow that may be killed and started again: `python journaled_workflow.py ENDPOINT_ID FOLDER COUNT`.

Prints "submitted" when its tasks are handed over, a line for each that ends, and at last one of JSON with all values.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import parsl
from parsl import Config, python_app

from parsl_globus import GlobusComputeExecutor


@python_app
def double_once(number, folder, gate=None, heals=False):
    """Twice the number; leaves a file that can be made once only, and waits for a gate. Some fail until healed."""
    import os
    import time

    if heals and not os.path.exists(f"{folder}/healed"):
        open(f"{folder}/failed-{number}", "x").close()
        raise RuntimeError("not yet healed")
    try:
        os.close(os.open(f"{folder}/{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        os.close(os.open(f"{folder}/again-{number}-{os.getpid()}", os.O_CREAT | os.O_WRONLY, 0o600))
    while gate is not None and not os.path.exists(gate):
        time.sleep(0.02)
    return 2 * number


def options_of(number: int, folder: str, count: int) -> dict[str, object]:
    """Some fail at first, of each kind; some wait for a gate, and the last ones for another."""
    gate = f"{folder}/last" if number >= count - 10 else f"{folder}/second" if number >= count // 2 else None
    return {"gate": gate, "heals": number % (count // 4) == 5}


def main() -> None:
    endpoint_id, folder, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    writing = threading.Lock()

    def tell(line: str) -> None:
        with writing:
            print(line, flush=True)

    executor = GlobusComputeExecutor(endpoint_id, label="site", journal=Path(folder, "run.journal"))
    config = Config(executors=[executor], run_dir=f"{folder}/runinfo", initialize_logging=False, exit_mode="skip")
    with parsl.load(config):
        futures = [double_once(number, folder, **options_of(number, folder, count)) for number in range(count)]
        for number, future in enumerate(futures):
            future.add_done_callback(lambda _, number=number: tell(f"ended {number}"))
        tell("submitted")
        errors = [future.exception() for future in futures]
        pairs = zip(errors, futures, strict=True)
        tell(json.dumps([type(error).__name__ if error else future.result() for error, future in pairs]))


if __name__ == "__main__":
    main()
