"""Remembers on disk what was submitted, so that a workflow that is started again takes up its tasks."""

from __future__ import annotations

import heapq
import logging
import threading
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parsl.app.errors import RemoteExceptionWrapper

from parsl_globus.errors import ExecutorShutDown, JournalError, ParslGlobusError, ServiceUnreachable
from parsl_globus.executor.batcher import RESUMED, Waiting
from parsl_globus.executor.journal_file import ROW_BYTES, Batch, JournalFile
from parsl_globus.executor.journal_keys import Keys, Unkeyable

logger = logging.getLogger(__name__)

#: Where a future keeps its entry.
_ENTRY = "parsl_globus_journal_entry"
#: How much results may take by default, in bytes.
DEFAULT_LIMIT_BYTES = 1 << 30
#: What is left of this when the limit is reached.
_PRUNED_TO = 0.9


@dataclass(slots=True)
class Entry:
    """A call, and how far it has come.

    Attributes:
        base: Its key without the occurrence number.
        number: How many equal calls of this run were there already.
        batch: The submission it was part of; `None` before.
        position: Its place in there.
        task_id: Its task, when the service has answered.
        group_id: The task group in which its result comes.
        answered: Whether its result is in the file.
        ended: Whether the service has told an end other than a result.
    """

    base: bytes
    number: int
    batch: int | None = None
    position: int = 0
    task_id: uuid.UUID | None = None
    group_id: uuid.UUID | None = None
    answered: bool = False
    ended: bool = False

    @property
    def key(self) -> bytes:
        """As in the file."""
        return self.base + self.number.to_bytes(4, "big")


@dataclass(slots=True)
class _Numbers:
    """Occurrence numbers of equal calls."""

    next: int = 0
    free: list[int] = field(default_factory=list)

    def take(self) -> int:
        if self.free:
            return heapq.heappop(self.free)
        self.next += 1
        return self.next - 1


