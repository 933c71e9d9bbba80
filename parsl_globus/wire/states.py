"""The states a task goes through in the service, their order and which are final."""

from __future__ import annotations

import enum


class TaskStage(str, enum.Enum):
    """Where a task stands, as the service knows it. The values are what `status` says over REST.

    `received` and `waiting-for-ep` are the public service's words (globus-compute-common's `TaskState`); `success`
    and `failed` are the two the public SDK takes as finished.
    """

    RECEIVED = "received"
    PUBLISHED = "waiting-for-ep"
    SUCCESS = "success"
    FAILED = "failed"

    @property
    def final(self) -> bool:
        """Whether the task has ended; nothing changes after that."""
        return self in (TaskStage.SUCCESS, TaskStage.FAILED)

    def may_become(self, later: TaskStage) -> bool:
        """Whether `later` can follow: forward only, and an ended task stays as it ended."""
        return not self.final and _ORDER[later] >= _ORDER[self]


_ORDER = {stage: position for position, stage in enumerate(TaskStage)}
