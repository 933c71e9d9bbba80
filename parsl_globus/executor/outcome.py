"""From what came back for a task to what its future gets."""

from __future__ import annotations

import copy
import re
import uuid
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import Any, Protocol

from parsl_globus.errors import (
    DecodeError,
    EndpointStartFailed,
    FunctionNotAllowed,
    InvalidResourceSpecification,
    NotDeserializable,
    NotSerializable,
    ParslGlobusError,
    ResultTooLarge,
    TaskCancelled,
    TaskFailed,
    TaskLost,
    TaskTimedOut,
    VersionMismatch,
    WorkerLost,
)
from parsl_globus.executor import by_value
from parsl_globus.executor.adoption import unpack_record, unpack_value
from parsl_globus.executor.functions import sender_versions
from parsl_globus.executor.source_code import NotForThisPython
from parsl_globus.wire.documents import TaskStatus
from parsl_globus.wire.messages import Result
from parsl_globus.wire.payload import from_text

#: Takes what came home of a task's monitoring, and the id of the endpoint that ran it; never raises.
Monitor = Callable[[object, str | None], None]

#: Where a future keeps a `Sent` as long as its call may have to go again.
SENT = "parsl_globus_sent"
#: Set for a future whose task runs another function than the runner: its result is no record, but the value.
PLAIN = "parsl_globus_plain"
#: Set for a future whose call went as source.
AS_SOURCE = "parsl_globus_as_source"


class Sent(Protocol):
    """What was sent for a future, see `calls`."""

    def again(self, future: Future[Any], worker: dict[str, str]) -> None:
        """The worker has other versions and did not run it: send it as source, or fail the future."""

    def arrived(self) -> None:
        """A worker could run it."""


#: The public agent reports a dead worker as any other failure; its traceback ends with HTEX's class.
_WORKER_LOST = re.compile(r"^parsl\.\S+\.(WorkerLost|ManagerLost):", re.MULTILINE)

#: As our workers and the public agent's tell it.
_TOO_LARGE = re.compile(
    r"result (?:has|of) (\d{1,18})(?: bytes when encoded; the limit is|B exceeded current limit of) (\d{1,18})(?!\d)"
)

#: As a worker of ours tells it that found it itself, and not the runner.
_MISMATCH = re.compile(r"but the worker with python (\S+)\. .*? as source only: (.*)\. Use the same", re.DOTALL)


def complete_from_message(
    future: Future[Any], result: Result, monitor: Monitor | None = None, *, sent_to: uuid.UUID | None = None
) -> None:
    """Complete `future` with a result message; monitoring records are handed over first.

    Args:
        future: Of the task.
        result: Of the task.
        monitor: Takes the records.
        sent_to: The endpoint that the task was submitted to, for errors that name it.
    """
    if result.error_details is not None:
        fail(future, _failure(result.task_id, result.error_details.code, result.data, sent_to))
    else:
        endpoint_id = (result.details or {}).get("endpoint_id")
        _complete(future, result.task_id, result.data, monitor, str(endpoint_id))


def complete_from_status(
    future: Future[Any], status: TaskStatus, monitor: Monitor | None = None, *, sent_to: uuid.UUID | None = None
) -> None:
    """Complete `future` with what the service says over REST of an ended task; see `complete_from_message`."""
    if status.result is not None:
        _complete(future, status.task_id, status.result, monitor)
    else:
        text = status.exception or status.reason or "The service keeps no result of this task any more."
        fail(future, _failure(status.task_id, status.reason or "RemoteExecutionError", text, sent_to))


def fail(future: Future[Any], error: BaseException) -> None:
    """Fail `future` with an exception object of its own, as Parsl attaches tracebacks to it."""
    try:
        future.set_exception(copy.copy(error) if isinstance(error, ParslGlobusError) else error)
    except InvalidStateError:
        pass  # cancelled, or answered before: results may come twice