class Journal:
    """The journal of one executor. Thread-safe.

    Args:
        path: The file.
        endpoint_id: Where the calls go.
        label: Of the executor, for messages.
        limit_bytes: How much it may keep; then the oldest results are forgotten.

    Raises:
        JournalInUse: Another workflow uses it.
        JournalError: It can't be used.
    """

    def __init__(self, path: Path, *, endpoint_id: uuid.UUID, label: str, limit_bytes: int) -> None:
        self.file = JournalFile(path)
        self._endpoint_id = endpoint_id
        self._label = label
        self._limit_bytes = limit_bytes
        self._keys = Keys(str(endpoint_id))
        self._lock = threading.Lock()
        self._size_bytes = self.file.size_bytes()
        self._numbers: dict[bytes, _Numbers] = {}
        #: Of earlier runs, and of tasks of this one whose results are not known here though they may come.
        self._left: dict[bytes, Entry] = {}
        self._by_task: dict[uuid.UUID, Entry] = {}
        self._unwanted: list[bytes] = []
        self._told: set[str] = set()
        for row in self.file.rows(endpoint_id):
            entry = Entry(row.key[:-4], int.from_bytes(row.key[-4:], "big"), row.batch, row.position)
            entry.task_id, entry.group_id, entry.answered = row.task_id, row.group_id, row.answered
            self._left[row.key] = entry
            if row.task_id is not None:
                self._by_task[row.task_id] = entry
        if self._left:
            logger.info("%s: the journal %s knows %d tasks of before", label, path, len(self._left))

    def group_id(self) -> uuid.UUID | None:
        """The task group in which results of an earlier run may still come."""
        with self._lock:
            groups = [e.group_id for e in self._left.values() if e.group_id is not None and not e.answered]
        return groups[-1] if groups else None

    # ---- a call --------------------------------------------------------------------------------------------------

    def enter(
        self,
        future: Future[Any],
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        group: tuple[str, str],
        ignored: Collection[str] = (),
    ) -> None:
        """A call is about to be submitted; what becomes of it is followed by its future, before anybody else does.

        Args:
            future: Of the call. It tells from now on whether an earlier run submitted it, see `Waiting.resumed`.
            function: What is called.
            args: Its arguments.
            kwargs: Its keyword arguments.
            group: What the call needs.
            ignored: Keyword arguments whose values don't matter.
        """
        try:
            base = self._keys.key(function, args, kwargs, group, ignored=ignored)
        except Unkeyable as exc:
            self._tell(function, exc)
            return
        with self._lock:
            number = self._numbers.setdefault(base, _Numbers()).take()
            entry = Entry(base, number)
            left = self._left.pop(entry.key, None)
            entry = left or entry
        setattr(future, _ENTRY, entry)
        setattr(future, RESUMED, left is not None)
        future.add_done_callback(self._done)

    def _tell(self, function: Callable[..., Any], why: Unkeyable) -> None:
        name = f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', repr(function))}"
        with self._lock:
            if name in self._told:
                return
            self._told.add(name)
        logger.warning("%s: calls of %s are not in the journal and would run again: %s", self._label, name, why)

    def _done(self, future: Future[Any]) -> None:
        """Called before anybody else learns of the end, so that a retry is the same call."""
        entry = entry_of(future)
        assert entry is not None
        if future.cancelled():
            self._release(entry, keep=entry.batch is not None)
            return
        error = future.exception()
        if error is None:
            if isinstance(future.result(), RemoteExceptionWrapper):  # what an app has raised, told by Parsl
                self._release(entry, keep=False)
            elif entry.task_id is not None:
                with self._lock:
                    self._by_task.pop(entry.task_id, None)
            return
        told = entry.ended or entry.answered
        self._release(entry, keep=not told and _may_run(entry, error))

    def _release(self, entry: Entry, *, keep: bool) -> None:
        """Another call may take this one's place."""
        with self._lock:
            heapq.heappush(self._numbers[entry.base].free, entry.number)
            if keep:
                self._left[entry.key] = entry
                return
            if entry.task_id is not None:
                self._by_task.pop(entry.task_id, None)
            if entry.batch is not None:
                self._unwanted.append(entry.key)

    # ---- on the way ----------------------------------------------------------------------------------------------

    def sending(self, key: uuid.UUID | None, tasks: Sequence[Waiting]) -> None:
        """A submission is about to leave; when this returns, that is on disk.

        Raises:
            JournalError: It can't be written.
        """
        entries = [(entry_of(task.future), position) for position, task in enumerate(tasks)]
        calls = [(entry, position) for entry, position in entries if entry is not None]
        if not calls:
            return
        self._flush()
        batch = Batch(key, tasks[0].group, [str(task.payload) for task in tasks])
        number = self.file.sending(self._endpoint_id, batch, [(entry.key, position) for entry, position in calls])
        with self._lock:
            self._size_bytes += ROW_BYTES * len(calls)
            for entry, position in calls:
                entry.batch, entry.position = number, position
                entry.answered = entry.ended = False

    def submitted(self, task_ids: Sequence[uuid.UUID], futures: Sequence[Future[Any]], group_id: uuid.UUID) -> None:
        """The service has answered. If that can't be written, a later start learns it anew."""
        found = [(entry_of(future), task_id) for task_id, future in zip(task_ids, futures, strict=True)]
        self.learn([(entry, task_id) for entry, task_id in found if entry is not None], group_id)

    def learn(self, calls: Sequence[tuple[Entry, uuid.UUID]], group_id: uuid.UUID) -> None:
        """These calls are these tasks."""
        fresh = [(entry, task_id) for entry, task_id in calls if entry.task_id != task_id]
        if not fresh:
            return
        with self._lock:
            for entry, task_id in fresh:
                entry.task_id, entry.group_id, entry.answered, entry.ended = task_id, group_id, False, False
                self._by_task[task_id] = entry
        batches = {entry.batch for entry, _ in fresh if entry.batch is not None}
        try:
            self.file.submitted(group_id, [(entry.key, task_id) for entry, task_id in fresh], batches)
        except JournalError as exc:
            logger.warning("%s: %d task ids are not in the journal: %s", self._label, len(fresh), exc)

    def answered(self, answers: Iterable[tuple[uuid.UUID, str | None]]) -> None:
        """Results came, `None` for other ends. Called before they are acknowledged, and before futures are done."""
        kept: list[tuple[Entry, str]] = []
        with self._lock:
            for task_id, text in answers:
                entry = self._by_task.get(task_id)
                if entry is not None and text is not None and not entry.answered:
                    kept.append((entry, text))
                elif entry is not None and text is None:
                    entry.ended = True
        if not kept:
            return
        try:
            self.file.keep([(entry.key, text) for entry, text in kept])
        except JournalError as exc:
            logger.warning("%s: %d results are not in the journal: %s", self._label, len(kept), exc)
            return
        with self._lock:
            for entry, text in kept:
                entry.answered = True
                self._size_bytes += len(text)
            excess_bytes = self._size_bytes - self._limit_bytes
        if excess_bytes > 0:
            self._prune(excess_bytes)

    def _prune(self, excess_bytes: int) -> None:
        try:
            keys = self.file.oldest_results(excess_bytes + int(self._limit_bytes * (1 - _PRUNED_TO)))
            self.file.forget(keys)
            size_bytes = self.file.size_bytes()
        except JournalError as exc:
            logger.warning("%s: old results can't be removed from the journal: %s", self._label, exc)
            return
        with self._lock:
            self._size_bytes = size_bytes
            for key in keys:
                self._left.pop(key, None)
        text = (
            "%s: the journal has reached %d bytes; the %d oldest results are forgotten, and their tasks would run again"
        )
        logger.warning(text, self._label, self._limit_bytes, len(keys))

    # ---- what an earlier run has left -----------------------------------------------------------------------------

    def renew(self, future: Future[Any]) -> None:
        """The call is to be submitted anew."""
        setattr(future, RESUMED, False)
        entry = entry_of(future)
        assert entry is not None
        with self._lock:
            if entry.task_id is not None:
                self._by_task.pop(entry.task_id, None)
            entry.task_id = entry.group_id = None
            entry.answered = entry.ended = False

    def of_batch(self, number: int, futures: Iterable[Future[Any]]) -> dict[int, Entry]:
        """The calls of a submission that was not answered, by their places: those of these futures, and others."""
        with self._lock:
            left = list(self._left.values())
        mine = [entry for entry in map(entry_of, futures) if entry is not None]
        return {e.position: e for e in [*left, *mine] if e.batch == number and e.task_id is None}

    def _flush(self) -> None:
        with self._lock:
            unwanted, self._unwanted = self._unwanted, []
            self._size_bytes -= ROW_BYTES * len(unwanted)
        if unwanted:
            self.file.forget(unwanted)

    def close(self) -> None:
        """Write down what is left to write, and let go of the file."""
        try:
            self._flush()
        except JournalError as exc:
            logger.warning("%s: the journal's last entries are lost: %s", self._label, exc)
        self.file.close()


def open_journal(path: str | Path | None, *, endpoint_id: uuid.UUID, label: str, limit_bytes: int) -> Journal | None:
    """The journal at this path; none for none."""
    if path is None:
        return None
    return Journal(Path(path).expanduser(), endpoint_id=endpoint_id, label=label, limit_bytes=limit_bytes)


def entry_of(future: Future[Any]) -> Entry | None:
    """The entry of the call whose future this is, if it has one."""
    entry: Entry | None = getattr(future, _ENTRY, None)
    return entry


def _may_run(entry: Entry, error: BaseException) -> bool:
    """Whether the task of a future that failed here, and not by an answer, may be with the service."""
    if entry.batch is None:
        return False
    if entry.task_id is not None:
        return True
    # No answer came. What was refused is not there, and of `SubmissionUncertain` the user was told.
    return isinstance(error, (ServiceUnreachable, ExecutorShutDown)) or not isinstance(error, ParslGlobusError)
