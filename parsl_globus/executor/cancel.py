"""Cancels tasks: those that were not sent yet here, all others by the service and their endpoint."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from enum import Enum
from typing import Any
from weakref import WeakSet

from parsl_globus.client.rest import ServiceClient
from parsl_globus.errors import DecodeError, ExtensionMissing, ServiceError, TaskCancelled
from parsl_globus.executor.batcher import Batcher
from parsl_globus.executor.outcome import fail
from parsl_globus.executor.task_log import TASK_ID, TaskLog
from parsl_globus.wire.documents import EXTENSION_CANCEL

logger = logging.getLogger(__name__)


class CancelOutcome(Enum):
    """What cancelling a task has come to."""

    #: It never runs; its future raises `TaskCancelled`.
    CANCELLED = "cancelled"
    #: Its endpoint was asked. Its future raises `TaskCancelled`, or has the result of a task that ended before it was
    #: reached or that can't be ended where it runs.
    REQUESTED = "requested"
    #: It had ended before.
    FINISHED = "finished"
    #: It is no task of this executor, or not yet one: a Parsl app waits for what it depends on.
    UNKNOWN = "unknown"


class Cancellation:
    """Cancels the tasks of one executor. Thread-safe.

    Args:
        service: Asked to cancel what was sent.
        batcher: Where tasks wait to be sent.
        offered: Whether the service can cancel tasks.
        log: Is told of each task.
    """

    def __init__(self, service: ServiceClient, batcher: Batcher, *, offered: bool, log: TaskLog) -> None:
        self._service = service
        self._batcher = batcher
        self._offered = offered
        self._log = log
        self._lock = threading.Lock()
        #: Tasks whose submission is under way, to be cancelled as soon as they have an id.
        self._late: WeakSet[Future[Any]] = WeakSet()

    def submitted(self, task_ids: Sequence[uuid.UUID], futures: Sequence[Future[Any]]) -> None:
        """These tasks have ids now; those that were cancelled meanwhile are cancelled now."""
        with self._lock:
            for task_id, future in zip(task_ids, futures, strict=True):
                setattr(future, TASK_ID, task_id)
            if not self._late:
                return
            late = {task_id: future for task_id, future in zip(task_ids, futures, strict=True) if future in self._late}
            self._late.difference_update(futures)
        # Not here: this is the thread that submits, and the service may take its time or be away.
        if late:
            threading.Thread(target=self._cancel_late, args=(late,), name="cancel-late", daemon=True).start()

    def _cancel_late(self, late: Mapping[uuid.UUID, Future[Any]]) -> None:
        try:
            self._service.cancel(list(late))
            return
        except (ServiceError, DecodeError) as exc:
            logger.warning("%d tasks that were cancelled while they were sent will run: %s", len(late), exc)
        except Exception:
            # As when the executor was shut down meanwhile; nobody waits for this thread.
            logger.exception("%d tasks that were cancelled while they were sent will run", len(late))
        for future in late.values():
            self._log.runs_on(future)

    def resubmitted(self, future: Future[Any]) -> None:
        """This future's task has ended, and another one is about to be submitted for it."""
        with self._lock:
            vars(future).pop(TASK_ID, None)

    def cancel(self, targets: Sequence[Future[Any] | uuid.UUID | str]) -> list[CancelOutcome]:
        """Cancel tasks; see `GlobusComputeExecutor.cancel`."""
        futures = [_executor_future(target) for target in targets]
        for future in futures:
            if future is not None and not future.done() and hasattr(future, "parsl_executor_task_id"):
                self._log.cancelled(future)
        withdrawn = {id(one) for one in self._batcher.withdraw([one for one in futures if one is not None])}
        outcomes: list[CancelOutcome | uuid.UUID] = []
        for target, future in zip(targets, futures, strict=True):
            if future is not None and id(future) in withdrawn:
                fail(future, TaskCancelled(detail="it had not been sent yet."))
                outcomes.append(CancelOutcome.CANCELLED)
            elif future is not None:
                outcomes.append(self._look_up(future))
            else:
                outcomes.append(CancelOutcome.UNKNOWN if isinstance(target, Future) else uuid.UUID(str(target)))
        ids = [outcome for outcome in outcomes if isinstance(outcome, uuid.UUID)]
        if not self._offered and (ids or CancelOutcome.REQUESTED in outcomes):
            raise ExtensionMissing(
                extension=EXTENSION_CANCEL,
                url=self._service.url,
                detail=f"{len(withdrawn)} of {len(targets)} tasks had not been sent yet and are cancelled; the others "
                "that have not ended run on.",
            )
        answers = self._service.cancel(ids) if ids else {}
        return [
            outcome if isinstance(outcome, CancelOutcome) else CancelOutcome(answers.get(outcome, "unknown"))
            for outcome in outcomes
        ]

    def _look_up(self, future: Future[Any]) -> CancelOutcome | uuid.UUID:
        """The id by which the service can cancel this task, or what is to be said instead."""
        if future.done():
            return CancelOutcome.FINISHED
        with self._lock:
            task_id: uuid.UUID | None = getattr(future, TASK_ID, None)
            if task_id is not None:
                return task_id
            if not hasattr(future, "parsl_executor_task_id"):
                return CancelOutcome.UNKNOWN
            if self._offered:
                self._late.add(future)
            return CancelOutcome.REQUESTED


def _executor_future(target: Future[Any] | uuid.UUID | str) -> Future[Any] | None:
    """The future that `submit` gave for this one, as Parsl gives out its own; `None` for ids, or if there is none."""
    if not isinstance(target, Future):
        return None
    record = getattr(target, "task_record", None)  # of Parsl's AppFuture
    if record is None:
        return target
    inner = record.get("exec_fu")
    return inner if isinstance(inner, Future) else (target if target.done() else None)
