"""Publishes with confirms: a future per message, done when the broker has taken it."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError, wait
from typing import Any

from pika.channel import Channel
from pika.frame import Method
from pika.spec import Basic, BasicProperties

from parsl_globus.amqp.link import Link
from parsl_globus.errors import BrokerRefused, LinkClosed, LinkGaveUp, ParslGlobusError
from parsl_globus.pika_private import written_together

logger = logging.getLogger(__name__)


class Publisher:
    """Publishes to one exchange with one routing key, through reconnects.

    Delivery is at least once: what was not confirmed when a connection broke is sent again. Thread-safe.

    Args:
        url: Gives the broker's URL, see `Link`.
        exchange: Its name.
        routing_key: The key of every message.
        properties: Properties of every message; persistent delivery by default.
        mandatory: A message that reaches no queue is refused instead of dropped.
        name: Of the thread, and in the log.
        give_up_after_s: See `Link`; all unconfirmed futures fail with the error then.
        on_give_up: See `Link`.
    """

    def __init__(
        self,
        url: Callable[[], str],
        *,
        exchange: str,
        routing_key: str,
        properties: Mapping[str, Any] | None = None,
        mandatory: bool = True,
        name: str,
        give_up_after_s: float | None = None,
        on_give_up: Callable[[LinkGaveUp], None] | None = None,
    ) -> None:
        self._exchange = exchange
        self._routing_key = routing_key
        self._properties = BasicProperties(**{"delivery_mode": 2, **(properties or {})})
        self._mandatory = mandatory
        self._on_give_up = on_give_up
        self._lock = threading.Lock()
        # A message that is not confirmed yet is in one of these: without a tag, then with its tag. Under the lock.
        self._waiting: list[tuple[bytes, Future[None]]] = []
        self._sent: OrderedDict[int, tuple[bytes, Future[None]]] = OrderedDict()
        self._flush_due = False
        self._closed: ParslGlobusError | None = None
        # On the link's thread only:
        self._channel: Channel | None = None
        self._next_tag = 1
        self._link = Link(
            url,
            name=name,
            on_channel=self._prepare,
            on_down=self._down,
            give_up_after_s=give_up_after_s,
            on_give_up=self._gave_up,
        )

    def start(self) -> None:
        """Start connecting; returns at once."""
        self._link.start()

    @property
    def alive(self) -> bool:
        """Whether it still publishes or tries to."""
        return self._link.alive

    @property
    def failing(self) -> bool:
        """Whether the broker can't be reached: there is no channel, and the last attempt to open one has failed."""
        return self._link.failing

    def publish(self, body: bytes) -> Future[None]:
        """Publish `body` soon.

        Returns:
            A future that is done when the broker confirmed the message. It fails with `BrokerRefused` when the
            broker did not take it, `LinkGaveUp` or `LinkClosed` when there is no connection any more.
        """
        future: Future[None] = Future()
        with self._lock:
            if self._closed is not None:
                future.set_exception(self._closed)
                return future
            self._waiting.append((body, future))
            due, self._flush_due = not self._flush_due, True
        if due and not self._link.call(self._flush):
            with self._lock:
                self._flush_due = False  # the next channel flushes
        return future

    def stop(self, flush_timeout_s: float = 5.0) -> None:
        """Wait for outstanding confirms, then close. What is unconfirmed after `flush_timeout_s` fails."""
        with self._lock:
            outstanding = [future for _, future in [*self._sent.values(), *self._waiting]]
        if self._link.alive:
            wait(outstanding, timeout=flush_timeout_s)
        self._link.stop()
        self._close(LinkClosed())

    # ---- on the link's thread -----------------------------------------------------------------------------------

    def _prepare(self, channel: Channel) -> None:
        self._channel = channel
        self._next_tag = 1
        channel.add_on_return_callback(self._returned)
        channel.confirm_delivery(self._confirmed, callback=lambda _frame: self._flush())

    def _flush(self) -> None:
        with self._lock:
            self._flush_due = False
            if self._channel is None or not self._channel.is_open:
                return
            batch, self._waiting = self._waiting, []
            self._sent.update(enumerate(batch, self._next_tag))
        self._next_tag += len(batch)
        with written_together(self._channel.connection):
            for body, _future in batch:
                self._channel.basic_publish(
                    self._exchange, self._routing_key, body, self._properties, mandatory=self._mandatory
                )

    def _returned(self, _channel: Channel, method: Basic.Return, _properties: BasicProperties, body: bytes) -> None:
        # The broker confirms a returned message right after; the body tells which one of those in flight it is.
        detail = f"{method.reply_code} {method.reply_text}"
        with self._lock:
            in_flight = list(self._sent.items())
        for tag, (sent, future) in in_flight:
            if sent == body and not future.done():
                _finish(future, BrokerRefused(routing_key=self._routing_key, detail=detail))
                logger.warning("Message %d to %s was returned: %s", tag, self._routing_key, detail)
                return

    def _confirmed(self, frame: Method) -> None:
        tag, multiple = frame.method.delivery_tag, frame.method.multiple
        with self._lock:
            tags = [t for t in self._sent if t <= tag] if multiple else [tag]
            confirmed = [self._sent.pop(t) for t in tags if t in self._sent]
        error = None
        if isinstance(frame.method, Basic.Nack):
            error = BrokerRefused(routing_key=self._routing_key, detail="not taken; is its queue full?")
        for _body, future in confirmed:
            _finish(future, error)

    def _down(self) -> None:
        self._channel = None
        with self._lock:
            self._waiting[:0] = [(body, future) for body, future in self._sent.values() if not future.done()]
            self._sent.clear()
            self._flush_due = False

    def _gave_up(self, error: LinkGaveUp) -> None:
        self._close(error)
        if self._on_give_up is not None:
            self._on_give_up(error)

    def _close(self, error: ParslGlobusError) -> None:
        with self._lock:
            if self._closed is None:
                self._closed = error
            left = [*self._sent.values(), *self._waiting]
            self._waiting = []
            self._sent.clear()
        for _body, future in left:
            _finish(future, error)


def _finish(future: Future[None], error: ParslGlobusError | None) -> None:
    try:
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
    except InvalidStateError:
        pass  # cancelled by its owner, or returned by the broker before it was confirmed
