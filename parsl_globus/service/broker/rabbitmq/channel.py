"""One channel of a connection: pika answers by callbacks, this one to whoever awaits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from pika.channel import Channel as PikaChannel
from pika.exceptions import ChannelClosedByBroker, ChannelWrongStateError, ConnectionWrongStateError
from pika.frame import Method

from parsl_globus.errors import LinkGaveUp
from parsl_globus.pika_reason import reason_text
from parsl_globus.service.broker.rabbitmq.within import within

#: Why a broker closes a channel, as `ChannelClosedByBroker.reply_code` (AMQP 0-9-1, section 1.1 of its definitions).
FORBIDDEN, NOT_FOUND, LOCKED, OTHERWISE = 403, 404, 405, 406

_REPLY_S = 30.0
#: What pika raises where a channel or its connection is closed, or being closed.
_CLOSED = (ChannelWrongStateError, ConnectionWrongStateError)


class Channel:
    """A channel that is open, or was.

    Attributes:
        raw: pika's.
        closed: Done when it is closed; its result is why, a `ChannelClosedByBroker` where the broker refused a request.
    """

    def __init__(self, raw: PikaChannel) -> None:
        self.raw = raw
        self.closed: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._waiting: set[asyncio.Future[Method]] = set()
        raw.add_on_close_callback(self._on_close)

    @property
    def is_open(self) -> bool:
        """Whether requests may be made."""
        return not self.closed.done() and bool(self.raw.is_open)

    async def ask(self, request: Callable[..., object], *args: Any, **kwargs: Any) -> Method:
        """Make a request of `raw` and wait for its answer.

        Args:
            request: The method of `raw`.
            args: Its arguments,
            kwargs: all but `callback`.

        Raises:
            LinkGaveUp: The connection broke, or no answer came in time.
            ChannelClosedByBroker: The broker refused, and closed the channel.
        """
        began_s = time.monotonic()
        answer: asyncio.Future[Method] = asyncio.get_running_loop().create_future()
        self._waiting.add(answer)
        try:
            request(*args, **kwargs, callback=partial(_answer, answer))
            return await within(_REPLY_S, answer)
        except asyncio.TimeoutError as exc:
            raise LinkGaveUp(after_s=time.monotonic() - began_s, detail="the broker does not answer") from exc
        except _CLOSED as exc:
            raise LinkGaveUp(after_s=0, detail=self.why) from exc
        finally:
            self._waiting.discard(answer)

    def tell(self, message: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        """Call a method of `raw` that has no answer.

        Raises:
            LinkGaveUp: The channel is closed.
        """
        try:
            message(*args, **kwargs)
        except _CLOSED as exc:
            raise LinkGaveUp(after_s=0, detail=self.why) from exc

    @property
    def why(self) -> str:
        """Why it is closed."""
        return reason_text(self.closed.result()) if self.closed.done() else "the channel is being closed"

    def _on_close(self, _raw: PikaChannel, reason: Exception) -> None:
        self.closed.set_result(reason)
        refused = isinstance(reason, ChannelClosedByBroker)
        for answer in self._waiting:
            if not answer.done():
                answer.set_exception(reason if refused else LinkGaveUp(after_s=0, detail=reason_text(reason)))


def _answer(answer: asyncio.Future[Method], frame: Method) -> None:
    if not answer.done():
        answer.set_result(frame)
