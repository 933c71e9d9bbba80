from __future__ import annotations

import uuid
from concurrent.futures import Future
from dataclasses import dataclass

import dill
import pytest

from parsl_globus import errors
from parsl_globus.executor.outcome import complete_from_message, complete_from_status, fail
from parsl_globus.wire.documents import TaskStatus
from parsl_globus.wire.messages import Result, ResultErrorDetails
from parsl_globus.wire.payload import pack_runner_record, to_text

TASK_ID = uuid.uuid4()


def of_record(**record) -> Future:
    future: Future = Future()
    complete_from_message(future, Result(task_id=TASK_ID, data=pack_runner_record(record)))
    return future


def of_failure(code, text="what was said", *, by_status=False) -> BaseException:
    future: Future = Future()
    if by_status:
        complete_from_status(future, TaskStatus(task_id=TASK_ID, status="failed", exception=text, reason=code))
    else:
        details = ResultErrorDetails(code=code, user_message="")
        complete_from_message(future, Result(task_id=TASK_ID, data=text, error_details=details))
    return future.exception(0)


def pickled(value) -> str:
    return to_text(dill.dumps(value))


def test_a_value():
    assert of_record(kind="value", data=pickled([1, 2])).result(0) == [1, 2]


def test_an_exception_with_where_it_was_raised():
    error = of_record(kind="raised", data=pickled(KeyError("k")), text="Traceback of the worker").exception(0)
    assert isinstance(error, KeyError)
    assert isinstance(error.__cause__, errors.TaskFailed)
    assert "Traceback of the worker" in str(error.__cause__)


def test_an_exit_ends_the_task_and_not_the_workflow():
    error = of_record(kind="raised", data=pickled(SystemExit(3)), text="SystemExit: 3").exception(0)
    assert isinstance(error, errors.TaskFailed)
    assert error.task_id == str(TASK_ID)


@dataclass(frozen=True)
class _FrozenError(Exception):
    pass


def test_an_exception_that_can_t_be_changed_ends_its_future_all_the_same():
    future = of_record(kind="raised", data=pickled(_FrozenError()), text="where it was")
    error = future.exception(0)
    # As the version of Python has it, such an exception can't be unpickled either.
    assert isinstance(error, (errors.TaskFailed, errors.NotDeserializable))
    assert "where it was" in str(error)


def test_whatever_goes_wrong_on_completion_ends_the_future():
    class Odd(Future):
        def set_result(self, _result):
            raise ZeroDivisionError

    future = Odd()
    result = Result(task_id=uuid.uuid4(), data=pack_runner_record({"kind": "value", "data": pickled(1)}))
    complete_from_message(future, result)
    assert isinstance(future.exception(0), errors.DecodeError)


def test_another_python():
    error = of_record(kind="mismatch", worker={"python": "3.12", "parsl": "x"}).exception(0)
    assert isinstance(error, errors.VersionMismatch)
    assert error.worker["python"] == "3.12"
    assert "python" in error.sender


@pytest.mark.parametrize("by_status", [False, True], ids=["stream", "reconciled"])
def test_another_python_that_the_worker_found_before_the_runner_ran(by_status):
    told = errors.VersionMismatch(sender={"python": "3.9"}, worker={"python": "3.12"}, detail="first\n* second")
    error = of_failure("VersionMismatch", f"parsl_globus.errors.VersionMismatch: {told}\n", by_status=by_status)
    assert isinstance(error, errors.VersionMismatch)
    assert (error.worker, error.detail) == ({"python": "3.12"}, "first\n* second")
    unclear = of_failure("VersionMismatch", "what was said", by_status=by_status)
    assert isinstance(unclear, errors.VersionMismatch)
    assert "what was said" in str(unclear)


@pytest.mark.parametrize(
    ("what", "kind"),
    [("the result", errors.NotSerializable), ("the function", errors.NotDeserializable)],
)
def test_what_could_not_be_pickled_or_unpickled(what, kind):
    error = of_record(kind="broken", what=what, text="why").exception(0)
    assert type(error) is kind
    assert error.what == what


@pytest.mark.parametrize(
    "record",
    [
        {"kind": "value"},
        {"kind": "value", "data": 7},
        {"kind": "value", "data": "no base64!"},
        {"kind": "unheard of"},
        {"kind": "broken"},
        {"kind": "mismatch"},
    ],
)
def test_a_malformed_record_fails_its_future(record):
    assert isinstance(of_record(**record).exception(0), errors.ParslGlobusError)


def test_a_value_that_can_t_be_unpickled_here():
    error = of_record(kind="value", data=to_text(b"cno_such_module\nthing\n.")).exception(0)
    assert isinstance(error, errors.NotDeserializable)
    assert "no_such_module" in error.detail


@pytest.mark.parametrize("by_status", [False, True], ids=["stream", "reconciled"])
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("RemoteExecutionError", errors.TaskFailed),
        ("MaxResultSizeExceeded", errors.ResultTooLarge),
        ("WorkerLost", errors.WorkerLost),
        ("TaskLost", errors.TaskLost),
        ("EndpointStartFailed", errors.EndpointStartFailed),
        ("TaskCancelled", errors.TaskCancelled),
        ("FunctionNotAllowed", errors.FunctionNotAllowed),
    ],
)
def test_a_failure_has_its_type(code, kind, by_status):
    error = of_failure(code, by_status=by_status)
    assert type(error) is kind
    assert "what was said" in str(error)


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("The result has 12 bytes when encoded; the limit is 9.", (12, 9)),
        ("Traceback ...\nMaxResultSizeExceeded: Task result of 12B exceeded current limit of 9B", (12, 9)),
        ("It is 12 too large.", (None, None)),
        ("The result has " + 5000 * "1" + " bytes when encoded; the limit is 9.", (None, None)),
    ],
    ids=["ours", "public agent", "unclear", "more digits than Python reads"],
)
def test_the_size_of_a_large_result_and_the_limit(text, sizes):
    error = of_failure("MaxResultSizeExceeded", text)
    assert (error.size_bytes, error.limit_bytes) == sizes


def test_a_dead_worker_of_the_public_agent_is_told_by_its_traceback():
    text = "Traceback ...\nparsl.executors.high_throughput.errors.WorkerLost: Task failure due to loss of worker 0"
    assert isinstance(of_failure("RemoteExecutionError", text), errors.WorkerLost)


def test_a_status_without_anything_is_told():
    future: Future = Future()
    complete_from_status(future, TaskStatus(task_id=TASK_ID, status="failed"))
    assert "keeps no result" in str(future.exception(0))


def test_an_answered_future_stays_as_it_was():
    future = of_record(kind="value", data=pickled(1))
    fail(future, errors.ExecutorShutDown(label="x"))
    complete_from_message(
        future, Result(task_id=TASK_ID, data=pack_runner_record({"kind": "value", "data": pickled(2)}))
    )
    assert future.result(0) == 1


def test_each_future_gets_an_error_of_its_own():
    error = errors.ExecutorShutDown(label="x")
    futures: list[Future] = [Future(), Future()]
    for future in futures:
        fail(future, error)
    assert futures[0].exception() is not futures[1].exception()
