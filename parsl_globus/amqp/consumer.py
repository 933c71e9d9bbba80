"""Consumes one queue: what arrives goes to a callback in batches, each delivery is answered on its own."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pika.channel import Channel
from pika.exceptions import ChannelClosedByBroker
from pika.spec import Basic, BasicProperties

from parsl_globus.amqp.link import Link
from parsl_globus.errors import LinkGaveUp

logger = logging.getLogger(__name__)

#: AMQP's reply code for what isn't there.
_NOT_FOUND = 404
#: How long acknowledgements wait for others, in seconds, if they are fewer than these. The broker is in no hurry for
#: them, and sending one for each of some tasks that come one after another would hold up both sides each time.
ACKNOWLEDGE_AFTER_S, ACKNOWLEDGE_COUNT = 0.05, 64


@dataclass(frozen=True)
class Delivery:
    """A message that arrived.

    Attributes:
        body: The message.
        headers: AMQP headers.
        routing_key: The key it was published with.
        redelivered: Whether it may have been delivered before.
        content_type: The property of this name, if any.
        timestamp_s: The property `timestamp`, seconds since the epoch, if any.
        tag: The broker's number of this delivery on its channel.
        channel: The channel it came on; an answer is sent there or not at all.
    """

    body: bytes = field(repr=False)
    headers: Mapping[str, Any]
    routing_key: str
    redelivered: bool
    content_type: str | None
    timestamp_s: int | None
    tag: int
    channel: Channel = field(repr=False, compare=False)


class Consumer:
    """Keeps consuming a queue, through reconnects.

    A delivery that is neither acknowledged nor refused when the connection breaks comes again, redelivered.

    Args:
        url: Gives the broker's URL, see `Link`.
        queue: Its name, or a function that gives it; asked for each new channel.
        on_deliveries: Takes all deliveries of one read, in order, on the link's thread; it must not block long.
        name: Of the thread, and in the log.
        exclusive: Refuse other consumers of this queue.
        prefetch: How many unanswered deliveries the broker may send ahead; 0 means any number.
        give_up_after_s: See `Link`.
        on_give_up: See `Link`.
        on_open: Called on the link's thread each time the queue is being consumed.
        on_deleted: Called on the link's thread when the queue is deleted, and each time it isn't there to be consumed;
            it is tried anew all the same.
    """

    def __init__(
        self,
        url: Callable[[], str],
        queue: Callable[[], str] | str,
        on_deliveries: Callable[[list[Delivery]], None],
        *,
        name: str,
        exclusive: bool = False,
        prefetch: int = 0,
        give_up_after_s: float | None = None,
        on_give_up: Callable[[LinkGaveUp], None] | None = None,
        on_open: Callable[[], None] | None = None,
        on_deleted: Callable[[], None] | None = None,
    ) -> None:
        self._queue = queue
        self._on_deliveries = on_deliveries
        self._name = name
        self._exclusive = exclusive
        self._prefetch = prefetch
        self._on_open = on_open
        self._on_deleted = on_deleted
        self._gathered: list[Delivery] = []
        self._channel: Channel | None = None
        self._lock = threading.Lock()  # of the next two
        self._to_acknowledge: list[Delivery] = []
        self._acknowledging_due = False
        #: So many are sent at once: the broker must not wait for them before it sends more.
        self._many = min(ACKNOWLEDGE_COUNT, max(1, prefetch // 4)) if prefetch else ACKNOWLEDGE_COUNT
        #: Of the channel: the tag up to which all deliveries are answered, the highest that is, and those in between
        #: that are not. The broker counts from 1.
        self._answered, self._highest = 0, 0
        self._open: set[int] = set()
        self._link = Link(
            url, name=name, on_channel=self._consume, give_up_after_s=give_up_after_s, on_give_up=on_give_up
        )

    def start(self) -> None:
        """Start consuming; returns at once."""
        self._link.start()

    @property
    def alive(self) -> bool:
        """Whether it still consumes or tries to."""
        return self._link.alive

    def stop(self, timeout_s: float = 5.0) -> None:
        """Stop consuming. Answers given before are sent first."""
        self._link.call(self._send_acknowledgements)
        self._link.stop(timeout_s)

    def acknowledge(self, deliveries: Iterable[Delivery]) -> None:
        """Tell the broker soon that these are taken care of. Thread-safe; of broken channels they come again."""
        with self._lock:
            self._to_acknowledge += deliveries
            many = len(self._to_acknowledge) >= self._many
            if not self._to_acknowledge or (self._acknowledging_due and not many):
                return
            self._acknowledging_due = True
        if not self._link.call(self._send_acknowledgements):
            with self._lock:
                self._acknowledging_due = False

    def refuse(self, deliveries: Iterable[Delivery], *, requeue: bool) -> None:
        """Give these back; they come again, or go nowhere without `requeue`. Thread-safe."""
        refused = list(deliveries)
        with self._lock:
            before, self._to_acknowledge = self._to_acknowledge, []

        def send() -> None:
            self._send_acknowledged(before)  # in the order given
            for channel, tags in _by_channel(refused):
                self._completes(channel, tags)
                for tag in tags:
                    channel.basic_nack(tag, requeue=requeue)

        self._link.call(send)

    # ---- on the link's thread -----------------------------------------------------------------------------------

    def _send_acknowledgements(self) -> None:
        with self._lock:
            acknowledged, self._to_acknowledge = self._to_acknowledge, []
            self._acknowledging_due = False
        self._send_acknowledged(acknowledged)

    def _send_acknowledged(self, acknowledged: Sequence[Delivery]) -> None:
        for channel, tags in _by_channel(acknowledged):
            if self._completes(channel, tags):
                # One answer for all: each is a frame, and a system call, here and at the broker.
                channel.basic_ack(max(tags), multiple=True)
            else:
                for tag in tags:
                    channel.basic_ack(tag)

    def _completes(self, channel: Channel, tags: Sequence[int]) -> bool:
        """Note that these are answered; whether by that, all that came up to the last of them is."""
        if channel is not self._channel:
            return False
        last = self._highest
        if not self._open and list(tags) == list(range(last + 1, last + 1 + len(tags))):
            self._answered = self._highest = tags[-1]  # as nearly always
            return True
        for tag in tags:
            if tag > self._highest:
                self._open.update(range(self._highest + 1, tag))
                self._highest = tag
            else:
                self._open.discard(tag)
        while self._answered < self._highest and self._answered + 1 not in self._open:
            self._answered += 1
        return self._answered >= max(tags)

    def _consume(self, channel: Channel) -> None:
        self._gathered = []
        self._channel = channel
        with self._lock:
            # What waited was of a channel that is gone, and so is the timer.
            self._to_acknowledge, self._acknowledging_due = [], False
        self._answered, self._highest, self._open = 0, 0, set()
        channel.add_on_cancel_callback(lambda _frame: self._cancelled(channel))
        channel.add_on_close_callback(self._closed)
        if self._prefetch:
            channel.basic_qos(prefetch_count=self._prefetch)
        channel.basic_consume(
            self._queue if isinstance(self._queue, str) else self._queue(),
            on_message_callback=self._arrived,
            exclusive=self._exclusive,
            callback=lambda _frame: self._on_open() if self._on_open is not None else None,
        )

    def _cancelled(self, channel: Channel) -> None:
        channel.close()  # and try anew
        if self._on_deleted is not None:
            self._on_deleted()

    def _closed(self, _channel: Channel, reason: object) -> None:
        if (
            self._on_deleted is not None
            and isinstance(reason, ChannelClosedByBroker)
            and reason.reply_code == _NOT_FOUND
        ):
            self._on_deleted()

    def _arrived(self, channel: Channel, method: Basic.Deliver, properties: BasicProperties, body: bytes) -> None:
        # One read of the socket holds many deliveries; pika handles them all before it looks at its timers, so this
        # gathers exactly one read without any wait.
        if not self._gathered:
            channel.connection.ioloop.call_later(0, self._hand_over)
        self._gathered.append(
            Delivery(
                body=body,
                headers=properties.headers or {},
                routing_key=method.routing_key,
                redelivered=bool(method.redelivered),
                content_type=properties.content_type,
                timestamp_s=properties.timestamp,
                tag=method.delivery_tag,
                channel=channel,
            )
        )

    def _hand_over(self) -> None:
        deliveries, self._gathered = self._gathered, []
        if not deliveries:
            return
        with self._lock:
            due, self._acknowledging_due = not self._acknowledging_due, True
        if due:
            # Before they are handed over, so that whoever acknowledges them need not wake this thread.
            deliveries[0].channel.connection.ioloop.call_later(ACKNOWLEDGE_AFTER_S, self._send_acknowledgements)
        self._on_deliveries(deliveries)


def _by_channel(deliveries: Sequence[Delivery]) -> Iterator[tuple[Channel, list[int]]]:
    """Channels that are still open, and the tags of what came there, in order."""
    for channel, of_channel in itertools.groupby(deliveries, lambda delivery: delivery.channel):
        if channel.is_open:
            yield channel, [delivery.tag for delivery in of_channel]