def _failure(task_id: uuid.UUID, code: str, text: str, sent_to: uuid.UUID | None) -> ParslGlobusError:
    endpoint_id = None if sent_to is None else str(sent_to)
    if code == "EndpointStartFailed":
        return EndpointStartFailed(endpoint_id=endpoint_id, detail=text)
    if code == "TaskCancelled":
        return TaskCancelled(detail=text)
    if code == "FunctionNotAllowed":
        return FunctionNotAllowed(endpoint_id=endpoint_id, detail=text)
    if code == "TaskTimedOut":
        words = re.search(r"^\S*TaskTimedOut: (.+)$", text, re.MULTILINE)
        return TaskTimedOut(detail=words[1] if words else "")
    if code == "VersionMismatch":  # our own runner came as bytecode, as the lent executor's serializer has it
        words = _MISMATCH.search(text)
        worker, detail = ({"python": words[1]}, words[2]) if words else ({}, text)
        return VersionMismatch(sender=sender_versions(), worker=worker, detail=detail)
    if code == "MaxResultSizeExceeded":
        words = _TOO_LARGE.search(text)
        size_bytes, limit_bytes = (int(words[1]), int(words[2])) if words else (None, None)
        return ResultTooLarge(
            task_id=str(task_id), code=code, remote_traceback=text, size_bytes=size_bytes, limit_bytes=limit_bytes
        )
    kind = _KINDS.get(code, TaskFailed)
    if kind is TaskFailed and _WORKER_LOST.search(text):
        kind = WorkerLost
    return kind(task_id=str(task_id), code=code, remote_traceback=text)


_KINDS: dict[str, type[TaskFailed]] = {
    "InvalidResourceSpecification": InvalidResourceSpecification,
    "TaskLost": TaskLost,
    "WorkerLost": WorkerLost,
}


def _complete(
    future: Future[Any], task_id: uuid.UUID, data: str, monitor: Monitor | None, endpoint_id: str | None = None
) -> None:
    if not getattr(future, PLAIN, False):
        _complete_from_record(future, task_id, data, monitor, endpoint_id)
        return
    try:
        future.set_result(unpack_value(data))
    except InvalidStateError:
        pass  # as in `fail`
    except NotDeserializable as exc:
        fail(future, exc)


def _complete_from_record(
    future: Future[Any],
    task_id: uuid.UUID,
    data: str,
    monitor: Monitor | None = None,
    endpoint_id: str | None = None,
) -> None:
    try:
        record = unpack_record(data)
        if monitor is not None and "monitoring" in record:
            monitor(record["monitoring"], endpoint_id)
        kind = record["kind"]
        sent: Sent | None = vars(future).pop(SENT, None)
        if sent is not None and kind != "mismatch":
            sent.arrived()
        if kind == "value":
            value = _unpickle("the result", record["data"], future)
            try:
                future.set_result(value)
            except InvalidStateError:
                pass  # as in `fail`
        elif kind == "raised":
            fail(future, _raised(task_id, record, future))
        elif kind == "mismatch" and sent is not None:
            sent.again(future, dict(record["worker"]))
        elif kind == "mismatch":
            fail(future, VersionMismatch(sender=sender_versions(), worker=record["worker"]))
        elif kind == "broken" and record["what"] == "the result":
            fail(future, NotSerializable(what=record["what"], detail=record["text"]))
        elif kind == "broken":
            fail(future, NotDeserializable(what=record["what"], detail=record["text"]))
        else:
            raise DecodeError(what="runner record", size_bytes=len(data), detail=f"unknown kind '{kind}'")
    except ParslGlobusError as exc:
        fail(future, exc)
    except Exception as exc:  # noqa: BLE001 - nobody else answers for this future, and others come after it
        fail(future, DecodeError(what="runner record", size_bytes=len(data), detail=f"{type(exc).__name__}: {exc}"))


def _raised(task_id: uuid.UUID, record: dict[str, Any], future: Future[Any]) -> BaseException:
    """The exception the function raised; if it can't come along, its text."""
    told = TaskFailed(task_id=str(task_id), code="RemoteExecutionError", remote_traceback=record["text"])
    if record["data"] is None:
        return told
    try:
        error = _unpickle("the exception", record["data"], future)
    except NotDeserializable as exc:  # where it was raised must not get lost
        detail = f"{exc.detail}\nIt was raised here:\n{record['text']}"
        raise NotDeserializable(what=exc.what, detail=detail) from exc
    if not isinstance(error, Exception):  # SystemExit must end the task, not the workflow
        return told
    try:
        error.__cause__ = told
    except Exception:  # noqa: BLE001 - a frozen dataclass, or whatever its class says to being changed
        return told
    return error


def _unpickle(what: str, text: str, future: Future[Any]) -> Any:
    worker = vars(future).get(AS_SOURCE)
    try:
        return by_value.loads(from_text(text), foreign=worker is not None)
    except NotForThisPython as exc:
        raise VersionMismatch(sender=sender_versions(), worker=worker or {}, detail=f"in {what}, {exc}") from exc
    except Exception as exc:
        raise NotDeserializable(what=what, detail=f"{type(exc).__name__}: {exc}") from exc
