"""The messages on the broker: globus-compute-common's own, under the names this package uses."""

from __future__ import annotations

from globus_compute_common.messagepack import Message
from globus_compute_common.messagepack.message_types import (
    EPStatusReport,
    Result,
    ResultErrorDetails,
    Task,
    TaskTransition,
)
from globus_compute_common.tasks import ActorName, TaskState

__all__ = (
    "ActorName",
    "EPStatusReport",
    "Message",
    "Result",
    "ResultErrorDetails",
    "Task",
    "TaskState",
    "TaskTransition",
)
