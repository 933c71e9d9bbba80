"""Runs one task: the bytes of a task message in, the bytes of its result message out.

Loaded on every core of every node. The SDK is imported only when a task needs it; the runner of
`GlobusComputeExecutor` doesn't.
"""

from __future__ import annotations

import functools
import os
import platform
import time
import traceback
import uuid
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import dill

from parsl_globus.errors import ParslGlobusError, TaskTimedOut, VersionMismatch
from parsl_globus.wire import buffers, payload
from parsl_globus.wire.codec import pack, unpack
from parsl_globus.wire.messages import ActorName, Result, ResultErrorDetails, Task, TaskState, TaskTransition
from parsl_globus.worker import output, runner, sandbox, versions, watch
from parsl_globus.worker.claim import claim

#: As the public endpoint's limit.
RESULT_SIZE_LIMIT_BYTES = 10 * 1024 * 1024


class _ResultTooLargeError(Exception):
    """The encoded result is over the limit."""


class _TakenBackError(Exception):
    """The task is not this worker's any more."""


def run_task(
    body: bytes,
    task_id: str,
    endpoint_id: str | None,
    *,
    run_dir: str,
    mark: str | None = None,
    result_size_limit_bytes: int = RESULT_SIZE_LIMIT_BYTES,
    run_in_sandbox: bool = False,
    task_deserializers: Sequence[str] | None = None,
    result_serializers: Sequence[str] | None = None,
    sender_python: str | None = None,
) -> bytes:
    """Run the task in `body`; never raises, as whatever goes wrong belongs into the result.

    Args:
        body: A packed task message.
        task_id: The task's id; the result carries it even if `body` can't be decoded.
        endpoint_id: Told in the result's details.
        run_dir: Folder in which tasks run.
        mark: Path of a file to make when the task begins. If it is there already, the agent took the task back, and
            it must not begin. A word in it ends the task, see `watch`.
        result_size_limit_bytes: A longer encoded result is an error.
        run_in_sandbox: Whether each task gets a folder of its own below `run_dir`.
        task_deserializers: Strategies by which functions and arguments may be decoded; `None` allows all.
        result_serializers: Strategies for the result, the first that works is taken.
        sender_python: Minor version of the Python that the function comes from, for example "3.12"; `None` if unknown.

    Returns:
        A packed result message.
    """
    buffers.keep_freed()
    began_ns = time.time_ns()
    data: str
    tail = ""
    record: dict[str, Any] | None = None
    error: ResultErrorDetails | None = None
    try:
        try:
            if mark is not None and not claim(mark):
                raise _TakenBackError("The endpoint took this task back before it had begun.")
            output.begin(mark, task_id)
            if mark is not None:
                watch.begin(mark)
            sandbox.enter(run_dir, task_id, own_folder=run_in_sandbox)
            parts = payload.split_buffers(unpack(body, Task).task_buffer, limit=3)
            with sandbox.time_limit(float(os.environ.get("GC_TASK_TIMEOUT") or 0)):  # as the public endpoint's workers
                if parts[0] == _runner_code() and not task_deserializers:
                    # Imported here, so that its text needn't be executed anew for each task.
                    record = runner.parsl_globus_runner(*payload.unpack_runner_call(parts[1]))
                else:
                    data = _run_function(parts, sender_python, task_deserializers, result_serializers)
        finally:
            watch.over()
            tail = output.end()
        if record is not None:
            data = _packed(record, tail)
        if len(data) > result_size_limit_bytes:
            raise _ResultTooLargeError(
                f"The result has {len(data)} bytes when encoded; the limit is {result_size_limit_bytes}."
            )
    except (Exception, SystemExit, watch.TaskCancelledError) as exc:
        watch.over()  # if it came between the task's end and the first
        tail = output.end() or tail
        error = _explain(exc)
        data = error.user_message if isinstance(exc, watch.TaskCancelledError) else _traceback(exc)
        data += output.told(tail)
    result = Result(
        task_id=uuid.UUID(task_id),
        data=data,
        details={**_environment(), **_requested(tail), "endpoint_id": endpoint_id},
        error_details=error,
        task_statuses=[
            TaskTransition(timestamp=began_ns, state=TaskState.EXEC_START, actor=ActorName.WORKER),
            TaskTransition(timestamp=time.time_ns(), state=TaskState.EXEC_END, actor=ActorName.WORKER),
        ],
    )
    try:
        return pack(result)
    except ValueError:
        # Text that is no Unicode: the name of a file in a traceback, for example, may hold any bytes.
        if error is not None:
            result.error_details = ResultErrorDetails(code=error.code, user_message=_readable(error.user_message))
        return pack(result.model_copy(update={"data": _readable(data)}))


