"""Results on their way out: to disk, to the broker, and off the disk some time after the broker confirmed them."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeAlias

from parsl_globus.endpoint.failures import TASK_LOST, failure
from parsl_globus.endpoint.spool import Spool
from parsl_globus.endpoint.task_log import TaskLog
from parsl_globus.endpoint.turns import Turns
from parsl_globus.errors import BrokerRefused
from parsl_globus.wire.codec import says_error

logger = logging.getLogger(__name__)

#: A result that the broker refused is offered again after this long.
RETRY_AFTER_S = 5.0
#: A result that was confirmed since is not among those that a broker lost before the service asked for them, two
#: minutes later: the service has it, or is about to. A process that can't forward it has it for a minute at most.
_TAKEN_S = 90.0


@dataclass(frozen=True)
class _Ended:
    task_id: uuid.UUID
    body: bytes = field(repr=False)
    spooled: bool = False


class _Tidy:
    """What was confirmed is to be forgotten, and what waits for the log to be told."""


@dataclass(frozen=True)
class _Refused:
    result: _Ended


@dataclass(frozen=True)
class _Asked:
    """The service has no results of these tasks, which the broker may have lost."""

    task_ids: Sequence[uuid.UUID]
    done: Callable[[], None]


_Item: TypeAlias = _Ended | _Tidy | _Refused | _Asked

#: So many confirmed results are forgotten at once. Fewer wait for `tidy`: each by itself would be a transaction, and a
#: thread that wakes up, for a lone task. Those of an agent that is killed meanwhile are sent once more.
_CONFIRMED_COUNT = 64


class Outbox:
    """Does all writing about results, in turns: what waits goes in one commit.

    Args:
        spool: Where results are kept until they are confirmed.
        publish: Gives a result to the broker; the future is done when it confirmed.
        on_spooled: Called with the ids of results that are on disk now.
        on_failure: Called when the spool fails, after which nothing is taken any more.
    """

    def __init__(
        self,
        spool: Spool,
        publish: Callable[[bytes], Future[None]],
        *,
        on_spooled: Callable[[list[uuid.UUID]], None],
        on_failure: Callable[[str], None],
    ) -> None:
        self._spool = spool
        self._publish = publish
        self._on_spooled = on_spooled
        self._turns: Turns[_Item] = Turns(self._write, name="outbox", on_failure=on_failure, wait_s=self._wait_s)
        self._retries: list[tuple[float, _Ended]] = []  # of who has the turn
        self._count = threading.Condition()  # of the next three
        self._confirmed: list[uuid.UUID] = []
        self._unconfirmed = 0
        self._moved = 0
        self._log = TaskLog(logger)
        #: How many tasks have ended with a value, and how many with an error.
        self.done = 0
        self.failed = 0

    def start(self) -> None:
        """Start the thread."""
        self._turns.start()

    def put(self, task_id: uuid.UUID, body: bytes, *, spooled: bool = False) -> None:
        """Send a result home. Thread-safe; `spooled` tells that it is on disk already."""
        with self._count:
            self._unconfirmed += 1
            alone = self._unconfirmed == 1
        item = _Ended(task_id, body, spooled)
        if alone:
            self._turns.put_alone(item)
        else:
            self._turns.put(item)

    def asked_for(self, task_ids: Sequence[uuid.UUID], done: Callable[[], None]) -> None:
        """Fail those of these tasks whose results are neither here nor at the service; returns at once. Thread-safe.

        Args:
            task_ids: The service has no results of them, two minutes after its broker had lost all that it held.
            done: Called when their failures are on disk.
        """
        self._turns.put(_Asked(task_ids, done))

    @property
    def unconfirmed(self) -> int:
        """How many results the broker hasn't confirmed."""
        return self._unconfirmed

    @property
    def moved(self) -> int:
        """How many results were confirmed so far."""
        return self._moved

    def wait_empty(self, timeout_s: float) -> bool:
        """Wait until everything is confirmed.

        Returns:
            Whether it was within `timeout_s`.
        """
        with self._count:
            return self._count.wait_for(lambda: self._unconfirmed == 0, timeout_s)

    def tidy(self) -> None:
        """Soon forget what was confirmed, and tell the log what has ended; to be called now and then."""
        if self._confirmed or self._log.waiting:
            self._turns.put(_Tidy())

    def stop(self) -> None:
        """End the thread once it has written down what it was given."""
        self.tidy()
        self._turns.stop(finish=True)
        self._log.tell()  # what a thread that has failed did not

    # ---- in turns -----------------------------------------------------------------------------------------------

    def _wait_s(self) -> float | None:
        retries = self._retries
        return max(0.0, retries[0][0] - time.monotonic()) if retries else None

    def _write(self, items: list[_Item]) -> None:
        ended = [item for item in items if isinstance(item, _Ended)]
        fresh = [item for item in ended if not item.spooled]
        if fresh:
            self._spool.finish([(item.task_id, item.body) for item in fresh])
        now_s = time.monotonic()
        self._retries.extend((now_s + RETRY_AFTER_S, item.result) for item in items if isinstance(item, _Refused))
        ended.extend(item for due_s, item in self._retries if due_s <= now_s)
        self._retries = [entry for entry in self._retries if entry[0] > now_s]
        asked = [item for item in items if isinstance(item, _Asked)]
        if asked:
            ended.extend(self._lost({task_id for question in asked for task_id in question.task_ids}))
        for item in ended:
            self._send(item)
        if fresh:
            self._on_spooled([item.task_id for item in fresh])
            self._note_ended(fresh)
        if any(isinstance(item, _Tidy) for item in items):
            self._forget()
        for question in asked:
            question.done()

    def _lost(self, task_ids: Collection[uuid.UUID]) -> list[_Ended]:
        """Failures, on disk, of tasks whose results the broker took and lost."""
        lost = self._spool.answered(task_ids, time.time() - _TAKEN_S)
        text = (
            "The task was answered for, but the message broker has lost the answer. "
            "Submit it again if running twice does no harm."
        )
        ended = [_Ended(task_id, failure(task_id, TASK_LOST, text), spooled=True) for task_id in lost]
        if ended:
            logger.error("The message broker has lost the results of %d tasks", len(ended))
            self._spool.finish([(item.task_id, item.body) for item in ended])
            with self._count:
                self._unconfirmed += len(ended)
        return ended

    def _forget(self) -> None:
        with self._count:
            confirmed, self._confirmed = self._confirmed, []
        if confirmed:
            self._spool.confirmed(confirmed)
        self._log.tell()

    def _note_ended(self, ended: list[_Ended]) -> None:
        failed = [item.task_id for item in ended if says_error(item.body)]
        self.failed += len(failed)
        self.done += len(ended) - len(failed)
        without_value = set(failed)
        self._log.note("Done:", [item.task_id for item in ended if item.task_id not in without_value])
        self._log.note("Failed:", failed)

    def _send(self, item: _Ended) -> None:
        def answered(future: Future[None]) -> None:
            error = future.exception()
            if error is None:
                self._took(item.task_id)
            elif isinstance(error, BrokerRefused):
                logger.warning("Task %s: the broker refused its result (%s); trying again", item.task_id, error)
                self._turns.put(_Refused(item))
            # Otherwise the link was closed: the result stays on disk for the next start.

        self._publish(item.body).add_done_callback(answered)

    # ---- on the publisher's thread ------------------------------------------------------------------------------

    def _took(self, task_id: uuid.UUID) -> None:
        """The broker has confirmed this one."""
        with self._count:
            self._confirmed.append(task_id)
            self._unconfirmed -= 1
            self._moved += 1
            due = len(self._confirmed) == _CONFIRMED_COUNT
            if not self._unconfirmed:
                self._count.notify_all()
        if due:
            self._turns.put(_Tidy())
