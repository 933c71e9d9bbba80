"""One connection to RabbitMQ, from its login to its loss."""

from __future__ import annotations

import asyncio
import datetime
import logging
import struct
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import aiormq
from aiormq import exceptions, spec
from aiormq.channel import Channel

from parsl_globus.errors import BrokerRefused, LinkGaveUp
from parsl_globus.service.broker.base import Publication

logger = logging.getLogger(__name__)
# An outage is reported once, here; the driver would report it at each attempt, with its traceback.
logging.getLogger("aiormq").setLevel(logging.CRITICAL)

_T = TypeVar("_T")

_CONNECT_S = 10.0
_CLOSE_S = 2.0
_REPLY_S = 30.0
#: A broker short of memory or disk stops reading: what it has not confirmed by then counts as not taken.
_CONFIRM_S = 60.0


class Session:
    """Channels of one connection.

    Whatever the driver raises when the connection breaks, callers see `LinkGaveUp`; and they see it at once, not
    when something times out.

    Attributes:
        lost: Done when the connection is gone; its result says why.
    """

    def __init__(self, connection: aiormq.Connection) -> None:
        self._connection = connection
        self._asking: Channel | None = None
        self._ask_lock = asyncio.Lock()
        self._publishing: Channel | None = None
        self._publish_lock = asyncio.Lock()
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        connection.closing.add_done_callback(self._on_closed)

    @classmethod
    async def open(cls, url: str) -> Session:
        """Connect and log in.

        Raises:
            ProbableAuthenticationError: The login was refused.
            LinkGaveUp: There was no connection.
        """
        connection = aiormq.Connection(url)
        begun_s = time.monotonic()
        try:
            await asyncio.wait_for(connection.connect(), _CONNECT_S)
        except exceptions.ProbableAuthenticationError:
            raise
        except (exceptions.AMQPError, OSError, asyncio.TimeoutError) as exc:
            raise LinkGaveUp(after_s=time.monotonic() - begun_s, detail=_text(exc)) from exc
        return cls(connection)

    async def close(self) -> None:
        """Say good-bye. Calling it twice is harmless."""
        # What the other side makes of it does not matter any more.
        with suppress(exceptions.AMQPError, OSError, asyncio.TimeoutError):
            await asyncio.wait_for(self._connection.close(), _CLOSE_S)
        self._lose("it was closed")

    def _on_closed(self, closing: asyncio.Future[object]) -> None:
        error = None if closing.cancelled() else closing.exception()
        self._lose(_text(error) if error is not None else "it was closed")

    def _lose(self, why: str) -> None:
        if not self.lost.done():
            self.lost.set_result(why)

    async def guard(self, call: Awaitable[_T], limit_s: float = _REPLY_S) -> _T:
        """Await a call on this connection.

        Raises:
            LinkGaveUp: The connection broke, or no answer came in time.
            AMQPChannelError: The broker refused.
        """
        begun_s = time.monotonic()
        task = asyncio.ensure_future(call)
        try:
            waits: set[asyncio.Future[Any]] = {task, self.lost}
            await asyncio.wait(waits, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not task.done():
            task.cancel()
            detail = self.lost.result() if self.lost.done() else "the broker does not answer"
            raise LinkGaveUp(after_s=time.monotonic() - begun_s, detail=detail)
        # The driver ends what waits on a broken connection by cancelling it; the caller itself is not cancelled.
        if task.cancelled():
            raise LinkGaveUp(after_s=0, detail="the connection broke")
        try:
            return task.result()
        except exceptions.AMQPChannelError:
            raise
        except Exception as exc:
            if _is_break(exc):
                raise LinkGaveUp(after_s=0, detail=_text(exc)) from exc
            raise

    async def channel(self, *, confirms: bool = False) -> Channel:
        """Open a channel."""
        channel = await self.guard(self._connection.channel(publisher_confirms=confirms))
        assert isinstance(channel, Channel)  # the driver declares less than it makes
        return channel

    async def ask(self, call: Callable[[Channel], Awaitable[_T]]) -> _T:
        """Have the broker do something, one call after the other.

        Raises:
            LinkGaveUp: As `guard`.
            AMQPChannelError: As `guard`; the next call gets a new channel.
        """
        async with self._ask_lock:
            channel = self._asking
            if channel is None or channel.is_closed:
                channel = self._asking = await self.channel()
            try:
                return await self.guard(call(channel))
            except exceptions.AMQPChannelError:
                self._asking = None
                raise

    async def publish(self, publications: Sequence[Publication]) -> None:
        """Publish all without waiting in between, and wait for all confirms. See `Broker.publish`."""
        async with self._publish_lock:
            channel = self._publishing
            if channel is None or channel.is_closed:
                channel = self._publishing = await self.channel(confirms=True)
        outcomes = await self.guard(
            asyncio.gather(*(_publish(channel, one) for one in publications), return_exceptions=True), _CONFIRM_S
        )
        refused: BrokerRefused | None = None
        for publication, outcome in zip(publications, outcomes, strict=True):
            if not isinstance(outcome, BaseException):
                continue
            if isinstance(outcome, _REFUSALS):
                if isinstance(outcome, _UNWRITABLE):
                    # Drivers for Python 3.10 count it as sent, and would give its confirm to the next message.
                    self._publishing = None
                if refused is None:
                    refused = BrokerRefused(routing_key=publication.routing_key, detail=_why(outcome))
            elif _is_break(outcome):
                raise LinkGaveUp(after_s=0, detail=_text(outcome)) from outcome
            else:
                raise outcome
        if refused is not None:
            raise refused


#: What the driver raises when a connection breaks, or a channel was closed by another call.
_BREAKS = (exceptions.AMQPError, exceptions.ChannelInvalidStateError, OSError, RuntimeError, asyncio.CancelledError)
#: What AMQP has no bytes for: a name that is too long, a header of a foreign type.
_UNWRITABLE = (ValueError, TypeError, struct.error)
#: A returned message, a nack, a closed channel (no such exchange).
_REFUSALS = (exceptions.DeliveryError, exceptions.ChannelClosed, *_UNWRITABLE)


def _is_break(exc: BaseException) -> bool:
    """Whether the connection is what failed. What waits while it is closed in order gets a bare `Exception`."""
    return isinstance(exc, _BREAKS) or type(exc) is Exception


async def _publish(channel: Channel, publication: Publication) -> None:
    timestamp = None
    if publication.timestamp_s is not None:
        timestamp = datetime.datetime.fromtimestamp(publication.timestamp_s, datetime.timezone.utc)
    properties = spec.Basic.Properties(
        content_type=publication.content_type,
        headers=dict(publication.headers) or None,
        delivery_mode=2,
        timestamp=timestamp,
    )
    await channel.basic_publish(
        publication.body,
        exchange=publication.exchange,
        routing_key=publication.routing_key,
        properties=properties,
        mandatory=True,
        wait=False,
    )


def _why(refusal: BaseException) -> str:
    if isinstance(refusal, exceptions.PublishError):
        return "no queue takes it"
    if isinstance(refusal, exceptions.DeliveryError):
        return "its queue is full"
    return _text(refusal)


def _text(exc: BaseException) -> str:
    if isinstance(exc, asyncio.TimeoutError):
        return "the broker does not answer"
    if isinstance(exc, asyncio.CancelledError):
        return "the connection broke"
    return ": ".join(str(part) for part in exc.args) or type(exc).__name__
