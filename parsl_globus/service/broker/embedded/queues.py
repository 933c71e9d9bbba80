"""Exchanges, queues and bindings of the embedded broker: messages in order, who takes them, and how much may wait.

Everything here runs in one event loop and never waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

#: What a waiting message costs beside its body and properties; keeps many tiny messages inside the limit, too.
MESSAGE_OVERHEAD_BYTES = 300
#: After this many messages, or as many as reach this size, the room of a consumer is looked at again.
_CHUNK = 128
_CHUNK_BYTES = 256 * 1024
_ROUTES_CACHED = 10_000


class Message:
    """One published message; shared by all queues that it was routed to.

    Attributes:
        exchange: Where it was published.
        routing_key: Key it was published with.
        properties: Encoded properties, as they follow in a content header.
        body: The message itself.
        size_bytes: What it counts against a queue's limit.
        on_handled: Called when a queue with `confirm_handled` is done with it, if given.
    """

    __slots__ = ("body", "exchange", "on_handled", "properties", "routing_key", "size_bytes")

    def __init__(self, exchange: str, routing_key: str, properties: bytes, body: bytes) -> None:
        self.exchange = exchange
        self.routing_key = routing_key
        self.properties = properties
        self.body = body
        self.size_bytes = len(body) + len(properties) + MESSAGE_OVERHEAD_BYTES
        self.on_handled: Callable[[], None] | None = None


class Entry:
    """A message's place in one queue.

    Attributes:
        message: The message.
        queue: The queue.
        position: Grows with each message of the queue; puts returned messages back where they were.
        redelivered: Whether it was handed out before.
    """

    __slots__ = ("message", "position", "queue", "redelivered")

    def __init__(self, message: Message, queue: Queue, position: int) -> None:
        self.message = message
        self.queue = queue
        self.position = position
        self.redelivered = False


class Consumer(Protocol):
    """Takes messages of one queue."""

    def room(self) -> int:
        """How many messages it would take now. When this grows from 0, it calls `Queue.wake`."""

    def take(self, entries: Sequence[Entry]) -> None:
        """Take these; each is later given to `Queue.done` or `Queue.put_back`. Never more than `room`."""

    def cancelled(self) -> None:
        """The queue was deleted."""


class Queue:
    """One queue: what waits, who consumes, how many bytes it holds.

    The limit counts what is handed out but not yet acknowledged as well, since that is in memory, too.

    Attributes:
        name: Its name.
        ready: What waits, oldest first.
        consumers: Who takes from it, next one first.
        exclusive: Whether its only consumer refuses company.
        deleted: Whether it is gone; what is put back then is dropped.
        size_bytes: What it holds now.
        confirm_handled: Whether publishers get their confirm only when a message was handled, not when it waits.
    """

    def __init__(self, name: str, limit_bytes: int) -> None:
        self.name = name
        self.limit_bytes = limit_bytes
        self.ready: deque[Entry] = deque()
        self.consumers: deque[Consumer] = deque()
        self.exclusive = False
        self.deleted = False
        self.size_bytes = 0
        self.confirm_handled = False
        self._next_position = 0
        self._wake_pending = False

    def has_space(self, message: Message) -> bool:
        """Whether `message` fits in."""
        return self.size_bytes + message.size_bytes <= self.limit_bytes

    def put(self, message: Message) -> None:
        """Append a message."""
        self._next_position += 1
        self.ready.append(Entry(message, self, self._next_position))
        self.size_bytes += message.size_bytes
        if self.consumers and not self._wake_pending:
            self.wake()

    def done(self, entry: Entry) -> None:
        """Forget a message that was handed out."""
        message = entry.message
        self.size_bytes -= message.size_bytes
        if message.on_handled is not None and self.confirm_handled:
            message.on_handled()

    def put_back(self, entries: Iterable[Entry]) -> None:
        """Put messages that were handed out back to where they were, marked as redelivered."""
        returned = sorted(entries, key=lambda entry: entry.position)
        if not returned or self.deleted:
            return
        for entry in returned:
            entry.redelivered = True
        # Only what came back before can be older than the youngest of these, so little is moved here.
        youngest = returned[-1].position
        while self.ready and self.ready[0].position < youngest:
            returned.append(self.ready.popleft())
        returned.sort(key=lambda entry: entry.position)
        self.ready.extendleft(reversed(returned))
        self.wake()

    def pop(self) -> Entry | None:
        """Hand out the oldest message, if one waits."""
        return self.ready.popleft() if self.ready else None

    def add_consumer(self, consumer: Consumer, *, exclusive: bool = False) -> bool:
        """Add a consumer; returns `False` when one of the two wants to be alone."""
        if self.exclusive or (exclusive and self.consumers):
            return False
        self.exclusive = exclusive
        self.consumers.append(consumer)
        self.wake()
        return True

    def remove_consumer(self, consumer: Consumer) -> None:
        """Remove a consumer, if it is there."""
        if consumer in self.consumers:
            self.consumers.remove(consumer)
            self.exclusive = False

    def delete(self) -> None:
        """Drop everything and tell the consumers."""
        self.deleted = True
        self.ready.clear()
        consumers, self.consumers = list(self.consumers), deque()
        for consumer in consumers:
            consumer.cancelled()

    def wake(self) -> None:
        """Hand out soon what can be handed out; all that arrives until then goes along."""
        if self.ready and self.consumers and not self._wake_pending:
            self._wake_pending = True
            asyncio.get_running_loop().call_soon(self._hand_out)

    def _hand_out(self) -> None:
        self._wake_pending = False
        ready = self.ready
        while ready and self.consumers:
            if len(self.consumers) > 1:
                if not self._hand_round():
                    return
                continue
            consumer = self.consumers[0]
            room = min(consumer.room(), _CHUNK)
            if room <= 0:
                return
            consumer.take(self._pop_chunk(room))

    def _pop_chunk(self, count: int) -> list[Entry]:
        ready = self.ready
        chunk: list[Entry] = []
        size_bytes = 0
        while ready and len(chunk) < count and size_bytes < _CHUNK_BYTES:
            entry = ready.popleft()
            chunk.append(entry)
            size_bytes += entry.message.size_bytes
        return chunk

    def _hand_round(self) -> bool:
        """Give each consumer one message in turn; returns `False` when none has room."""
        taken = False
        for _ in range(len(self.consumers)):
            consumer = self.consumers[0]
            self.consumers.rotate(-1)
            if self.ready and consumer.room() > 0:
                consumer.take([self.ready.popleft()])
                taken = True
        return taken


def matches(pattern: Sequence[str], words: Sequence[str]) -> bool:
    """Whether a topic pattern fits a routing key: `*` stands for one word, `#` for any number of words."""
    # reachable[i]: the pattern so far can fit the first i words.
    reachable = [True] + [False] * len(words)
    for part in pattern:
        if part == "#":
            first = reachable.index(True) if True in reachable else len(reachable)
            reachable = [i >= first for i in range(len(reachable))]
        else:
            reachable = [False] + [reachable[i] and part in ("*", word) for i, word in enumerate(words)]
    return reachable[-1]


class QueueTable:
    """All exchanges, queues and bindings of a broker.

    Attributes:
        queues: By name.
        exchanges: Topic exchanges by name, each with its bindings: pairs of pattern and queue.
    """

    def __init__(self, queue_limit_bytes: int) -> None:
        self._queue_limit_bytes = queue_limit_bytes
        self.queues: dict[str, Queue] = {}
        self.exchanges: dict[str, list[tuple[tuple[str, ...], Queue]]] = {}
        self._routes: dict[tuple[str, str], tuple[Queue, ...]] = {}

    def declare_exchange(self, name: str) -> None:
        """Make sure that the topic exchange exists."""
        self.exchanges.setdefault(name, [])

    def declare_queue(self, name: str) -> Queue:
        """The queue of this name, made if need be."""
        queue = self.queues.get(name)
        if queue is None:
            queue = self.queues[name] = Queue(name, self._queue_limit_bytes)
            self._routes.clear()
        return queue

    def bind(self, queue: Queue, exchange: str, binding_key: str) -> None:
        """Route what is published to `exchange` with a key that fits `binding_key` to `queue`. Twice is once."""
        binding = (tuple(binding_key.split(".")), queue)
        if binding not in self.exchanges[exchange]:
            self.exchanges[exchange].append(binding)
            self._routes.clear()

    def delete_queue(self, name: str) -> None:
        """Remove a queue, if it is there, with its bindings and what it holds."""
        queue = self.queues.pop(name, None)
        if queue is None:
            return
        for bindings in self.exchanges.values():
            bindings[:] = [binding for binding in bindings if binding[1] is not queue]
        self._routes.clear()
        queue.delete()

    def has_exchange(self, name: str) -> bool:
        """Whether one can publish to it; "" is the default exchange."""
        return not name or name in self.exchanges

    def route(self, exchange: str, routing_key: str) -> tuple[Queue, ...]:
        """The queues that a message goes to; the exchange must exist."""
        if not exchange:
            queue = self.queues.get(routing_key)
            return () if queue is None else (queue,)
        key = (exchange, routing_key)
        queues = self._routes.get(key)
        if queues is None:
            words = routing_key.split(".")
            found = {id(q): q for pattern, q in self.exchanges[exchange] if matches(pattern, words)}
            if len(self._routes) >= _ROUTES_CACHED:
                self._routes.clear()
            queues = self._routes[key] = tuple(found.values())
        return queues

    def publish(self, queues: Sequence[Queue], message: Message) -> bool:
        """Put a message into all of `queues`, or into none and return `False` when one of them is full."""
        for queue in queues:
            if not queue.has_space(message):
                return False
        for queue in queues:
            queue.put(message)
        return True
