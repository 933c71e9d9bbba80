"""One connection to RabbitMQ, from its login to its loss."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel as PikaChannel
from pika.exceptions import (
    ChannelClosedByBroker,
    ConnectionClosedByBroker,
    ConnectionWrongStateError,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)

from parsl_globus.errors import LinkGaveUp
from parsl_globus.pika_private import read_more_at_once
from parsl_globus.pika_reason import reason_text
from parsl_globus.service.broker.base import Publication
from parsl_globus.service.broker.rabbitmq.address import connection_parameters
from parsl_globus.service.broker.rabbitmq.channel import Channel
from parsl_globus.service.broker.rabbitmq.publisher import Publisher
from parsl_globus.service.broker.rabbitmq.within import within

_T = TypeVar("_T")

#: What pika makes of a broker that does not let somebody in.
REFUSED_LOGINS = (ProbableAuthenticationError, ProbableAccessDeniedError)

_CONNECT_S = 10.0
#: So long a broker that is short of memory or disk may read nothing before the connection counts as lost.
_BLOCKED_S = 50.0
_CLOSE_S = 2.0


class Session:
    """Channels of one connection.

    Whatever pika makes of a connection that breaks, callers see `LinkGaveUp`; and they see it at once, not when
    something times out.

    Attributes:
        lost: Done when the connection is gone; its result says why.
        over: Whether it is gone, or being closed by this side.
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[str] = loop.create_future()
        self.over = False
        self._opened: asyncio.Future[None] = loop.create_future()
        self._connection: AsyncioConnection | None = None
        self._asking: Channel | None = None
        self._ask_lock = asyncio.Lock()
        self._publisher: Publisher | None = None
        self._publish_lock = asyncio.Lock()

    @classmethod
    async def open(cls, url: str) -> Session:
        """Connect and log in.

        Raises:
            ProbableAuthenticationError: The login was refused.
            ProbableAccessDeniedError: It may not use the virtual host.
            LinkGaveUp: There was no connection.
        """
        session = cls()
        began_s = time.monotonic()
        try:
            await session._open(url)
        except asyncio.TimeoutError as exc:
            session._hang_up()
            raise LinkGaveUp(after_s=time.monotonic() - began_s, detail="the broker does not answer") from exc
        except BaseException:
            session._hang_up()
            raise
        return session

    async def _open(self, url: str) -> None:
        parameters = connection_parameters(url)
        parameters.socket_timeout = parameters.stack_timeout = _CONNECT_S
        # In time for who waits for a confirm; what was not taken is not kept for it, either.
        parameters.blocked_connection_timeout = _BLOCKED_S
        self._connection = AsyncioConnection(
            parameters,
            on_open_callback=self._on_opened,
            on_open_error_callback=self._on_failed,
            on_close_callback=lambda _connection, reason: self._lose(reason_text(reason)),
            custom_ioloop=asyncio.get_running_loop(),
        )
        await within(2 * _CONNECT_S, self._opened)

    def _on_opened(self, connection: AsyncioConnection) -> None:
        read_more_at_once(connection)
        if self._opened.done():  # nobody waits for it any more
            connection.close()
        else:
            self._opened.set_result(None)

    def _on_failed(self, _connection: AsyncioConnection, reason: Exception) -> None:
        if not self._opened.done():
            # pika takes every loss during the login for one of these.
            known = isinstance(reason, REFUSED_LOGINS) and ConnectionClosedByBroker.__name__ in str(reason)
            self._opened.set_exception(reason if known else LinkGaveUp(after_s=0, detail=reason_text(reason)))

    def _hang_up(self) -> None:
        self.over = True
        connection = self._connection
        if connection is not None and not (connection.is_closing or connection.is_closed):
            with suppress(ConnectionWrongStateError):
                connection.close()

    async def close(self) -> None:
        """Say good-bye. Calling it twice is harmless."""
        self._hang_up()
        await asyncio.wait([self.lost], timeout=_CLOSE_S)
        self._lose("it was closed")

    def _lose(self, why: str) -> None:
        self.over = True
        if not self.lost.done():
            self.lost.set_result(why)

    async def channel(self) -> Channel:
        """Open a channel.

        Raises:
            LinkGaveUp: The connection broke.
        """
        opened: asyncio.Future[PikaChannel] = asyncio.get_running_loop().create_future()
        assert self._connection is not None  # it was opened
        try:
            self._connection.channel(on_open_callback=partial(_opened_channel, opened))
        except ConnectionWrongStateError as exc:
            raise LinkGaveUp(after_s=0, detail="the connection broke") from exc
        try:
            await asyncio.wait([opened, self.lost], timeout=_CONNECT_S, return_when=asyncio.FIRST_COMPLETED)
            if opened.done():
                return Channel(opened.result())
        finally:
            opened.cancel()  # which a done one takes no notice of; also where the caller was cancelled
        raise LinkGaveUp(after_s=0, detail=self.lost.result() if self.lost.done() else "the broker does not answer")

    async def ask(self, call: Callable[[Channel], Awaitable[_T]]) -> _T:
        """Have the broker do something, one call after the other.

        Raises:
            LinkGaveUp: As `Channel.ask`.
            ChannelClosedByBroker: As `Channel.ask`; the next call gets a new channel.
        """
        async with self._ask_lock:
            channel = self._asking
            if channel is None or not channel.is_open:
                channel = self._asking = await self.channel()
            try:
                return await call(channel)
            except (ChannelClosedByBroker, LinkGaveUp):
                self._asking = None
                if channel.raw.is_open:  # it does not answer
                    channel.raw.close()
                raise

    async def publish(self, publications: Sequence[Publication]) -> None:
        """Publish all without waiting in between, and wait for all confirms. See `Broker.publish`."""
        async with self._publish_lock:
            publisher = self._publisher
            if publisher is None or not publisher.channel.is_open:
                publisher = self._publisher = await self._open_publisher()
        await publisher.publish(publications)

    async def _open_publisher(self) -> Publisher:
        try:
            return await Publisher.open(await self.channel())
        except ChannelClosedByBroker as exc:
            raise LinkGaveUp(after_s=0, detail=reason_text(exc)) from exc


def _opened_channel(opened: asyncio.Future[PikaChannel], raw: PikaChannel) -> None:
    if opened.done():  # nobody waits for it any more
        raw.close()
    else:
        opened.set_result(raw)
