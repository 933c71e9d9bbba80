"""Results that the agent itself gives for a task: in the worker's format, so that callers need no second path."""

from __future__ import annotations

import time
import uuid

from parsl_globus.wire.codec import pack
from parsl_globus.wire.messages import ActorName, Result, ResultErrorDetails, TaskState, TaskTransition

#: Codes of these results. `WorkerLost` and `TaskLost` are told apart by the executor, as a retry may help.
WORKER_LOST = "WorkerLost"
TASK_LOST = "TaskLost"
ENGINE_FAILED = "EngineFailed"
MALFORMED_TASK = "MalformedTask"
FUNCTION_NOT_ALLOWED = "FunctionNotAllowed"
TASK_CANCELLED = "TaskCancelled"
BAD_RESOURCE_SPECIFICATION = "InvalidResourceSpecification"


def failure(task_id: uuid.UUID, code: str, text: str) -> bytes:
    """A packed result that says why the task has no value."""
    return pack(
        Result(
            task_id=task_id,
            data=text,
            error_details=ResultErrorDetails(code=code, user_message=text),
            task_statuses=[
                TaskTransition(timestamp=time.time_ns(), state=TaskState.EXEC_END, actor=ActorName.INTERCHANGE)
            ],
        )
    )
