"""One AMQP channel of a client: what it publishes, consumes and has not acknowledged."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from pamqp import base, commands

from parsl_globus.service.broker.embedded import frames
from parsl_globus.service.broker.embedded.fields import encode_short_text
from parsl_globus.service.broker.embedded.frames import Fault
from parsl_globus.service.broker.embedded.publisher import ChannelPublisher, Peer
from parsl_globus.service.broker.embedded.queues import Entry, Queue

#: Room of a consumer without a limit of its own.
_UNLIMITED = 1 << 30
_MULTIPLE, _REQUEUE = 1, 2


class ChannelConsumer:
    """A `basic.consume` of a client.

    Attributes:
        queue: What it consumes.
        unacked: How many deliveries wait for an acknowledgement.
    """

    def __init__(self, channel: Channel, queue: Queue, tag: str, *, no_ack: bool, prefetch: int) -> None:
        self.queue = queue
        self.tag = tag
        self.unacked = 0
        self.no_ack = no_ack
        self.encoded_tag = encode_short_text(tag)
        self._channel = channel
        self._prefetch = prefetch

    def room(self) -> int:
        """How many messages it would take now."""
        if not self._channel.peer.may_deliver(self.queue):
            return 0
        if self.no_ack:
            return _UNLIMITED
        room = self._prefetch - self.unacked if self._prefetch else _UNLIMITED
        return min(room, self._channel.shared_room())

    def take(self, entries: Sequence[Entry]) -> None:
        """Deliver these."""
        self._channel.deliver(self, entries)

    def cancelled(self) -> None:
        """The queue was deleted."""
        self._channel.cancel_from_here(self)


class Channel:
    """One channel.

    Attributes:
        number: Its number on the connection.
        peer: The connection.
        publisher: What it publishes.
        closing: Whether we closed it and wait for the client's agreement; all else from it is ignored meanwhile.
    """

    _tags = itertools.count(1)

    def __init__(self, number: int, peer: Peer) -> None:
        self.number = number
        self.peer = peer
        self.closing = False
        self.publisher = ChannelPublisher(number, peer)
        self._consumers: dict[str, ChannelConsumer] = {}
        # Ordered by tag: an acknowledgement of many takes from the front.
        self._unacked: OrderedDict[int, tuple[Entry, ChannelConsumer | None]] = OrderedDict()
        self._delivery_tag = 0
        self._prefetch = 0
        self._shared_prefetch = 0

    # ---- what arrives -----------------------------------------------------------------------------------------

    def on_method(self, payload: bytes) -> None:
        """A method frame for this channel.

        Raises:
            Fault: The client did what it may not do.
            DecodeError: The frame is malformed.
        """
        if self.publisher.busy:
            raise Fault(505, "UNEXPECTED_FRAME - expected content, got a method instead", hard=True)
        index = payload[:4]
        if index == b"\x00\x3c\x00\x28":
            self.publisher.on_publish(payload)
        elif index == b"\x00\x3c\x00\x50":
            tag, bits = frames.decode_tag_and_bits(payload)
            self._settle(tag, multiple=bool(bits & _MULTIPLE))
        elif index == b"\x00\x3c\x00\x78":
            tag, bits = frames.decode_tag_and_bits(payload)
            self._settle(tag, multiple=bool(bits & _MULTIPLE), rejected=True, requeue=bool(bits & _REQUEUE))
        elif index == b"\x00\x3c\x00\x5a":
            tag, bits = frames.decode_tag_and_bits(payload)
            self._settle(tag, multiple=False, rejected=True, requeue=bool(bits & 1))
        else:
            method = frames.decode_method(payload)
            handler = _HANDLERS.get(method.index)
            if handler is None:
                raise Fault(540, f"NOT_IMPLEMENTED - {method.name} is not offered here", hard=True)
            handler(self, method)

    def release(self) -> None:
        """The channel is gone: stop its consumers and put back what was not acknowledged."""
        self.publisher.release()
        for consumer in self._consumers.values():
            consumer.queue.remove_consumer(consumer)
        self._consumers.clear()
        by_queue: dict[Queue, list[Entry]] = {}
        for entry, _ in self._unacked.values():
            by_queue.setdefault(entry.queue, []).append(entry)
        self._unacked.clear()
        for queue, entries in by_queue.items():
            queue.put_back(entries)

    # ---- consuming --------------------------------------------------------------------------------------------

    def shared_room(self) -> int:
        """How many more deliveries the limit that all consumers share allows."""
        return self._shared_prefetch - len(self._unacked) if self._shared_prefetch else _UNLIMITED

    def deliver(self, consumer: ChannelConsumer, entries: Sequence[Entry]) -> None:
        """Send these to the client."""
        number, peer, encoded_tag = self.number, self.peer, consumer.encoded_tag
        frame_max, no_ack, tag = peer.frame_max, consumer.no_ack, self._delivery_tag
        parts: list[bytes | memoryview] = []
        for entry in entries:
            tag += 1
            message = entry.message
            route = frames.encode_route(message.exchange, message.routing_key)
            parts += frames.deliver_parts(number, encoded_tag, tag, entry.redelivered, route)
            parts += frames.content_parts(number, message.properties, message.body, frame_max)
            if no_ack:
                entry.queue.done(entry)
            else:
                self._unacked[tag] = (entry, consumer)
        self._delivery_tag = tag
        if not no_ack:
            consumer.unacked += len(entries)
        peer.send(parts)

    def _settle(self, tag: int, *, multiple: bool, rejected: bool = False, requeue: bool = False) -> None:
        unacked = self._unacked
        settled: list[tuple[Entry, ChannelConsumer | None]] = []
        if not multiple:
            if tag not in unacked:
                raise Fault(406, f"PRECONDITION_FAILED - unknown delivery tag {tag}")
            settled.append(unacked.pop(tag))
        else:
            if tag and (tag > self._delivery_tag or not unacked or next(iter(unacked)) > tag):
                raise Fault(406, f"PRECONDITION_FAILED - unknown delivery tag {tag}")
            while unacked and (not tag or next(iter(unacked)) <= tag):
                settled.append(unacked.popitem(last=False)[1])
        returned: dict[Queue, list[Entry]] = {}
        touched: set[Queue] = set()
        for entry, consumer in settled:
            if consumer is not None:
                consumer.unacked -= 1
            if rejected and requeue:
                returned.setdefault(entry.queue, []).append(entry)
            else:
                entry.queue.done(entry)
                touched.add(entry.queue)
        for queue, entries in returned.items():
            queue.put_back(entries)
        if self._shared_prefetch:
            touched.update(consumer.queue for consumer in self._consumers.values())
        for queue in touched:
            queue.wake()

    def _on_qos(self, method: commands.Basic.Qos) -> None:
        if method.prefetch_size:
            raise Fault(540, "NOT_IMPLEMENTED - prefetch_size!=0", hard=True)
        # RabbitMQ's reading: global is shared by the channel, otherwise each later consumer has its own.
        if method.global_:
            self._shared_prefetch = method.prefetch_count
            for consumer in self._consumers.values():
                consumer.queue.wake()
        else:
            self._prefetch = method.prefetch_count
        self._reply(commands.Basic.QosOk())

    def _on_consume(self, method: commands.Basic.Consume) -> None:
        queue = self._readable_queue(method.queue)
        tag = method.consumer_tag or f"amq.ctag-{next(self._tags)}"
        if tag in self._consumers:
            raise Fault(530, f"NOT_ALLOWED - attempt to reuse consumer tag '{tag}'", hard=True)
        consumer = ChannelConsumer(self, queue, tag, no_ack=bool(method.no_ack), prefetch=self._prefetch)
        if not queue.add_consumer(consumer, exclusive=bool(method.exclusive)):
            raise Fault(403, f"ACCESS_REFUSED - queue '{queue.name}' in vhost '/' in exclusive use")
        self._consumers[tag] = consumer
        if not method.nowait:
            # Goes out before the first delivery, since a queue hands out in a later step of the loop only.
            self._reply(commands.Basic.ConsumeOk(tag))

    def _on_cancel(self, method: commands.Basic.Cancel) -> None:
        consumer = self._consumers.pop(method.consumer_tag or "", None)
        if consumer is not None:
            consumer.queue.remove_consumer(consumer)
        if not method.nowait:
            self._reply(commands.Basic.CancelOk(method.consumer_tag))

    def cancel_from_here(self, consumer: ChannelConsumer) -> None:
        """The queue of this consumer is gone: tell the client, if it understands that."""
        self._consumers.pop(consumer.tag, None)
        if self.peer.cancel_notify and not self.closing:
            self._reply(commands.Basic.Cancel(consumer.tag, True))

    def _on_get(self, method: commands.Basic.Get) -> None:
        queue = self._readable_queue(method.queue)
        entry = queue.pop()
        if entry is None:
            self._reply(commands.Basic.GetEmpty())
            return
        self._delivery_tag += 1
        message = entry.message
        if method.no_ack:
            queue.done(entry)
        else:
            self._unacked[self._delivery_tag] = (entry, None)
        self._reply(
            commands.Basic.GetOk(
                self._delivery_tag,
                entry.redelivered,
                message.exchange,
                message.routing_key,
                len(queue.ready),
            )
        )
        self.peer.send(frames.content_parts(self.number, message.properties, message.body, self.peer.frame_max))

    def _readable_queue(self, name: str) -> Queue:
        if not self.peer.grant.may_consume(name):
            raise Fault(
                403,
                f"ACCESS_REFUSED - read access to queue '{name}' in vhost '/' refused for user '{self.peer.username}'",
            )
        queue = self.peer.table.queues.get(name)
        if queue is None:
            raise Fault(404, f"NOT_FOUND - no queue '{name}' in vhost '/'")
        return queue

    # ---- the rest ---------------------------------------------------------------------------------------------

    def _on_exchange_declare(self, method: commands.Exchange.Declare) -> None:
        if not method.passive:
            self._refuse_change(method)
        if not self.peer.table.has_exchange(method.exchange):
            raise Fault(404, f"NOT_FOUND - no exchange '{method.exchange}' in vhost '/'")
        if not method.nowait:
            self._reply(commands.Exchange.DeclareOk())

    def _on_queue_declare(self, method: commands.Queue.Declare) -> None:
        if not method.passive:
            self._refuse_change(method)
        queue = self.peer.table.queues.get(method.queue)
        if queue is None:
            raise Fault(404, f"NOT_FOUND - no queue '{method.queue}' in vhost '/'")
        if not method.nowait:
            self._reply(commands.Queue.DeclareOk(queue.name, len(queue.ready), len(queue.consumers)))

    def _refuse_change(self, method: base.Frame) -> None:
        raise Fault(
            403,
            f"ACCESS_REFUSED - configure access in vhost '/' refused for user '{self.peer.username}': "
            f"clients may not use {method.name} here",
        )

    def _on_confirm_select(self, method: commands.Confirm.Select) -> None:
        self.publisher.confirming = True
        if not method.nowait:
            self._reply(commands.Confirm.SelectOk())

    def _on_flow(self, method: commands.Channel.Flow) -> None:
        if not method.active:
            raise Fault(540, "NOT_IMPLEMENTED - active=false", hard=True)
        self._reply(commands.Channel.FlowOk(True))

    def _reply(self, method: base.Frame) -> None:
        self.peer.send((frames.encode_method(self.number, method),))


_HANDLERS: dict[int, Callable[[Channel, Any], None]] = {
    commands.Basic.Qos.index: Channel._on_qos,
    commands.Basic.Consume.index: Channel._on_consume,
    commands.Basic.Cancel.index: Channel._on_cancel,
    commands.Basic.CancelOk.index: lambda _channel, _method: None,
    commands.Basic.Get.index: Channel._on_get,
    commands.Confirm.Select.index: Channel._on_confirm_select,
    commands.Exchange.Declare.index: Channel._on_exchange_declare,
    commands.Queue.Declare.index: Channel._on_queue_declare,
    commands.Channel.Flow.index: Channel._on_flow,
    **{
        method.index: Channel._refuse_change
        for method in (
            commands.Exchange.Delete,
            commands.Exchange.Bind,
            commands.Exchange.Unbind,
            commands.Queue.Bind,
            commands.Queue.Unbind,
            commands.Queue.Purge,
            commands.Queue.Delete,
        )
    },
}
