from __future__ import annotations

import os
import signal
import uuid
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from globus_compute_sdk.serialize import ComputeSerializer

from parsl_globus.errors import TaskTimedOut
from parsl_globus.executor.functions import Encoder, runner_registration
from parsl_globus.executor.outcome import complete_from_message
from parsl_globus.wire.codec import pack, unpack
from parsl_globus.wire.messages import Result, Task
from parsl_globus.worker.run import run_task

TASK_ID = uuid.UUID("7c1b7d5e-3a4f-4bd1-8a8e-0d9c43c5d2c1")


@pytest.fixture(autouse=True)
def _come_back(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("GC_TASK_UUID", "GC_TASK_SANDBOX_DIR", "GC_TASK_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)


def run(task_buffer, tmp_path, **options) -> Result:
    body = pack(Task(task_id=TASK_ID, task_buffer=task_buffer))
    result = unpack(run_task(body, str(TASK_ID), "an-endpoint", run_dir=str(tmp_path / "tasks"), **options), Result)
    assert result.task_id == TASK_ID
    assert result.details["endpoint_id"] == "an-endpoint"
    assert [transition.state.value for transition in result.task_statuses] == ["execution-start", "execution-end"]
    return result


def public(function, *args, **kwargs) -> str:
    """A task as the public SDK packs it."""
    serializer = ComputeSerializer()
    return serializer.pack_buffers([serializer.serialize(part) for part in (function, args, kwargs)])


def ours(function, *args, **kwargs) -> str:
    return runner_registration().function_code + str(Encoder().encode(function, args, kwargs))


def value(result):
    future: Future = Future()
    complete_from_message(future, result)
    return future.result(0)


def test_a_function_of_the_public_sdk(tmp_path):
    result = run(public(lambda x, y: x * y, 6, y=7), tmp_path)
    assert result.error_details is None
    assert ComputeSerializer().deserialize(result.data) == 42


def test_text_that_is_no_unicode_is_told_nevertheless(tmp_path):
    def fail():
        raise OSError("\udce9.txt is not here")

    assert r"\udce9.txt is not here" in run(public(fail), tmp_path).data


def test_a_function_of_the_public_sdk_that_raises(tmp_path):
    result = run(public(lambda: 1 / 0), tmp_path)
    assert result.error_details.code == "RemoteExecutionError"
    assert "ZeroDivisionError" in result.data


def test_result_serializers_are_used(tmp_path):
    result = run(public(lambda: [1]), tmp_path, result_serializers=["globus_compute_sdk.serialize.JSONData"])
    assert result.data == "11\n[1]"


def test_only_allowed_deserializers(tmp_path):
    allowed = ["globus_compute_sdk.serialize.PureSourceTextInspect", "globus_compute_sdk.serialize.JSONData"]
    result = run(public(abs, -1), tmp_path, task_deserializers=allowed)
    assert "disabled by current" in result.data
    assert value(run(ours(abs, -1), tmp_path, task_deserializers=allowed, result_serializers=allowed[1:])) == 1


def test_a_call_of_the_runner(tmp_path):
    assert value(run(ours(lambda x: x + 1, 1), tmp_path)) == 2
    with pytest.raises(ZeroDivisionError):
        value(run(ours(lambda: 1 / 0), tmp_path))


def test_runs_in_its_folder_and_knows_its_id(tmp_path):
    look = lambda: (os.getcwd(), os.environ["GC_TASK_UUID"], os.environ.get("GC_TASK_SANDBOX_DIR"))  # noqa: E731
    assert value(run(ours(look), tmp_path)) == (str(tmp_path / "tasks"), str(TASK_ID), None)
    own = str(tmp_path / "tasks" / str(TASK_ID))
    assert value(run(ours(look), tmp_path, run_in_sandbox=True)) == (own, str(TASK_ID), own)


def test_leaves_a_mark_when_it_begins(tmp_path):
    mark = tmp_path / "mark"
    assert value(run(ours(os.path.exists, str(mark)), tmp_path, mark=str(mark))) is True


def test_a_task_that_was_taken_back_does_not_begin(tmp_path):
    mark = tmp_path / "mark"
    mark.touch()
    result = run(ours(os.unlink, str(mark)), tmp_path, mark=str(mark))
    assert result.error_details.code == "TaskLost"
    assert mark.exists()


def test_a_result_over_the_limit_is_told_with_both_sizes(tmp_path):
    result = run(ours(lambda: "x" * 5000), tmp_path, result_size_limit_bytes=1000)
    assert result.error_details.code == "MaxResultSizeExceeded"
    assert "limit is 1000" in result.error_details.user_message


def sleep_long():
    import time

    time.sleep(60)


def spin():
    while True:
        pass


def test_a_task_time_limit_interrupts_even_a_sleep(tmp_path, monkeypatch):
    monkeypatch.setenv("GC_TASK_TIMEOUT", "0.2")
    result = run(public(sleep_long), tmp_path)
    assert result.error_details.code == "TaskTimedOut"
    with pytest.raises(TaskTimedOut, match="^The task ran longer than 0.2 s.$"):
        value(result)
    with pytest.raises(TaskTimedOut, match="^The task ran longer than 0.2 s.$"):
        value(run(ours(sleep_long), tmp_path))


def test_a_task_time_limit_outside_the_main_thread(tmp_path, monkeypatch):
    monkeypatch.setenv("GC_TASK_TIMEOUT", "0.2")
    with ThreadPoolExecutor(1) as pool:
        assert "TaskTimedOut" in pool.submit(run, public(spin), tmp_path).result(20).data


def test_a_task_within_its_time_limit(tmp_path, monkeypatch):
    monkeypatch.setenv("GC_TASK_TIMEOUT", "30")
    before = signal.getsignal(signal.SIGALRM)
    assert value(run(ours(abs, -1), tmp_path)) == 1
    assert signal.getsignal(signal.SIGALRM) is before


@pytest.mark.parametrize("body", [b"", b"\x01{}", b"\x01garbage"])
def test_bytes_that_are_no_task_are_a_failed_result(body, tmp_path):
    result = unpack(run_task(body, str(TASK_ID), None, run_dir=str(tmp_path)), Result)
    assert result.error_details.code == "CouldNotExecuteUserTaskError"


@pytest.mark.parametrize("buffer", ["", "3\nabc", "nonsense", "5\nst\nx:"])
def test_a_buffer_that_is_no_call_is_a_failed_result(buffer, tmp_path):
    assert run(buffer, tmp_path).error_details is not None


def test_a_folder_that_can_t_be_made_is_a_failed_result(tmp_path):
    (tmp_path / "tasks").write_text("in the way")
    assert "tasks" in run(ours(abs, 1), tmp_path).data
