"""Results on their way out: to disk, to the broker, and off the disk once the broker confirmed them."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TypeAlias

from parsl_globus.endpoint.spool import Spool
from parsl_globus.endpoint.task_log import TaskLog
from parsl_globus.errors import BrokerRefused
from parsl_globus.wire.codec import says_error

logger = logging.getLogger(__name__)

#: A result that the broker refused is offered again after this long.
RETRY_AFTER_S = 5.0


@dataclass(frozen=True)
class _Ended:
    task_id: uuid.UUID
    body: bytes = field(repr=False)
    spooled: bool = False


@dataclass(frozen=True)
class _Confirmed:
    task_id: uuid.UUID


@dataclass(frozen=True)
class _Refused:
    result: _Ended


_Item: TypeAlias = _Ended | _Confirmed | _Refused


class Outbox:
    """One thread that does all writing about results: what waits goes in one commit.

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
        self._on_failure = on_failure
        self._queue: SimpleQueue[_Item | None] = SimpleQueue()
        self._retries: list[tuple[float, _Ended]] = []  # on the thread only
        self._count = threading.Condition()
        self._unconfirmed = 0
        self._moved = 0
        self._log = TaskLog(logger)
        #: How many tasks have ended with a value, and how many with an error.
        self.done = 0
        self.failed = 0
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, task_id: uuid.UUID, body: bytes, *, spooled: bool = False) -> None:
        """Send a result home. Thread-safe; `spooled` tells that it is on disk already."""
        with self._count:
            self._unconfirmed += 1
        self._queue.put(_Ended(task_id, body, spooled))

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

    def stop(self) -> None:
        """End the thread once it has written down what it was given."""
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(5)

    # ---- on the thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while True:
                items = self._next_items()
                self._write([item for item in items if item is not None])
                if None in items:
                    return
        except BaseException as exc:
            # The outermost loop of this thread: without it no result leaves, so the agent must hear of it.
            logger.exception("The outbox ends")
            self._on_failure(str(exc))
            raise

    def _next_items(self) -> list[_Item | None]:
        items: list[_Item | None] = []
        try:
            timeout_s = max(0.0, self._retries[0][0] - time.monotonic()) if self._retries else None
            items.append(self._queue.get(timeout=timeout_s))
            while True:
                items.append(self._queue.get_nowait())
        except Empty:
            pass
        return items

    def _write(self, items: list[_Item]) -> None:
        ended = [item for item in items if isinstance(item, _Ended)]
        fresh = [item for item in ended if not item.spooled]
        confirmed = [item.task_id for item in items if isinstance(item, _Confirmed)]
        if fresh:
            self._spool.finish([(item.task_id, item.body) for item in fresh])
        now_s = time.monotonic()
        self._retries.extend((now_s + RETRY_AFTER_S, item.result) for item in items if isinstance(item, _Refused))
        ended.extend(item for due_s, item in self._retries if due_s <= now_s)
        self._retries = [entry for entry in self._retries if entry[0] > now_s]
        for item in ended:
            self._send(item)
        if fresh:
            self._on_spooled([item.task_id for item in fresh])
            self._note_ended(fresh)
        if confirmed:
            self._spool.confirmed(confirmed)
            with self._count:
                self._unconfirmed -= len(confirmed)
                self._moved += len(confirmed)
                self._count.notify_all()

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
                self._queue.put(_Confirmed(item.task_id))
            elif isinstance(error, BrokerRefused):
                logger.warning("Task %s: the broker refused its result (%s); trying again", item.task_id, error)
                self._queue.put(_Refused(item))
            # Otherwise the link was closed: the result stays on disk for the next start.

        self._publish(item.body).add_done_callback(answered)
