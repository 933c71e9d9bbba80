"""Log records about single tasks, each with the task's id in Parsl, its id at the service, and its endpoint.

They are in Parsl's own log, `parsl.log` in the folder of the run, beside what Parsl says of the same task. A program
that reads records finds the facts as their attributes, by the names that Parsl uses, `globus_compute.task` and
`globus_compute.endpoint`.
"""

from __future__ import annotations

import functools
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from parsl.app.errors import RemoteExceptionWrapper

#: Below Parsl's logger, which has the file.
logger = logging.getLogger(f"parsl.{__name__}")

#: Where a future keeps its task's id at the service, once it has one.
TASK_ID = "globus_task_id"
_LONGEST_REASON = 200


class TaskFuture(Future[Any]):
    """What the executor gives for a call: it learns which task of Parsl's it stands for.

    Nobody tells an executor that. But the DataFlowKernel, as soon as it has a future, asks to be called back with the
    task's record: `functools.partial(self.handle_exec_update, task_record)`. If it does so in another way some day,
    records are without this id; a test tells.

    Attributes:
        parsl_task: Parsl's task id and try; `None` if it isn't Parsl's, or not yet known.
        task_log: Told when it becomes known.
        parsl_executor_task_id: The executor's own name of the task, which Parsl has in its records, too.
    """

    parsl_executor_task_id: str
    parsl_task: tuple[int, int] | None = None
    task_log: TaskLog | None = None

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        """As of any future."""
        if self.parsl_task is None:
            self.parsl_task = _parsl_task(fn)
            if self.parsl_task is not None and self.task_log is not None:
                self.task_log.known(self)
        super().add_done_callback(fn)


def _parsl_task(callback: Callable[..., object]) -> tuple[int, int] | None:
    if not isinstance(callback, functools.partial) or not callback.args:
        return None
    record = callback.args[0]
    if not isinstance(record, Mapping):
        return None
    task_id, attempt = record.get("id"), record.get("try_id")
    return (task_id, attempt) if isinstance(task_id, int) and isinstance(attempt, int) else None


class TaskLog:
    """Writes the records of one executor's tasks. Thread-safe.

    Args:
        label: Of the executor.
        endpoint_id: Where its tasks go.
        run_id: Of the workflow, if it is Parsl's.
    """

    def __init__(self, label: str, endpoint_id: uuid.UUID, run_id: str | None) -> None:
        self._label = label
        self._endpoint_id = endpoint_id
        self._run_id = run_id

    def follow(self, future: TaskFuture) -> None:
        """Write a record when the task ends, too."""
        if logger.isEnabledFor(logging.INFO):
            future.task_log = self
            future.add_done_callback(self._ended)

    def submitted(self, task_ids: Sequence[uuid.UUID], futures: Sequence[Future[Any]]) -> None:
        """The service has taken these."""
        for task_id, future in zip(task_ids, futures, strict=True):
            setattr(future, TASK_ID, task_id)
        if logger.isEnabledFor(logging.DEBUG):
            for future in futures:
                self._write(logging.DEBUG, future, "submitted")

    def known(self, future: TaskFuture) -> None:
        """Which task of Parsl's it is has come out; the service may have been faster, and its record is without it."""
        if hasattr(future, TASK_ID):
            self._write(logging.DEBUG, future, "submitted")

    def again(self, future: Future[Any], why: str) -> None:
        """The task has ended without a result, and another one is submitted for it."""
        self._write(logging.INFO, future, "submitted again, %s", why)

    def cancelled(self, future: Future[Any]) -> None:
        """The user wants it to end."""
        self._write(logging.INFO, future, "to be cancelled")

    def runs_on(self, future: Future[Any]) -> None:
        """It was to be cancelled and could not be."""
        self._write(logging.WARNING, future, "was cancelled while it was sent, and will run")

    def _ended(self, future: Future[Any]) -> None:
        if future.cancelled():
            self._write(logging.INFO, future, "cancelled before it was sent")
            return
        error = future.exception()
        if error is None and isinstance(future.result(), RemoteExceptionWrapper):
            error = future.result().e_value  # what an app of Parsl raised; Parsl raises it again
        if error is None:
            self._write(logging.DEBUG, future, "done")
        else:
            self._write(logging.INFO, future, "failed: %s: %s", type(error).__name__, _first_line(error))

    def _write(self, level: int, future: Future[Any], what: str, *args: object) -> None:
        if not logger.isEnabledFor(level):
            return
        parsl_id, attempt = getattr(future, "parsl_task", None) or ("-", "-")
        task_id = getattr(future, TASK_ID, "-")
        logger.log(
            level,
            f"%s: Parsl task %s try %s, task %s, endpoint %s: {what}",
            self._label,
            parsl_id,
            attempt,
            task_id,
            self._endpoint_id,
            *args,
            extra={
                "parsl.dfk": self._run_id,
                "parsl.task": parsl_id,
                "parsl.try": attempt,
                "parsl.executor": self._label,
                "parsl.executor_task": getattr(future, "parsl_executor_task_id", None),
                "globus_compute.task": str(task_id),
                "globus_compute.endpoint": str(self._endpoint_id),
            },
        )


def _first_line(error: BaseException) -> str:
    try:
        return (str(error).strip().splitlines() or [""])[0][:_LONGEST_REASON]
    except Exception:  # noqa: BLE001 - a class of the user's, which may fail in any way
        return "(it can't be told)"