def _readable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _traceback(exc: BaseException) -> str:
    """The traceback as text, from where our own frames end.

    They tell the user nothing, and the public SDK takes their word "serializers" for a sign of what went wrong.
    """
    first = exc.__traceback__
    while first is not None and first.tb_frame.f_code.co_filename in (__file__, versions.__file__):
        first = first.tb_next
    return "".join(traceback.format_exception(type(exc), exc, first))


def _explain(exc: BaseException) -> ResultErrorDetails:
    # The codes are the public endpoint's, since the public SDK's users may look at them.
    if isinstance(exc, _ResultTooLargeError):
        return ResultErrorDetails(code="MaxResultSizeExceeded", user_message=str(exc))
    if isinstance(exc, _TakenBackError):
        return ResultErrorDetails(code="TaskLost", user_message=str(exc))
    if isinstance(exc, watch.TaskCancelledError):
        return ResultErrorDetails(code="TaskCancelled", user_message="The task was cancelled while it ran.")
    if isinstance(exc, TaskTimedOut):
        return ResultErrorDetails(code="TaskTimedOut", user_message=str(exc))
    if isinstance(exc, VersionMismatch):
        return ResultErrorDetails(code="VersionMismatch", user_message=str(exc))
    if isinstance(exc, ParslGlobusError):
        return ResultErrorDetails(code="CouldNotExecuteUserTaskError", user_message=str(exc))
    return ResultErrorDetails(
        code="RemoteExecutionError", user_message="An error occurred during the execution of this task"
    )


def _packed(record: dict[str, Any], tail: str) -> str:
    """The runner's record, with the task's last output wherever it tells of a failure."""
    told = output.told(tail)
    for key in ("text", "raised"):
        if told and key in record:
            record[key] += told
    return payload.pack_runner_record(record)


def _run_function(
    buffers: Sequence[str],
    sender_python: str | None,
    task_deserializers: Sequence[str] | None,
    result_serializers: Sequence[str] | None,
) -> str:
    """A function of the public SDK or of anyone else who speaks the protocol."""
    code = versions.usable(buffers[0], sender_python)

    from globus_compute_sdk.serialize import ComputeSerializer

    serializer = ComputeSerializer(allowed_deserializer_types=task_deserializers)
    try:
        function = serializer.deserialize(code)
    except Exception as exc:
        if code is buffers[0]:
            raise
        raise versions.mismatch(sender_python, f"of this one's, {type(exc).__name__}: {exc}") from None
    args, kwargs = (serializer.deserialize(buffer) for buffer in buffers[1:])
    value = function(*args, **kwargs)
    return str(serializer.serialize_from_list(value, result_serializers or ()))


def _requested(tail: str) -> dict[str, str]:
    """The last output of every task, where the workers' environment asks for it."""
    return {"output_tail": tail} if tail and os.environ.get("PARSL_GLOBUS_TASK_OUTPUT") == "always" else {}


@functools.cache
def _runner_code() -> str:
    source = Path(runner.__file__).read_text()
    return payload.split_buffers(payload.pack_runner_code(source), limit=1)[0]


@functools.cache
def _environment() -> dict[str, Any]:
    """What a result says of its worker; the public SDK compares it with its own versions."""
    try:
        sdk_version = version("globus-compute-sdk")
    except PackageNotFoundError:
        sdk_version = "unknown"
    return {
        "os": platform.platform(),
        "hostname": platform.node(),
        "dill_version": dill.__version__,
        "python_version": platform.python_version(),
        "globus_compute_sdk_version": sdk_version,
    }
