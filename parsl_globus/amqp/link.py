"""One AMQP connection with one channel, in a thread of its own: connect, back off, reconnect, give up."""

from __future__ import annotations

import logging
import os
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

import pika
from pika.adapters.select_connection import SelectConnection
from pika.channel import Channel

from parsl_globus import jitter
from parsl_globus.errors import LinkGaveUp
from parsl_globus.pika_private import read_more_at_once
from parsl_globus.pika_reason import reason_text

logger = logging.getLogger(__name__)

#: Pauses between attempts grow from the first to the second, in seconds; both are varied by up to a half, so that
#: many agents don't come back at the same moment.
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
#: A channel that the broker closes sooner, for example because there is no such queue, counts as a failed attempt.
SETTLED_S = 1.0
#: How long a stop waits for an attempt that is under way, in seconds.
OPENING_GRACE_S = 1.0

#: Files of CA certificates that count besides the system's: what requests reads for REST, and two of our own, of which
#: the last is a list.
_CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "PARSL_GLOBUS_CA_FILE", "PARSL_GLOBUS_AMQP_CA_FILES")


def connection_parameters(url: str) -> pika.URLParameters:
    """What pika needs to connect to `url`; with amqps, the broker's certificate is checked.

    Raises:
        OSError: A file of CA certificates can't be read.
    """
    parameters = pika.URLParameters(url)
    if url.startswith("amqps://"):
        context = ssl.create_default_context()
        for variable in _CA_VARIABLES:
            for path in filter(None, os.environ.get(variable, "").split(os.pathsep)):
                context.load_verify_locations(**{"capath" if os.path.isdir(path) else "cafile": path})
        parameters.ssl_options = pika.SSLOptions(context, parameters.host)
    return parameters


