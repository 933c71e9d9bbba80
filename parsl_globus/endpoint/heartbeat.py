"""Tells the service that an endpoint is alive and what it does, and watches for idleness."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from parsl_globus.amqp import Publisher
from parsl_globus.wire.codec import pack
from parsl_globus.wire.documents import QueueInfo
from parsl_globus.wire.messages import EPStatusReport

logger = logging.getLogger(__name__)

#: The period told with the news that an endpoint can't start: it is soon taken for gone (PROTOCOL.md section 5).
FAILURE_PERIOD_S = 3.0


def report(endpoint_id: uuid.UUID, state: Mapping[str, Any]) -> bytes:
    """A packed status report."""
    return pack(EPStatusReport(endpoint_id=endpoint_id, global_state=dict(state), task_statuses={}))


def publisher_for(info: Callable[[], QueueInfo], *, name: str, amqp_port: int | None = None) -> Publisher:
    """A publisher as the service's credentials say; `info` gives them anew for each connection."""
    first = info()
    told = first.queue_publish_kwargs or {}
    return Publisher(
        lambda: with_port(info().connection_url, amqp_port),
        exchange=told.get("exchange", first.exchange or ""),
        routing_key=told.get("routing_key", first.queue),
        properties=told.get("properties"),
        mandatory=bool(told.get("mandatory", True)),
        name=name,
    )


def with_port(url: str, port: int | None) -> str:
    """`url` with another port, as the configuration's `amqp_port` asks for; `None` leaves it as it is."""
    if port is None:
        return url
    from urllib.parse import urlsplit, urlunsplit

    parts = urlsplit(url)
    credentials, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{credentials}{at}{parts.hostname}:{port}"))


class Heartbeat:
    """Publishes a status report at once and then each period, until it is stopped.

    Args:
        endpoint_id: Whose.
        publish: Sends a packed report.
        period_s: Between two reports.
        state: What to report; the period is added. When it raises, that beat is left out.
        on_beat: Called after each beat.
    """

    def __init__(
        self,
        endpoint_id: uuid.UUID,
        publish: Callable[[bytes], Future[None]],
        *,
        period_s: float,
        state: Callable[[], Mapping[str, Any]],
        on_beat: Callable[[], None] | None = None,
    ) -> None:
        self._endpoint_id = endpoint_id
        self._publish = publish
        self._period_s = period_s
        self._state = state
        self._on_beat = on_beat
        self._stopping = threading.Event()
        self._last: Future[None] | None = None
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, last_words: Mapping[str, Any]) -> None:
        """Stop, and publish `last_words` as the last report."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(2)
        self._publish(report(self._endpoint_id, last_words))

    def _run(self) -> None:
        while True:
            try:
                self._beat()
            except Exception:
                # The outermost loop of this thread: without beats the service takes a working endpoint for gone.
                logger.exception("A heartbeat was left out")
            if self._on_beat is not None:
                self._on_beat()
            if self._stopping.wait(self._period_s):
                return

    def _beat(self) -> None:
        if self._last is not None and not self._last.done():
            return  # the broker is away: one waiting report is enough
        state = {**self._state(), "heartbeat_period": self._period_s}
        if not self._stopping.is_set():
            self._last = self._publish(report(self._endpoint_id, state))


class IdleClock:
    """Counts beats without work, by the rules of `idle_heartbeats_soft` and `idle_heartbeats_hard`.

    Args:
        soft: So many beats with nothing outstanding, after there was work, and the endpoint ends; 0 means never.
        hard: So many beats in which nothing moved, though something is outstanding, likewise; only with `soft`.
    """

    def __init__(self, soft: int, hard: int) -> None:
        self._soft = soft
        self._hard = hard
        self._moved = 0
        self._still_beats = 0

    def beat(self, *, moved: int, outstanding: int) -> str | None:
        """Note one beat.

        Args:
            moved: Tasks taken and results confirmed so far.
            outstanding: Tasks without a confirmed result.

        Returns:
            Why the endpoint should end, or `None`.
        """
        if moved != self._moved:
            self._moved, self._still_beats = moved, 0
            return None
        self._still_beats += 1
        if not self._soft:
            return None
        if moved and not outstanding and self._still_beats >= self._soft:
            return f"it was idle for {self._still_beats} heartbeats"
        if self._hard and self._still_beats >= self._hard:
            return f"nothing moved for {self._still_beats} heartbeats"
        return None
