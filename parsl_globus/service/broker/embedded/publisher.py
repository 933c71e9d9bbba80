"""What a client publishes on one channel: messages put together from frames, routed, and confirmed."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import partial
from typing import Protocol

from pamqp import commands

from parsl_globus.service.broker.base import Grant
from parsl_globus.service.broker.embedded import frames
from parsl_globus.service.broker.embedded.frames import Fault
from parsl_globus.service.broker.embedded.queues import Message, Queue, QueueTable

logger = logging.getLogger(__name__)

_MANDATORY, _IMMEDIATE = 1, 2


class Peer(Protocol):
    """The connection, as its channels see it.

    Attributes:
        username: Login name, for error texts.
        grant: What the login may do.
        table: Exchanges and queues.
        frame_max: Largest frame that the client takes.
        message_limit_bytes: Largest message that is taken from the client.
        cancel_notify: Whether the client understands a cancel from our side.
    """

    username: str
    grant: Grant
    table: QueueTable
    frame_max: int
    message_limit_bytes: int
    cancel_notify: bool

    def send(self, parts: Iterable[bytes | memoryview]) -> None:
        """Send these bytes soon."""

    def may_deliver(self, queue: Queue) -> bool:
        """Whether there is space for deliveries; if not, `queue` is woken when there is."""

    def reserve(self, size_bytes: int) -> None:
        """Count a message that begins to arrive, or with a negative size one that is complete."""

    def confirm_later(self, publisher: ChannelPublisher) -> None:
        """Call `publisher.send_confirms` soon: once all that was received is worked off."""


class _Content:
    """A message that arrives: a `basic.publish`, then its header, then its body."""

    __slots__ = ("bits", "exchange", "missing_bytes", "pieces", "properties", "routing_key", "size_bytes")

    def __init__(self, exchange: str, routing_key: str, bits: int) -> None:
        self.exchange = exchange
        self.routing_key = routing_key
        self.bits = bits
        self.properties: bytes | None = None
        self.missing_bytes = 0
        self.size_bytes = 0
        self.pieces: list[bytes] = []


class ChannelPublisher:
    """The publishing half of a channel.

    Args:
        number: The channel's number.
        peer: The connection.

    Attributes:
        confirming: Whether the client asked for confirms.
    """

    def __init__(self, number: int, peer: Peer) -> None:
        self.number = number
        self.peer = peer
        self.confirming = False
        self._content: _Content | None = None
        self._publish_tag = 0
        self._confirmed_tag = 0
        #: Tags, oldest first, whose messages are taken but not handled yet (`Queue.confirm_handled`).
        self._unhandled: dict[int, None] = {}
        self._refused: list[int] = []
        self._released = False

    @property
    def busy(self) -> bool:
        """Whether a message has begun and is not complete."""
        return self._content is not None

    def release(self) -> None:
        """The channel is gone: confirm what can be confirmed, forget what is not complete."""
        self.send_confirms()
        self._released = True
        self._unhandled.clear()
        if self._content is not None:
            self.peer.reserve(-self._content.size_bytes)
            self._content = None

    def on_publish(self, payload: bytes) -> None:
        """A `basic.publish`.

        Raises:
            Fault: The client may not publish that.
            DecodeError: The frame is malformed.
        """
        exchange, routing_key, bits = frames.decode_publish(payload)
        peer = self.peer
        if not peer.grant.may_publish(exchange, routing_key):
            raise Fault(
                403,
                f"ACCESS_REFUSED - write access to topic '{routing_key}' in exchange "
                f"'{exchange or 'amq.default'}' in vhost '/' refused for user '{peer.username}'",
            )
        if not peer.table.has_exchange(exchange):
            raise Fault(404, f"NOT_FOUND - no exchange '{exchange}' in vhost '/'")
        if bits & _IMMEDIATE:
            raise Fault(540, "NOT_IMPLEMENTED - immediate=true", hard=True)
        self._content = _Content(exchange, routing_key, bits)

    def _take_message(self, content: _Content, body: bytes) -> None:
        self._content = None
        self.peer.reserve(-content.size_bytes)
        assert content.properties is not None
        queues = self.peer.table.route(content.exchange, content.routing_key)
        if not queues and content.bits & _MANDATORY:
            self._return(content, body)
        message = Message(content.exchange, content.routing_key, content.properties, body)
        if self.confirming and any(queue.confirm_handled for queue in queues):
            tag = self._publish_tag + 1
            self._unhandled[tag] = None
            message.on_handled = partial(self._handled, tag)
        taken = self.peer.table.publish(queues, message)
        if not taken and not self.confirming:
            logger.warning("A message for '%s' was dropped: its queue is full", content.routing_key)
        if not self.confirming:
            return
        self._publish_tag += 1
        if not taken:
            self._unhandled.pop(self._publish_tag, None)
            self._refused.append(self._publish_tag)
        self.peer.confirm_later(self)

    def _return(self, content: _Content, body: bytes) -> None:
        method = commands.Basic.Return(312, "NO_ROUTE", content.exchange, content.routing_key)
        self.peer.send((frames.encode_method(self.number, method),))
        assert content.properties is not None
        self.peer.send(frames.content_parts(self.number, content.properties, body, self.peer.frame_max))

    def _handled(self, tag: int) -> None:
        if tag in self._unhandled:
            del self._unhandled[tag]
            self.peer.confirm_later(self)

    def send_confirms(self) -> None:
        """Confirm all that was taken, in as few frames as can be; each tag is confirmed, or refused, once."""
        if self._released:
            return
        last = next(iter(self._unhandled), self._publish_tag + 1) - 1
        while self._refused and self._refused[0] <= last:
            tag = self._refused.pop(0)
            self._confirm_to(tag - 1)
            self._confirmed_tag = tag
            self.peer.send((frames.encode_nack(self.number, tag),))
        self._confirm_to(last)

    def _confirm_to(self, tag: int) -> None:
        count = tag - self._confirmed_tag
        if count > 0:
            self._confirmed_tag = tag
            self.peer.send((frames.encode_ack(self.number, tag, multiple=count > 1),))

    def on_header(self, payload: bytes) -> None:
        """A content header frame; raises as `on_publish`."""
        content = self._content
        if content is None or content.properties is not None:
            raise Fault(505, "UNEXPECTED_FRAME - a content header without a method", hard=True)
        body_bytes, content.properties = frames.decode_content_header(payload)
        if body_bytes > self.peer.message_limit_bytes:
            self._content = None
            raise Fault(
                406,
                f"PRECONDITION_FAILED - message size {body_bytes} is larger than "
                f"configured max size {self.peer.message_limit_bytes}",
            )
        content.missing_bytes = content.size_bytes = body_bytes
        self.peer.reserve(body_bytes)
        if not body_bytes:
            self._take_message(content, b"")

    def on_body(self, payload: bytes) -> None:
        """A content body frame; raises as `on_publish`."""
        content = self._content
        if content is None or content.properties is None or len(payload) > content.missing_bytes:
            raise Fault(505, "UNEXPECTED_FRAME - a body that does not belong to a message", hard=True)
        content.missing_bytes -= len(payload)
        if content.missing_bytes:
            content.pieces.append(payload)
        elif content.pieces:
            content.pieces.append(payload)
            self._take_message(content, b"".join(content.pieces))
        else:
            self._take_message(content, payload)
