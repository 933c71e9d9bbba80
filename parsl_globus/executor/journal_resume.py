"""Takes up the tasks of an earlier run: results that came meanwhile, tasks under way, and what must run again."""

from __future__ import annotations

import functools
import logging
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from typing import Any

from parsl.app.errors import RemoteExceptionWrapper

from parsl_globus.client.rest import STATUS_BATCH
from parsl_globus.errors import NotAuthorized, RequestRefused, SubmissionUncertain
from parsl_globus.executor.batcher import Batcher, Waiting
from parsl_globus.executor.journal import Entry, Journal, entry_of
from parsl_globus.executor.journal_file import Batch
from parsl_globus.executor.outcome import PLAIN, complete_from_status, fail
from parsl_globus.wire.documents import Submitted, TaskStatus

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Service:
    """What is asked of the service.

    Attributes:
        statuses: Where tasks stand, at most `STATUS_BATCH` of them.
        post: Submits: group, payloads and idempotency key to the reply.
        submitted: Takes tasks that are with the service: task ids and futures.
        idempotent: Whether it recognises a repeated submission by its key.
    """

    statuses: Callable[[Iterable[uuid.UUID]], dict[uuid.UUID, TaskStatus]]
    post: Callable[[tuple[str, str], list[str], uuid.UUID | None], Submitted]
    submitted: Callable[[Sequence[uuid.UUID], Sequence[Future[Any]]], None]
    idempotent: bool


class Resumption:
    """Takes up tasks; on the batcher's thread only, before what is left is submitted.

    Args:
        journal: What is known of an earlier run.
        batcher: Asks patiently.
        service: Is asked.
        label: Of the executor, for messages.
    """

    def __init__(self, journal: Journal, batcher: Batcher, service: Service, *, label: str) -> None:
        self._journal = journal
        self._batcher = batcher
        self._service = service
        self._label = label

    def __call__(self, batch: list[Waiting]) -> list[Waiting]:
        """Answer for, or watch, those that were submitted before.

        Returns:
            What is to be submitted, in order.

        Raises:
            ParslGlobusError: The service doesn't answer; the futures that are not done are the caller's.
        """
        old = [task for task in batch if task.resumed]
        if not old:
            return batch
        counts: Counter[str] = Counter()
        # Looked at once, as results come meanwhile.
        answered = {id(task): _entry(task).answered for task in old}
        again = self._answered([task for task in old if answered[id(task)]], counts)
        others = [task for task in old if not answered[id(task)]]
        self._learn_ids([task for task in others if _entry(task).task_id is None])
        again += [task for task in others if _entry(task).task_id is None and not task.future.done()]
        again += self._ask([task for task in others if _entry(task).task_id is not None], counts)
        for task in again:
            self._journal.renew(task.future)
        counts["run again"] = len(again)
        told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        logger.info("%s: %d tasks of before: %s", self._label, len(old), told or "uncertain")
        unwanted = {id(task) for task in old} - {id(task) for task in again}
        return [task for task in batch if id(task) not in unwanted]

    def _answered(self, tasks: list[Waiting], counts: Counter[str]) -> list[Waiting]:
        """Complete those whose results are in the journal; what of it is none is given back."""
        again = []
        for task in tasks:
            entry = _entry(task)
            text = self._journal.file.result(entry.key)
            task_id = entry.task_id or uuid.UUID(int=0)
            if text is not None and _succeed(task.future, TaskStatus(task_id=task_id, status="success", result=text)):
                counts["have results in the journal"] += 1
            else:
                again.append(task)
        return again

    # ---- submissions without an answer ---------------------------------------------------------------------------

    def _learn_ids(self, tasks: list[Waiting]) -> None:
        """Have the service say which tasks it made of these, if any."""
        for number in {_entry(task).batch for task in tasks}:
            assert number is not None
            batch = self._journal.file.batch(number)
            mine = [task for task in tasks if _entry(task).batch == number]
            if batch is None:
                continue
            if batch.key is None or not self._service.idempotent:
                for task in mine:
                    fail(task.future, SubmissionUncertain(detail="the workflow ended while it was under way"))
                continue
            calls = self._journal.of_batch(number, [task.future for task in mine])
            reply = self._repeat(batch)
            if reply is not None:
                self._journal.learn(_with_ids(calls, reply), reply.task_group_id)

    def _repeat(self, batch: Batch) -> Submitted | None:
        """Send it again, with the same key: what was taken before is not taken twice."""
        what = f"repetition of a submission of {len(batch.payloads)} tasks"
        try:
            return self._batcher.insist(
                lambda: self._service.post(batch.group, batch.payloads, batch.key), what=what, repeatable=True
            )
        except RequestRefused as exc:
            if exc.transient or exc.http_status >= 500 or isinstance(exc, NotAuthorized):
                raise
            logger.warning("%s: a submission of before is refused, so it was never taken: %s", self._label, exc)
            return None

    # ---- tasks with the service ----------------------------------------------------------------------------------

    def _ask(self, tasks: list[Waiting], counts: Counter[str]) -> list[Waiting]:
        """Answer for those that have ended well and watch those that have not ended; the others are given back."""
        if not tasks:
            return []
        by_id = {task_id: task for task in tasks if (task_id := _entry(task).task_id) is not None}
        statuses = self._statuses(list(by_id))
        # An unknown task may have been overlooked, and running it twice is worse than asking twice.
        statuses.update(self._statuses([task_id for task_id in by_id if task_id not in statuses]))
        ended = {task_id: status for task_id, status in statuses.items() if status.has_ended}
        self._journal.answered((task_id, status.result) for task_id, status in ended.items() if status.result)
        again: list[Waiting] = []
        failed = 0
        under_way: list[uuid.UUID] = []
        for task_id, task in by_id.items():
            if task_id in statuses and task_id not in ended:
                under_way.append(task_id)
            elif task_id in ended and _succeed(task.future, ended[task_id]):
                counts["had ended"] += 1
            else:
                again.append(task)
                failed += task_id in ended and (ended[task_id].exception or ended[task_id].result) is not None
        if again:
            text = "%s: %d tasks of before had failed, and of %d the service keeps no result; they run again"
            logger.warning(text, self._label, failed, len(again) - failed)
        if under_way:
            counts["are under way"] += len(under_way)
            self._service.submitted(under_way, [by_id[task_id].future for task_id in under_way])
        return again

    def _statuses(self, task_ids: list[uuid.UUID]) -> dict[uuid.UUID, TaskStatus]:
        found: dict[uuid.UUID, TaskStatus] = {}
        # Each request is insisted on, so that a service that has enough in between is not asked for all of them again.
        for start in range(0, len(task_ids), STATUS_BATCH):
            some = task_ids[start : start + STATUS_BATCH]
            what = f"asking for {len(some)} of {len(task_ids)} tasks of before"
            ask = functools.partial(self._service.statuses, some)
            found.update(self._batcher.insist(ask, what=what, repeatable=True))
        return found


