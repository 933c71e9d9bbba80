"""The service's side of RabbitMQ: connected again after every loss, and filled again after it lost everything."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from pika.exceptions import ChannelClosedByBroker

from parsl_globus.errors import BrokerRefused, ConfigError, LinkClosed, LinkError, LinkGaveUp
from parsl_globus.service.broker.base import Handler, Publication, Refill
from parsl_globus.service.broker.rabbitmq.address import broker_address, service_access
from parsl_globus.service.broker.rabbitmq.channel import FORBIDDEN, LOCKED, NOT_FOUND, OTHERWISE, Channel
from parsl_globus.service.broker.rabbitmq.consumer import Consumer
from parsl_globus.service.broker.rabbitmq.session import REFUSED_LOGINS, Session
from parsl_globus.service.broker.rabbitmq.within import within

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

DEFAULT_QUEUE_LIMIT_BYTES = 512 * 1024 * 1024
#: A durable queue that only the service declares: where it is missing, the broker has lost everything.
_MARKER = "parsl_globus.marker"
#: A queue of one connection: its process is the one that fills the broker again.
_LOCK = "parsl_globus.restoring"
#: How long a call waits for a connection before it fails, so that a short interruption is not noticed.
_PATIENCE_S = 2.0
_FIRST_RETRY_S = 0.1
_LONGEST_RETRY_S = 2.0
_STOP_GRACE_S = 1.0
#: How often it is looked whether another process has filled the broker.
_LOOK_S = 0.2


class RabbitMQBroker:
    """A client of RabbitMQ.

    Logins of endpoints and clients are not made there: RabbitMQ asks the service, see `routes/broker_auth.py`.

    Args:
        url: `amqp://user:password@host:port/vhost` of the service's own login, which must have all rights there.
        public_url: How endpoints and clients reach the broker, without a login; by default as the service does.
        queue_limit_bytes: What one queue may hold; over it, a publish is refused.
        start_s: How long `start` waits for a broker that doesn't listen yet.

    Attributes:
        refill: See `Broker`.
        kept: See `Broker`.
    """

    def __init__(
        self,
        url: str,
        *,
        public_url: str | None = None,
        queue_limit_bytes: int = DEFAULT_QUEUE_LIMIT_BYTES,
        start_s: float = 30.0,
    ) -> None:
        self._access = service_access(url)
        self._public = broker_address(public_url, "--broker-public-url") if public_url else self._access.address
        self._limit_bytes = queue_limit_bytes
        self._start_s = start_s
        self._session: Session | None = None
        self._connected = asyncio.Event()
        self._consumers: list[Consumer] = []
        self._keeper: asyncio.Task[None] | None = None
        self._stopped = False
        #: Set while there is a connection to a broker that has all queues.
        self._whole = asyncio.Event()
        self.refill: Refill | None = None
        self.kept = False

    @property
    def port(self) -> int:
        """The port that clients connect to."""
        return self._public.port

    # ---- from start to stop -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect. Raises `ConfigError` when there is no broker, or it refuses the service's login."""
        session = await self._first_session()
        self._use(session)
        try:
            self.kept = await _there(session, _MARKER)
            to_fill = not self.kept and await self._declare(session)
        except ChannelClosedByBroker as exc:
            await self.stop()
            raise ConfigError(
                f"The message broker at {self._access.address} does not let the service declare queues ({exc!r}). "
                "Give its user all rights: rabbitmqctl set_permissions -p VHOST USER '.*' '.*' '.*'"
            ) from exc
        except LinkError as exc:
            await self.stop()
            raise self._unreachable(exc) from exc
        self._whole.set()
        self._keeper = asyncio.create_task(self._keep(session, to_fill), name="broker connection")
        logger.info("Connected to the message broker at %s", self._access.address)

    async def _first_session(self) -> Session:
        deadline_s = time.monotonic() + self._start_s
        told = False
        while True:
            try:
                return await Session.open(self._access.url)
            except REFUSED_LOGINS as exc:
                raise ConfigError(
                    f"The message broker at {self._access.address} refuses the service's own login. "
                    "Check user, password and virtual host in --broker."
                ) from exc
            except LinkError as exc:
                if time.monotonic() >= deadline_s:
                    raise self._unreachable(exc) from exc
                if not told:
                    logger.info("Waiting for the message broker at %s (%s)", self._access.address, exc)
                    told = True
            await asyncio.sleep(_FIRST_RETRY_S)

    def _unreachable(self, exc: LinkError) -> ConfigError:
        return ConfigError(
            f"The message broker at {self._access.address} can't be used: {exc} "
            "Start RabbitMQ there, or check --broker."
        )

    async def stop(self) -> None:
        """Stop taking and handing out messages, close the connection. Calling it twice is harmless."""
        self._stopped = True
        keeper, self._keeper = self._keeper, None
        consumers, self._consumers = self._consumers, []
        await asyncio.gather(*(consumer.stop(_STOP_GRACE_S) for consumer in consumers))
        if keeper is not None:
            while not keeper.done():  # what it calls may miss that it is cancelled
                keeper.cancel()
                await asyncio.wait([keeper], timeout=_STOP_GRACE_S)
            if not keeper.cancelled() and (failure := keeper.exception()) is not None:
                logger.error("What kept the connection to the message broker had failed", exc_info=failure)
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _use(self, session: Session) -> None:
        self._session = session
        self._connected.set()

    async def _keep(self, session: Session, to_fill: bool) -> None:
        """Keep connected, until cancelled."""
        if to_fill:
            # Not in `start`, as it may take long: until that ends, the service can't judge logins.
            await self._fill_patiently(session)
        while True:
            why = await asyncio.shield(session.lost)
            self._connected.clear()
            self._whole.clear()
            self._session = None
            lost_s = time.monotonic()
            logger.warning("The connection to the message broker was lost: %s", why)
            session = await self._next_session()
            logger.warning("Connected to the message broker again after %.1f s", time.monotonic() - lost_s)

    async def _fill_patiently(self, session: Session) -> None:
        """Fill the broker; when the connection is lost meanwhile, the next one finds no marker, and fills again."""
        pause_s = _FIRST_RETRY_S
        while not session.lost.done():
            try:
                await self._fill(session)
                return
            except Exception:
                # The outermost loop of this task.
                logger.warning("The message broker could not be filled; it is tried again", exc_info=True)
            await asyncio.wait([session.lost], timeout=pause_s)
            pause_s = min(2 * pause_s, _LONGEST_RETRY_S)

    async def _next_session(self) -> Session:
        pause_s = _FIRST_RETRY_S
        while True:
            session = None
            try:
                session = await Session.open(self._access.url)
                self._use(session)
                await self._settle(session)
                self._whole.set()
                return session
            except (LinkError, ChannelClosedByBroker, *REFUSED_LOGINS) as exc:
                # Said once, when it began; a refused login may be a broker that is just being set up again.
                logger.debug("The message broker at %s is not ready: %r", self._access.address, exc)
            except Exception:
                # The outermost loop of this task: without it the service would stay cut off.
                logger.exception("The message broker could not be filled again; it is tried again")
            self._connected.clear()
            self._whole.clear()
            self._session = None
            if session is not None:
                await session.close()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_RETRY_S)

    # ---- after a loss -------------------------------------------------------------------------------------------

    async def _settle(self, session: Session) -> None:
        """Fill the broker again if it lost everything, and consume again."""
        if not await _there(session, _MARKER):
            await self._restore(session)
        for consumer in list(self._consumers):
            try:
                await consumer.attach(session)
            except ChannelClosedByBroker as exc:
                _expect(exc, NOT_FOUND)
                if self.refill is None:
                    self._forget(consumer)
                    continue
                await self._restore(session)
                await consumer.attach(session)

    async def _restore(self, session: Session) -> None:
        if await self._declare(session):
            await self._fill(session)

    async def _declare(self, session: Session) -> bool:
        """Declare everything, or wait for the process that does; returns whether this one is to fill it, too."""
        if self.refill is None:
            await session.ask(_declare_marker)
            return False
        while not await self._is_first(session):
            await asyncio.sleep(_LOOK_S)
            if await _there(session, _MARKER):
                return False
        logger.info("The message broker holds nothing of this service; it is filled from the database")
        await self.refill.declare()
        self._whole.set()
        return True

    async def _fill(self, session: Session) -> None:
        assert self.refill is not None  # it declared the queues
        await self.refill.publish()
        await session.ask(_declare_marker)
        await session.ask(lambda channel: channel.ask(channel.raw.queue_delete, _LOCK))

    async def _is_first(self, session: Session) -> bool:
        """Whether this process is to fill the broker, and not another one that is at it."""
        try:
            await session.ask(lambda channel: channel.ask(channel.raw.queue_declare, _LOCK, exclusive=True))
        except ChannelClosedByBroker as exc:
            _expect(exc, LOCKED)
            return False
        return True

    def _forget(self, consumer: Consumer) -> None:
        if consumer in self._consumers:
            logger.warning("Queue '%s' is gone and is not consumed any more", consumer.queue)
            self._consumers.remove(consumer)
            consumer.end()

    def _on_consumer_end(self, consumer: Consumer) -> None:
        session = self._session
        if self._stopped or session is None:
            return
        if self.refill is None:
            self._forget(consumer)
            return
        # Rare, and never wanted: all is set up again, as after a lost connection.
        logger.warning("The message broker ended the service's consumer of queue '%s'", consumer.queue)
        self._closing = asyncio.ensure_future(session.close())

    async def wait_whole(self, limit_s: float) -> None:
        """Wait until the broker has all queues, at most `limit_s`."""
        with suppress(asyncio.TimeoutError):
            await within(limit_s, self._whole.wait())

    # ---- calls ----------------------------------------------------------------------------------------------------

    async def _current(self) -> Session:
        if self._session is None or self._session.lost.done():
            if self._stopped:
                raise LinkClosed
            try:
                await within(_PATIENCE_S, self._connected.wait())
            except asyncio.TimeoutError as exc:
                raise LinkGaveUp(after_s=_PATIENCE_S, detail=f"{self._access.address} does not answer") from exc
        if self._session is None:
            raise LinkClosed
        return self._session

    async def _ask(self, call: Callable[[Channel], Awaitable[_T]]) -> _T:
        return await (await self._current()).ask(call)

    async def declare_exchange(self, name: str) -> None:
        """Make sure the durable topic exchange exists."""
        await self._ask(
            lambda channel: channel.ask(channel.raw.exchange_declare, name, exchange_type="topic", durable=True)
        )

    async def declare_queue(self, name: str, *, exchange: str = "", binding_key: str = "") -> None:
        """Make sure the durable queue exists; see `Broker.declare_queue`."""
        arguments = {"x-max-length-bytes": self._limit_bytes, "x-overflow": "reject-publish"}
        try:
            await self._ask(
                lambda channel: channel.ask(channel.raw.queue_declare, name, durable=True, arguments=arguments)
            )
        except ChannelClosedByBroker as exc:
            _expect(exc, OTHERWISE)
            # Declared with another limit before: it carries messages all the same.
            logger.info("Queue '%s' is used as it is: %r", name, exc)
        if exchange:
            try:
                await self._ask(
                    lambda channel: channel.ask(channel.raw.queue_bind, name, exchange, routing_key=binding_key)
                )
            except ChannelClosedByBroker as exc:
                _expect(exc, NOT_FOUND)
                raise BrokerRefused(routing_key=binding_key, detail=f"there is no exchange '{exchange}'") from exc

    async def delete_queue(self, name: str) -> None:
        """Remove the queue with what it holds. An unknown queue is not an error."""
        await self._ask(lambda channel: channel.ask(channel.raw.queue_delete, name))

    async def queue_length(self, name: str) -> int | None:
        """How many messages wait undelivered in the queue; `None` when there is no such queue."""
        try:
            reply = await self._ask(lambda channel: channel.ask(channel.raw.queue_declare, name, passive=True))
        except ChannelClosedByBroker as exc:
            _expect(exc, NOT_FOUND)
            return None
        return int(reply.method.message_count)

    async def publish(self, publications: Sequence[Publication]) -> None:
        """Publish all and return when all are confirmed; see `Broker.publish`."""
        if publications:
            await (await self._current()).publish(publications)

    async def consume(self, queue: str, handler: Handler, *, prefetch: int = 1000) -> None:
        """Hand what arrives in `queue` to `handler` in batches of at most `prefetch`, until `stop`.

        Other processes may consume the same queue: each message goes to one of them.

        Raises:
            BrokerRefused: There is no such queue, or a client consumes it exclusively.
        """
        consumer = Consumer(queue, handler, prefetch, self._on_consumer_end)
        try:
            await consumer.attach(await self._current())
        except ChannelClosedByBroker as exc:
            if exc.reply_code == FORBIDDEN:
                raise BrokerRefused(routing_key=queue, detail="another consumer has it alone") from exc
            _expect(exc, NOT_FOUND)
            raise BrokerRefused(routing_key=queue, detail="there is no such queue") from exc
        self._consumers.append(consumer)

    def connection_url(self, username: str, password: str) -> str:
        """The AMQP URL that an endpoint or a client of this login connects to. It holds the password."""
        return self._public.url(username, password)


async def _there(session: Session, queue: str) -> bool:
    try:
        await session.ask(lambda channel: channel.ask(channel.raw.queue_declare, queue, passive=True))
    except ChannelClosedByBroker as exc:
        _expect(exc, NOT_FOUND)
        return False
    return True


async def _declare_marker(channel: Channel) -> None:
    await channel.ask(channel.raw.queue_declare, _MARKER, durable=True)


def _expect(exc: ChannelClosedByBroker, reply_code: int) -> None:
    """Raise it again unless it was closed for this."""
    if exc.reply_code != reply_code:
        raise exc
