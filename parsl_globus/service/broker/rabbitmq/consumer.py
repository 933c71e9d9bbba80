"""The service's own consumers: batches from a queue on RabbitMQ to a coroutine, over all connections."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from pika.channel import Channel as PikaChannel
from pika.exceptions import ChannelClosedByBroker
from pika.spec import Basic, BasicProperties

from parsl_globus.errors import LinkError
from parsl_globus.service.broker.base import Delivery, Handler
from parsl_globus.service.broker.rabbitmq.channel import Channel
from parsl_globus.service.broker.rabbitmq.session import Session
from parsl_globus.service.broker.rabbitmq.within import within

logger = logging.getLogger(__name__)

#: Pauses before a batch whose handler raised is taken again: the first, doubled each time up to the longest.
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
#: How long acknowledgements wait for others, in seconds, if they are for fewer messages than these.
_ACKNOWLEDGE_AFTER_S, _ACKNOWLEDGE_COUNT = 0.05, 64
#: What can be read comes in within this many turns of the loop, as far as it is read at once.
_QUIET_TURNS = 2


class _Feed:
    """What comes through one channel, until it is cancelled."""

    def __init__(self, session: Session, channel: Channel, arrived: asyncio.Event) -> None:
        self.session = session
        self.channel = channel
        self.over = False
        self._arrived = arrived
        self._inbox: list[Delivery] = []
        #: Of the last message in the inbox, the last one that is done, and the last one that the broker was told of.
        self._newest = self._done = self._told = 0
        self._telling: asyncio.TimerHandle | None = None
        self._many = 1
        self._consumer = ""

    async def open(self, queue: str, prefetch: int) -> None:
        raw = self.channel.raw
        self._many = min(_ACKNOWLEDGE_COUNT, max(1, prefetch // 4))
        await self.channel.ask(raw.basic_qos, prefetch_count=prefetch)
        reply = await self.channel.ask(raw.basic_consume, queue, self._take)
        self._consumer = reply.method.consumer_tag

    def _take(self, _raw: PikaChannel, method: Basic.Deliver, properties: BasicProperties, body: bytes) -> None:
        if not self.over:
            self._inbox.append(Delivery(method.routing_key, body, properties.headers or {}, bool(method.redelivered)))
            self._newest = method.delivery_tag
            self._arrived.set()

    async def settle(self) -> None:
        """Let in what has reached this process already; waits for nothing else."""
        size, quiet = len(self._inbox), 0
        while quiet < _QUIET_TURNS:
            await asyncio.sleep(0)
            quiet = quiet + 1 if len(self._inbox) == size else 0
            size = len(self._inbox)

    def batch(self) -> tuple[list[Delivery], int]:
        """What has come, and the tag of the last."""
        taken, self._inbox = self._inbox, []
        return taken, self._newest

    def ack(self, newest: int) -> None:
        """All up to this one are done; the broker is told soon."""
        self._done = newest
        if self._done - self._told >= self._many:
            self.tell()
        elif self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(_ACKNOWLEDGE_AFTER_S, self.tell)

    def tell(self) -> None:
        """Tell the broker what is done."""
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
        if self._done > self._told:
            self._told = self._done
            # Where the connection broke meanwhile, all of this comes again, which handlers sort out.
            with suppress(LinkError):
                self.channel.tell(self.channel.raw.basic_ack, self._done, multiple=True)

    async def give_back(self) -> None:
        """Take no more, and put back everything that is not done, in its old place."""
        self.tell()
        if self._consumer:
            # First no more may be on its way: it would come before what is put back here.
            await self.channel.ask(self.channel.raw.basic_cancel, self._consumer)
        self.over = True
        self._inbox = []
        self.channel.tell(self.channel.raw.basic_nack, 0, multiple=True, requeue=True)


class Consumer:
    """Hands what arrives in one queue to a handler, all that waits at once.

    Args:
        queue: The queue's name.
        handler: Takes the batches, one after the other.
        prefetch: The most that is taken from the queue and not yet handled.
        on_end: Called when the broker ends it while the connection lives, as when the queue is deleted.
    """

    def __init__(self, queue: str, handler: Handler, prefetch: int, on_end: Callable[[Consumer], None]) -> None:
        self.queue = queue
        self._handler = handler
        self._prefetch = prefetch
        self._on_end = on_end
        self._arrived = asyncio.Event()
        self._stopping = asyncio.Event()
        self._feed: _Feed | None = None
        self._task: asyncio.Task[None] | None = None

    async def attach(self, session: Session) -> None:
        """Consume over this connection from now on.

        Raises:
            LinkGaveUp: It broke.
            ChannelClosedByBroker: There is no such queue, or a client has it alone.
        """
        if self._feed is not None:
            self._feed.over = True
        feed = _Feed(session, await session.channel(), self._arrived)
        ended = self._watch(feed)
        await feed.open(self.queue, self._prefetch)
        feed.channel.closed.add_done_callback(ended)
        self._feed = feed
        # What came before this line woke the old feed's loop in vain.
        self._arrived.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"consume {self.queue}")

    def _watch(self, feed: _Feed) -> Callable[[object], None]:
        """Hear of it when the broker cancels; returns what is to be told when the channel is closed, too."""

        def ended(_: object) -> None:
            if not (feed.over or self._stopping.is_set() or feed.session.over):
                feed.over = True
                self._on_end(self)

        # Before it consumes: both may come in one read.
        feed.channel.raw.add_on_cancel_callback(ended)
        return ended

    def end(self) -> None:
        """Take nothing more; does not wait for the running batch."""
        self._stopping.set()
        self._arrived.set()

    async def stop(self, grace_s: float) -> None:
        """Take nothing more and wait for the running batch up to `grace_s`; the rest goes back."""
        self.end()
        if self._task is not None:
            _, late = await asyncio.wait([self._task], timeout=grace_s)
            if late:
                self._task.cancel()
                await asyncio.wait([self._task])
        if self._feed is not None:
            self._feed.tell()

    async def _run(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            await self._arrived.wait()
            self._arrived.clear()
            feed = self._feed
            if feed is None:
                continue
            await feed.settle()
            batch, newest = feed.batch()
            if not batch or self._stopping.is_set():
                continue
            if await self._handle(batch):
                pause_s = _FIRST_PAUSE_S
                feed.ack(newest)
            else:
                await self._pause(feed, pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _handle(self, batch: list[Delivery]) -> bool:
        try:
            await self._handler(batch)
        except LinkError as exc:
            logger.warning("Queue '%s': %d messages are taken again later: %s", self.queue, len(batch), exc)
            return False
        except Exception:
            # The outermost loop of this task: one failed batch must not end the consumer.
            logger.warning(
                "The handler of queue '%s' failed; its %d messages are delivered again",
                self.queue,
                len(batch),
                exc_info=True,
            )
            return False
        return True

    async def _pause(self, feed: _Feed, pause_s: float) -> None:
        """Put everything back, where another process may take it, and begin anew after a while."""
        try:
            await feed.give_back()
            with suppress(asyncio.TimeoutError):
                await within(pause_s, self._stopping.wait())
            if self._feed is feed and not self._stopping.is_set():
                again = _Feed(feed.session, feed.channel, self._arrived)
                self._feed = again
                ended = self._watch(again)
                await again.open(self.queue, self._prefetch)
                again.channel.closed.add_done_callback(ended)
        except LinkError as exc:
            logger.debug("Queue '%s': %s", self.queue, exc)
            # The next connection begins anew by itself; one that does not answer is not waited for.
            if not feed.session.over and not self._stopping.is_set():
                self._on_end(self)
        except ChannelClosedByBroker as exc:
            logger.warning("Queue '%s' can't be consumed any more: %r", self.queue, exc)
            self._on_end(self)
