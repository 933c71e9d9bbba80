"""Publishes on one channel, any number of batches at a time, each until all of it is confirmed."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Sequence

from pika.channel import Channel as PikaChannel
from pika.exceptions import ChannelClosedByBroker, ShortStringTooLong, UnsupportedAMQPFieldException
from pika.frame import Method
from pika.spec import Basic, BasicProperties

from parsl_globus.errors import BrokerRefused, LinkGaveUp
from parsl_globus.pika_private import written_together
from parsl_globus.pika_reason import reason_text
from parsl_globus.service.broker.base import Publication
from parsl_globus.service.broker.rabbitmq.channel import Channel
from parsl_globus.service.broker.rabbitmq.within import within

#: A broker short of memory or disk stops reading: what it has not confirmed by then counts as not taken.
_CONFIRM_S = 60.0
#: What AMQP has no bytes for: a name that is too long, a header of a foreign type. Nothing of it is sent then.
_UNWRITABLE = (ShortStringTooLong, UnsupportedAMQPFieldException, ValueError, TypeError, struct.error)


class _Batch:
    """What is published together.

    Attributes:
        left: How many are not confirmed yet.
        refused: The first that was refused, and why.
        done: Done when all are confirmed; fails when they can't be any more.
    """

    def __init__(self, size: int) -> None:
        self.left = size
        self.refused: BrokerRefused | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def refuse(self, publication: Publication, detail: str) -> None:
        if self.refused is None:
            self.refused = BrokerRefused(routing_key=publication.routing_key, detail=detail)

    def count(self) -> None:
        self.left -= 1
        if not self.left and not self.done.done():
            self.done.set_result(None)

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class Publisher:
    """Publishes. See `open`.

    Attributes:
        channel: Its channel, which is of no use to others.
    """

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        #: The tag of the message that was sent last: the broker counts them, too.
        self._tag = 0
        #: By tag, in its order.
        self._unconfirmed: dict[int, tuple[Publication, _Batch]] = {}
        #: Tags of messages that the broker has sent back, and confirms next.
        self._returned: set[int] = set()
        channel.closed.add_done_callback(self._on_closed)

    @classmethod
    async def open(cls, channel: Channel) -> Publisher:
        """One on a channel that was just opened. Raises as `Channel.ask`."""
        publisher = cls(channel)
        channel.raw.add_on_return_callback(publisher._on_return)
        await channel.ask(channel.raw.confirm_delivery, publisher._on_confirm)
        return publisher

    async def publish(self, publications: Sequence[Publication]) -> None:
        """Publish all without waiting in between, and wait for all confirms. See `Broker.publish`."""
        began_s = time.monotonic()
        batch = _Batch(len(publications))
        with written_together(self.channel.raw.connection):
            for publication in publications:
                self._send(publication, batch)
        try:
            if batch.left:
                await within(_CONFIRM_S, batch.done)
        except asyncio.TimeoutError as exc:
            raise LinkGaveUp(after_s=time.monotonic() - began_s, detail="the broker does not confirm") from exc
        if batch.refused is not None:
            raise batch.refused

    def _send(self, publication: Publication, batch: _Batch) -> None:
        properties = BasicProperties(
            content_type=publication.content_type,
            headers=dict(publication.headers) or None,
            delivery_mode=2,
            timestamp=publication.timestamp_s,
        )
        try:
            self.channel.tell(
                self.channel.raw.basic_publish,
                publication.exchange,
                publication.routing_key,
                publication.body,
                properties,
                mandatory=True,
            )
        except _UNWRITABLE as exc:
            batch.refuse(publication, reason_text(exc))
            batch.count()
        else:
            self._tag += 1
            self._unconfirmed[self._tag] = (publication, batch)

    def _on_return(self, _raw: PikaChannel, method: Basic.Return, _properties: BasicProperties, body: bytes) -> None:
        # It bears no tag; of equal messages it does not matter which is meant.
        for tag, (publication, _batch) in self._unconfirmed.items():
            same = (publication.routing_key, publication.exchange) == (method.routing_key, method.exchange)
            if same and tag not in self._returned and publication.body == body:
                self._returned.add(tag)
                return

    def _on_confirm(self, frame: Method) -> None:
        tag = frame.method.delivery_tag
        taken = isinstance(frame.method, Basic.Ack)
        if not frame.method.multiple:
            self._confirm(tag, taken=taken)
            return
        while self._unconfirmed and (first := next(iter(self._unconfirmed))) <= tag:
            self._confirm(first, taken=taken)

    def _confirm(self, tag: int, *, taken: bool) -> None:
        sent = self._unconfirmed.pop(tag, None)
        if sent is None:
            return
        publication, batch = sent
        if tag in self._returned:
            self._returned.discard(tag)
            batch.refuse(publication, "no queue takes it")
        elif not taken:
            batch.refuse(publication, "its queue is full")
        batch.count()

    def _on_closed(self, closed: asyncio.Future[Exception]) -> None:
        reason = closed.result()
        refused = isinstance(reason, ChannelClosedByBroker)  # there is no such exchange
        left, self._unconfirmed = self._unconfirmed, {}
        for publication, batch in left.values():
            if refused:
                batch.refuse(publication, reason_text(reason))
                batch.count()
            else:
                batch.fail(LinkGaveUp(after_s=0, detail=reason_text(reason)))