class Link:
    """Keeps a channel open until it is stopped.

    All callbacks run on the link's own thread; they must not block. `call` brings work there from any other thread.

    Args:
        url: Gives the broker's URL; asked before each attempt, since it may need fresh credentials. May raise.
        name: Of the thread, and in the log.
        on_channel: Called with each newly opened channel.
        on_down: Called when an open channel is gone.
        give_up_after_s: Without a channel for longer, the link ends and calls `on_give_up`. `None`: never.
        on_give_up: See above.
    """

    def __init__(
        self,
        url: Callable[[], str],
        *,
        name: str,
        on_channel: Callable[[Channel], None],
        on_down: Callable[[], None] | None = None,
        give_up_after_s: float | None = None,
        on_give_up: Callable[[LinkGaveUp], None] | None = None,
    ) -> None:
        self._url = url
        self._name = name
        self._on_channel = on_channel
        self._on_down = on_down
        self._give_up_after_s = give_up_after_s
        self._on_give_up = on_give_up
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._stopping = threading.Event()
        self._lock = threading.Lock()  # guards _connection against `call` while an attempt replaces it
        self._connection: SelectConnection | None = None
        self._channel: Channel | None = None
        self._down_since = time.monotonic()
        self._up_since = 0.0
        self._last_failure = "not tried yet"
        self._told = False
        self._outage_told = False
        self._pause_s = FIRST_PAUSE_S
        self._failing = False

    def start(self) -> None:
        """Start the thread; returns at once."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs: started, neither stopped nor given up."""
        return self._thread.is_alive()

    @property
    def failing(self) -> bool:
        """Whether there is no channel, and the last attempt to open one has failed."""
        return self._failing

    def call(self, work: Callable[[], None]) -> bool:
        """Run `work` on the link's thread soon.

        Returns:
            Whether there is a connection to run it on. When it breaks first, `work` never runs; `on_down` does.
        """
        with self._lock:
            connection = self._connection
            if connection is None or connection.is_closed:
                return False
            connection.ioloop.add_callback_threadsafe(work)
            return True

    def stop(self, timeout_s: float = 5.0) -> None:
        """Close the connection and end the thread. Calling it twice, or before `start`, is harmless."""
        self._stopping.set()
        self.call(self._close)
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                logger.warning("%s did not end within %.0f s", self._name, timeout_s)

    # ---- on the link's thread -----------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._attempt()
                if self._stopping.is_set():
                    break
                down_s = time.monotonic() - self._down_since
                if self._give_up_after_s is not None and down_s >= self._give_up_after_s:
                    self._give_up(LinkGaveUp(after_s=down_s, detail=self._last_failure))
                    return
                self._stopping.wait(jitter.around(self._pause_s))
                self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
        except BaseException as exc:
            # The outermost loop of this thread: whoever waits on the link must hear of it, whatever went wrong.
            logger.exception("%s ends: unexpected failure", self._name)
            self._give_up(LinkGaveUp(after_s=0.0, detail=f"{type(exc).__name__}: {exc}"))
            raise

    def _give_up(self, error: LinkGaveUp) -> None:
        logger.error("%s gives up: %s", self._name, error)
        if self._on_give_up is not None:
            self._on_give_up(error)

    def _attempt(self) -> None:
        """One connection, from its opening to its end."""
        self._told = False
        try:
            parameters = connection_parameters(self._url())
        except Exception as exc:  # noqa: BLE001 - the caller's function may raise whatever its transport does
            self._failed(exc)
            return
        connection = SelectConnection(
            parameters,
            on_open_callback=self._opened,
            on_open_error_callback=lambda _connection, exc: self._ended(exc),
            on_close_callback=lambda _connection, exc: self._ended(exc),
        )
        with self._lock:
            self._connection = connection
        if self._stopping.is_set():  # stop() may have come before there was a connection to close
            self._close()
        try:
            connection.ioloop.start()
        finally:
            with self._lock:
                self._connection = None
            self._lost_channel()
            connection.ioloop.close()

    def _opened(self, connection: SelectConnection) -> None:
        if self._stopping.is_set():
            connection.close()
            return
        read_more_at_once(connection)
        connection.channel(on_open_callback=self._channel_opened)

    def _channel_opened(self, channel: Channel) -> None:
        channel.add_on_close_callback(self._channel_closed)
        self._channel = channel
        self._up_since = time.monotonic()
        self._failing = False
        logger.log(logging.INFO if self._outage_told else logging.DEBUG, "%s is up", self._name)
        self._outage_told = False
        self._on_channel(channel)

    def _channel_closed(self, channel: Channel, reason: Any) -> None:
        if not self._stopping.is_set():
            self._failed(reason)
        # One connection serves one channel; a fresh connection is the simplest way to a fresh channel.
        if channel.connection.is_open:
            channel.connection.close()

    def _ended(self, reason: Any) -> None:
        if not self._stopping.is_set():
            self._failed(reason)
        if self._connection is not None:
            self._connection.ioloop.stop()

    def _failed(self, reason: Any) -> None:
        self._failing = True
        if self._told:
            return  # a channel's end, and then that of its connection: the first says why
        self._told = True
        self._last_failure = reason_text(reason)
        level = logging.DEBUG if self._outage_told else logging.INFO
        logger.log(level, "%s is down: %s", self._name, self._last_failure)
        self._outage_told = True

    def _lost_channel(self) -> None:
        if self._channel is None:
            return
        self._channel = None
        now_s = time.monotonic()
        if now_s - self._up_since >= SETTLED_S:
            self._down_since = now_s
            self._pause_s = FIRST_PAUSE_S
        if self._on_down is not None:
            self._on_down()

    def _close(self) -> None:
        connection = self._connection
        if connection is None:
            return
        if connection.is_open:
            connection.close()
        elif not connection.is_closing:
            # pika can't break off an attempt without leaving its socket open, so it may come to its end, see `_opened`.
            connection.ioloop.call_later(OPENING_GRACE_S, connection.ioloop.stop)
