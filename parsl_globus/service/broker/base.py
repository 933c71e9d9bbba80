"""What the service asks of a message broker, and what a broker asks of the service.

The store is the truth; a broker only carries. It may lose everything at any moment: the service publishes again
what is not finished.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Grant:
    """What one login may do. Everything that is not listed is refused.

    Attributes:
        consume_queues: Queues that may be consumed.
        consume_prefixes: Every queue whose name starts with one of these may be consumed, too.
        publish_keys: Pairs of exchange and routing key that may be published to.
    """

    consume_queues: frozenset[str] = frozenset()
    consume_prefixes: frozenset[str] = frozenset()
    publish_keys: frozenset[tuple[str, str]] = frozenset()

    def may_consume(self, queue: str) -> bool:
        """Whether this login may consume `queue`."""
        return queue in self.consume_queues or any(queue.startswith(p) for p in self.consume_prefixes)

    def may_publish(self, exchange: str, routing_key: str) -> bool:
        """Whether this login may publish to `exchange` with `routing_key`."""
        return (exchange, routing_key) in self.publish_keys


#: Judges a login: user name and password to what it may do, or `None` to refuse. Quick, no I/O.
Authorize = Callable[[str, str], Grant | None]


@dataclass(frozen=True)
class Publication:
    """One message to publish.

    Attributes:
        routing_key: The queue's name for the default exchange (`exchange=""`).
        body: The message; the broker never looks into it.
        exchange: Name of a declared topic exchange, or "" for the default one.
        headers: AMQP headers; values are text, whole numbers, booleans or lists of text.
        content_type: Sent as the property of this name, if given.
        timestamp_s: Sent as the property `timestamp`, whole seconds since the epoch, if given.
    """

    routing_key: str
    body: bytes
    exchange: str = ""
    headers: Mapping[str, Any] = field(default_factory=dict)
    content_type: str | None = None
    timestamp_s: int | None = None


@dataclass(frozen=True)
class Delivery:
    """One message that arrived for the service.

    Attributes:
        routing_key: The key it was published with.
        body: The message.
        headers: AMQP headers.
        redelivered: Whether it may have been delivered before.
    """

    routing_key: str
    body: bytes
    headers: Mapping[str, Any]
    redelivered: bool


#: Takes all deliveries that wait, in order. When it returns, all are acknowledged; when it raises, all are put back
#: and delivered again after a pause.
Handler = Callable[[Sequence[Delivery]], Awaitable[None]]


@dataclass(frozen=True)
class Refill:
    """How the service fills a broker that holds nothing.

    Attributes:
        declare: Declares all exchanges and queues; clients wait for this.
        publish: Publishes unfinished tasks, and results that may not have been fetched.
    """

    declare: Callable[[], Awaitable[None]]
    publish: Callable[[], Awaitable[None]]


class Broker(Protocol):
    """A message broker, as the service uses it from its event loop.

    Promises: messages of one queue are delivered in the order published unless redelivered; delivery is at least
    once; `publish` returns only when the broker has taken responsibility for every message. Not thread-safe: call
    it from the event loop that called `start`.

    Attributes:
        refill: Called when the broker holds nothing: at the start, or when it comes back and has lost everything. Of
            the processes on one broker, only one is called. All is declared when `start` returns, but `publish` may
            still be at work. Set it before `start`.
        kept: Whether `start` found the broker filled, so that `refill` was not called.
    """

    refill: Refill | None
    kept: bool

    async def start(self) -> None:
        """Connect or listen, and have it filled. Raises `ConfigError` when the port is in use or the server refuses."""

    async def stop(self) -> None:
        """Stop taking and handing out messages, close all connections. Calling it twice is harmless."""

    async def declare_exchange(self, name: str) -> None:
        """Make sure the durable topic exchange exists."""

    async def declare_queue(self, name: str, *, exchange: str = "", binding_key: str = "") -> None:
        """Make sure the durable queue exists; with `exchange`, bind it with `binding_key` (`*` matches a word).

        Raises:
            BrokerRefused: There is no such exchange.
        """

    async def delete_queue(self, name: str) -> None:
        """Remove the queue with what it holds. An unknown queue is not an error."""

    async def queue_length(self, name: str) -> int | None:
        """How many messages wait undelivered in the queue; `None` when there is no such queue."""

    async def publish(self, publications: Sequence[Publication]) -> None:
        """Publish all and return when all are confirmed.

        Raises:
            BrokerRefused: A message was not taken (no such queue or exchange, or the queue is full). The others
                of the batch may have been taken.
            LinkError: The broker can't be reached now.
        """

    async def consume(self, queue: str, handler: Handler, *, prefetch: int = 1000) -> None:
        """Hand what arrives in `queue` to `handler` in batches of at most `prefetch`, until `stop`.

        Raises:
            BrokerRefused: There is no such queue, or a client consumes it exclusively.
        """

    def connection_url(self, username: str, password: str) -> str:
        """The AMQP URL that an endpoint or a client of this login connects to. It holds the password."""
