"""A workflow that sends a large argument, and then gets a large result, as a process of its own.

`python large_data_workflow.py ENDPOINT_ID SIZE_BYTES THRESHOLD_BYTES`; prints a line of JSON: the most memory that this
process and the worker had, beside what they had before, and how long each took.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import time
import zlib

import parsl
from parsl import Config, python_app

from parsl_globus import GlobusComputeExecutor, connect

PATTERN = bytes(range(256)) * 4096
DEADLINE_S = 240


def peak_bytes() -> int:
    with open("/proc/self/status") as status:
        (line,) = [line for line in status if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


@python_app
def worker_peak():
    return peak_bytes()


@python_app
def checksum(data):
    assert type(data) is bytes
    return len(data), zlib.crc32(data)


@python_app
def make(size):
    pattern = bytes(range(256)) * 4096
    return pattern * (size // len(pattern))


def main(endpoint_id: str, size: int, threshold: int) -> None:
    size -= size % len(PATTERN)
    told: dict[str, float] = {"size": size}
    executor = GlobusComputeExecutor(
        endpoint_id, client=connect(), object_store="service", object_threshold_bytes=threshold
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        parsl.load(Config(executors=[executor], run_dir=folder, initialize_logging=False)),
    ):
        # Whatever is loaded once is loaded.
        assert checksum(b"x" * (2 * threshold)).result(DEADLINE_S)[0] == 2 * threshold
        worker = worker_peak().result(DEADLINE_S)
        here = peak_bytes()
        data = PATTERN * (size // len(PATTERN))
        expected = size, zlib.crc32(data)
        began = time.monotonic()
        assert checksum(data).result(DEADLINE_S) == expected
        told["argument_s"] = time.monotonic() - began
        told["argument_here"] = peak_bytes() - here
        told["argument_worker"] = worker_peak().result(DEADLINE_S) - worker
        del data
        gc.collect()  # Parsl's record of the task and its future refer to each other
        began = time.monotonic()
        data = make(size).result(DEADLINE_S)
        told["result_s"] = time.monotonic() - began
        assert (len(data), zlib.crc32(data)) == expected
        told["both_here"] = peak_bytes() - here
        told["both_worker"] = worker_peak().result(DEADLINE_S) - worker
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
