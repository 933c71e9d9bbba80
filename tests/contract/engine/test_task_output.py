"""What a task writes is told with its failure, by real workers of both kinds."""

from __future__ import annotations

import uuid

import pytest
from globus_compute_sdk.serialize import ComputeSerializer

from parsl_globus.endpoint import outputs
from parsl_globus.endpoint.engine import RUN_TASK, EngineTask
from parsl_globus.wire.codec import pack, unpack
from parsl_globus.wire.messages import Result, Task
from parsl_globus.worker import output

DEADLINE_S = 90


@pytest.fixture(scope="module", params=["htex", "processes"])
def engine(request, started):
    return started(request.param, RUN_TASK)


def submit(engine, function, *args):
    serializer = ComputeSerializer()
    buffers = serializer.pack_buffers([serializer.serialize(part) for part in (function, args, {})])
    task_id = uuid.uuid4()
    return engine.submit(EngineTask(task_id, pack(Task(task_id=task_id, task_buffer=buffers))))


def result(engine, function, *args):
    return unpack(submit(engine, function, *args).result(DEADLINE_S), Result)


def speak_and_fail(kind):
    import os
    import subprocess
    import sys

    print("printed")
    print("to stderr", file=sys.stderr)
    subprocess.run(["echo", "by a command"], check=True)
    os.write(1, b"raw\n")
    if kind == "much":
        print("x" * 1_000_000 + "the end")
    if kind == "die":
        sys.stdout.flush()
        os._exit(3)
    if kind == "fail":
        raise ValueError("as told")
    return kind


def test_a_failure_tells_the_last_output(engine):
    failed = result(engine, speak_and_fail, "fail")
    assert failed.error_details.code == "RemoteExecutionError"
    head, told = failed.data.split("The last output of the task was:")
    assert "ValueError: as told" in head
    # A command and raw writes come before what Python still has in its buffer.
    assert sorted(told.split("\n")) == ["", "", "by a command", "printed", "raw", "to stderr"]


def test_a_value_tells_none_and_the_next_failure_only_its_own(engine):
    assert result(engine, speak_and_fail, "much").error_details is None
    data = result(engine, divide, 0).data
    assert "ZeroDivisionError" in data
    assert "last output" not in data


def divide(x):
    return 1 / x


def test_a_dead_worker_leaves_its_task_s_output(engine):
    error = submit(engine, speak_and_fail, "die").exception(DEADLINE_S)
    assert error.code == "WorkerLost"
    assert "The last output of the task was:" in str(error)
    assert "by a command\nraw" in str(error)
    assert result(engine, speak_and_fail, "on").error_details is None
    left = [path.read_bytes() for path in (engine.folder / output.FOLDER).iterdir()]
    assert not any(b"raw" in text for text in left)


def test_both_sides_know_the_folder():
    assert (outputs.FOLDER, outputs.TAIL_BYTES) == (output.FOLDER, output.TAIL_BYTES)
