"""The service's own consumers: batches from a queue of the same process to a coroutine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

from parsl_globus.errors import LinkClosed
from parsl_globus.service.broker.base import Delivery, Handler
from parsl_globus.service.broker.embedded.fields import decode_headers
from parsl_globus.service.broker.embedded.queues import Entry, Queue

logger = logging.getLogger(__name__)

#: Pauses before a batch whose handler raised is delivered again: the first, doubled each time up to the longest.
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0


class LocalConsumer:
    """Hands what arrives in one queue to a handler, all that waits at once.

    Args:
        queue: The queue.
        handler: Takes the batches, one after the other.
        prefetch: The most that is taken from the queue and not yet handled.
    """

    def __init__(self, queue: Queue, handler: Handler, prefetch: int) -> None:
        self._queue = queue
        self._handler = handler
        self._prefetch = prefetch
        self._inbox: list[Entry] = []
        self._in_hand: list[Entry] = []
        self._arrived = asyncio.Event()
        self._ended = asyncio.Event()
        self._pausing = False
        self._task = asyncio.create_task(self._run(), name=f"consume {queue.name}")

    def room(self) -> int:
        """How many messages it would take now."""
        if self._ended.is_set() or self._pausing:
            return 0
        return self._prefetch - len(self._inbox) - len(self._in_hand)

    def take(self, entries: Sequence[Entry]) -> None:
        """Take these; the handler gets them with its next batch."""
        self._inbox.extend(entries)
        self._arrived.set()

    def cancelled(self) -> None:
        """The queue was deleted: end after what is already here."""
        self._ended.set()
        self._arrived.set()

    async def stop(self, grace_s: float) -> None:
        """Take nothing more, wait for the running batch up to `grace_s`, and put back what is not handled."""
        self._ended.set()
        self._queue.remove_consumer(self)
        self._give_back(self._inbox)
        self._inbox = []
        self._arrived.set()
        _, late = await asyncio.wait([self._task], timeout=grace_s)
        if late:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _give_back(self, entries: Sequence[Entry]) -> None:
        self._queue.put_back(entries)

    async def _run(self) -> None:
        pause_s = _FIRST_PAUSE_S
        try:
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                self._in_hand, self._inbox = self._inbox, []
                if self._in_hand:
                    if await self._handle():
                        pause_s = _FIRST_PAUSE_S
                    else:
                        await self._pause(pause_s)
                        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                if self._ended.is_set() and not self._inbox:
                    return
        finally:
            self._give_back([*self._in_hand, *self._inbox])

    async def _handle(self) -> bool:
        """Call the handler; on success all is done, otherwise all is put back."""
        batch = self._in_hand
        try:
            await self._handler([_delivery(entry) for entry in batch])
        except LinkClosed:
            # The broker stops; who published this has no confirm yet, and sends it again.
            logger.info("Queue '%s': %d messages are left unhandled", self._queue.name, len(batch))
            return False
        except Exception:
            # The outermost loop of this task: one failed batch must not end the consumer.
            logger.warning(
                "The handler of queue '%s' failed; its %d messages are delivered again",
                self._queue.name,
                len(batch),
                exc_info=True,
            )
            return False
        self._in_hand = []
        for entry in batch:
            self._queue.done(entry)
        self._queue.wake()
        return True

    async def _pause(self, pause_s: float) -> None:
        # Nothing is taken meanwhile: what came after the failed batch must not overtake it.
        self._pausing = True
        returned, self._in_hand, self._inbox = [*self._in_hand, *self._inbox], [], []
        self._give_back(returned)
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._ended.wait(), pause_s)
        self._pausing = False
        self._queue.wake()


def _delivery(entry: Entry) -> Delivery:
    message = entry.message
    return Delivery(message.routing_key, message.body, decode_headers(message.properties), entry.redelivered)
