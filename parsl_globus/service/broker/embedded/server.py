"""The embedded AMQP 0-9-1 broker: for one service process, with queues in its memory."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Sequence
from urllib.parse import quote

from parsl_globus.errors import BrokerRefused, ConfigError, LinkClosed
from parsl_globus.service.broker.base import Authorize, Handler, Publication, Refill
from parsl_globus.service.broker.embedded.connection import Connection, Limits
from parsl_globus.service.broker.embedded.fields import encode_properties, encode_short_text
from parsl_globus.service.broker.embedded.local import LocalConsumer
from parsl_globus.service.broker.embedded.queues import Message, QueueTable

logger = logging.getLogger(__name__)

DEFAULT_QUEUE_LIMIT_BYTES = 512 * 1024 * 1024
#: How long `stop` waits for clients to agree, and for handlers to finish their batch.
_STOP_GRACE_S = 1.0


class EmbeddedBroker:
    """A broker in the service's own process.

    It keeps nothing on disk: what it holds is lost with the process, as the interface allows.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 picks a free one.
        authorize: Judges logins; called in the event loop.
        queue_limit_bytes: What one queue may hold, unacknowledged messages included. Over it, a publish is refused.
        limits: What one connection may use.
        tls: Listens with TLS if given.
        public_host: The name that clients connect to; `None` for `host`.
        public_url: The URL that clients connect to, without a login, where a proxy is in between.

    Attributes:
        refill: See `Broker`; it always starts empty.
        kept: Never.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 5672,
        authorize: Authorize = lambda _username, _password: None,
        *,
        queue_limit_bytes: int = DEFAULT_QUEUE_LIMIT_BYTES,
        limits: Limits | None = None,
        tls: ssl.SSLContext | None = None,
        public_host: str | None = None,
        public_url: str | None = None,
    ) -> None:
        self._host = host
        self._port = port
        self._authorize = authorize
        self._limits = limits or Limits()
        self._tls = tls
        self._public_host = public_host or host
        self._public_url = public_url
        self._table = QueueTable(queue_limit_bytes)
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._consumers: list[LocalConsumer] = []
        self._running = False
        self.refill: Refill | None = None
        self.kept = False

    @property
    def port(self) -> int:
        """The port it listens on; the one asked for until it is started."""
        return self._port

    async def start(self) -> None:
        """Listen. Raises `ConfigError` when the address can't be used."""
        if self.refill is not None:
            # Clients connect again the moment it listens, and the public SDK gives up on a queue that isn't there yet.
            await self.refill.declare()
        try:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: Connection(self._table, self._authorize, self._limits, self._connections),
                self._host,
                self._port,
                ssl=self._tls,
            )
        except OSError as error:
            raise ConfigError(
                f"The message broker can't listen on {self._host}:{self._port} ({error.strerror or error}). "
                "End the program that uses this port, or choose another with --amqp-port (0 picks a free one)."
            ) from error
        self._port = self._server.sockets[0].getsockname()[1]
        self._running = True
        logger.info("The message broker listens on %s:%d", self._host, self._port)
        if self.refill is not None:
            await self.refill.publish()

    async def stop(self) -> None:
        """Stop taking and handing out messages, close all connections. Calling it twice is harmless."""
        self._running = False
        server, self._server = self._server, None
        if server is not None:
            server.close()
        connections = list(self._connections)
        for connection in connections:
            connection.stop(320, "CONNECTION_FORCED - the service stops")
        consumers, self._consumers = self._consumers, []
        waiting = [asyncio.ensure_future(consumer.stop(_STOP_GRACE_S)) for consumer in consumers]
        if connections:
            await asyncio.wait([connection.lost for connection in connections], timeout=_STOP_GRACE_S)
        for connection in list(self._connections):
            connection.abort("the service stops")
        if waiting:
            await asyncio.gather(*waiting)
        if server is not None:
            await server.wait_closed()

    async def declare_exchange(self, name: str) -> None:
        """Make sure the topic exchange exists."""
        self._table.declare_exchange(name)

    async def declare_queue(self, name: str, *, exchange: str = "", binding_key: str = "") -> None:
        """Make sure the queue exists; with `exchange`, bind it with `binding_key`.

        Raises:
            BrokerRefused: There is no such exchange.
        """
        if not self._table.has_exchange(exchange):
            raise BrokerRefused(routing_key=binding_key, detail=f"there is no exchange '{exchange}'")
        queue = self._table.declare_queue(name)
        if exchange:
            self._table.bind(queue, exchange, binding_key)

    async def delete_queue(self, name: str) -> None:
        """Remove the queue with what it holds. An unknown queue is not an error."""
        self._table.delete_queue(name)

    async def queue_length(self, name: str) -> int | None:
        """How many messages wait undelivered in the queue; `None` when there is no such queue."""
        queue = self._table.queues.get(name)
        return None if queue is None else len(queue.ready)

    async def publish(self, publications: Sequence[Publication]) -> None:
        """Publish all; see `Broker.publish`. All that can be taken is taken, whatever becomes of the others."""
        if not self._running:
            raise LinkClosed
        refused: BrokerRefused | None = None
        for publication in publications:
            detail = self._publish(publication)
            if detail and refused is None:
                refused = BrokerRefused(routing_key=publication.routing_key, detail=detail)
        if refused is not None:
            raise refused

    def _publish(self, publication: Publication) -> str:
        """Publish one message; returns why it was refused, or nothing."""
        exchange, routing_key = publication.exchange, publication.routing_key
        if not self._table.has_exchange(exchange):
            return f"there is no exchange '{exchange}'"
        queues = self._table.route(exchange, routing_key)
        if not queues:
            return "no queue takes it"
        try:
            encode_short_text(routing_key)
            properties = encode_properties(
                publication.headers,
                content_type=publication.content_type,
                timestamp_s=publication.timestamp_s,
            )
        except ValueError as error:
            return str(error)
        message = Message(exchange, routing_key, properties, publication.body)
        if not self._table.publish(queues, message):
            return "its queue is full"
        return ""

    async def consume(self, queue: str, handler: Handler, *, prefetch: int = 1000) -> None:
        """Hand what arrives in `queue` to `handler` in batches of at most `prefetch`, until `stop`.

        This broker forgets all with its process, so from here on clients get their confirms for this queue only when
        `handler` has returned: what was not handled, they still have and send again.

        Raises:
            BrokerRefused: There is no such queue, or a client consumes it alone.
        """
        found = self._table.queues.get(queue)
        if found is None:
            raise BrokerRefused(routing_key=queue, detail="there is no such queue")
        found.confirm_handled = True
        consumer = LocalConsumer(found, handler, prefetch)
        if not found.add_consumer(consumer):
            await consumer.stop(0)
            raise BrokerRefused(routing_key=queue, detail="another consumer has it alone")
        self._consumers.append(consumer)

    def connection_url(self, username: str, password: str) -> str:
        """The AMQP URL that an endpoint or a client of this login connects to. It holds the password."""
        if self._public_url is not None:
            scheme, _, rest = self._public_url.partition("://")
            where = rest.rpartition("@")[2].partition("/")[0]
            return f"{scheme}://{quote(username, safe='')}:{quote(password, safe='')}@{where}/%2F"
        scheme = "amqp" if self._tls is None else "amqps"
        host = f"[{self._public_host}]" if ":" in self._public_host else self._public_host
        return f"{scheme}://{quote(username, safe='')}:{quote(password, safe='')}@{host}:{self._port}/%2F"