def _entry(task: Waiting) -> Entry:
    entry = entry_of(task.future)
    assert entry is not None
    return entry


def _with_ids(calls: dict[int, Entry], reply: Submitted) -> list[tuple[Entry, uuid.UUID]]:
    task_ids = next(iter(reply.tasks.values()), [])
    return [(entry, task_id) for place, entry in calls.items() if (task_id := _at(task_ids, place)) is not None]


def _at(task_ids: Sequence[uuid.UUID | None], place: int) -> uuid.UUID | None:
    return task_ids[place] if place < len(task_ids) else None


def _succeed(future: Future[Any], status: TaskStatus) -> bool:
    """Complete the future if this is a result, and none of an app that has raised."""
    tried: Future[Any] = Future()
    if getattr(future, PLAIN, False):
        setattr(tried, PLAIN, True)
    complete_from_status(tried, status)
    if tried.exception() is not None:
        return False
    value = tried.result()
    told = value.get("value") if isinstance(value, dict) and "streams" in value else value
    if isinstance(told, RemoteExceptionWrapper):
        return False
    try:
        future.set_result(value)
    except InvalidStateError:
        pass  # given up by somebody meanwhile
    return True


def take_up(journal: Journal, batcher: Batcher, service: Service, *, label: str) -> uuid.UUID | None:
    """Have what the batcher submits go through the journal.

    Returns:
        The task group in which results of an earlier run may still come.
    """
    batcher.use(prepare=Resumption(journal, batcher, service, label=label), before=journal.sending)
    return journal.group_id()
