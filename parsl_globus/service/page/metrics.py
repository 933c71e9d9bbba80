"""Numbers for Prometheus: of this process (requests, commits, messages), and of the service as the store has it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from parsl_globus.service.broker.base import Broker, Delivery, Handler, Publication

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_COMMIT_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


@dataclass(frozen=True)
class EndpointNumbers:
    """An endpoint's, for `Snapshot`."""

    endpoint_id: uuid.UUID
    name: str
    online: bool
    workers: int
    unfinished: int
    queued: int


@dataclass(frozen=True)
class Snapshot:
    """What the whole service has, whichever process answered for it."""

    accepted: int
    done: int
    failed: int
    endpoints: Sequence[EndpointNumbers]
    streams: int


class Metrics:
    """The numbers of one application; nothing is shared between two in a process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Histogram(
            "parsl_globus_request_seconds",
            "REST requests, from the first byte in to the last byte out",
            ("method", "route", "status"),
            registry=self._registry,
            buckets=_REQUEST_BUCKETS,
        )
        self._commits = Histogram(
            "parsl_globus_store_commit_seconds",
            "Transactions that change the store, with the time they waited for each other",
            registry=self._registry,
            buckets=_COMMIT_BUCKETS,
        )
        self._messages = Counter(
            "parsl_globus_broker_messages",
            "Messages between this process and the broker",
            ("direction",),
            registry=self._registry,
        )
        self.published = self._messages.labels("published")
        self.received = self._messages.labels("received")

    def request(self, method: str, route: str, status: int, duration_s: float) -> None:
        """A request was answered."""
        self._requests.labels(method, route, str(status)).observe(duration_s)

    def commit(self, duration_s: float) -> None:
        """The store has written."""
        self._commits.observe(duration_s)

    def text(self, snapshot: Snapshot) -> bytes:
        """Everything, in Prometheus' text format."""
        momentary = CollectorRegistry()
        momentary.register(_Momentary(snapshot))
        return generate_latest(self._registry) + generate_latest(momentary)


class _Momentary(Collector):
    """A snapshot as metrics."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        shot = self._snapshot
        for name, text, value in (
            ("accepted", "Tasks that were accepted, by endpoints that are registered", shot.accepted),
            ("finished", "Tasks that have ended, with a value or an error", shot.done + shot.failed),
            ("failed", "Tasks that have ended with an error", shot.failed),
        ):
            yield CounterMetricFamily(f"parsl_globus_tasks_{name}", text, value=value)
        yield GaugeMetricFamily("parsl_globus_endpoints", "Registered endpoints", value=len(shot.endpoints))
        online = sum(endpoint.online for endpoint in shot.endpoints)
        yield GaugeMetricFamily("parsl_globus_endpoints_online", "Endpoints that are online", value=online)
        yield GaugeMetricFamily("parsl_globus_page_streams", "Pages that are open and live", value=shot.streams)
        for name, text in (
            ("online", "Whether the endpoint is online"),
            ("workers", "Workers of the endpoint"),
            ("unfinished", "Tasks sent to the endpoint that have not ended"),
            ("queued", "Tasks in the broker's queues for the endpoint"),
        ):
            family = GaugeMetricFamily(f"parsl_globus_endpoint_{name}", text, labels=("endpoint", "name"))
            for endpoint in shot.endpoints:
                family.add_metric((str(endpoint.endpoint_id), endpoint.name), float(getattr(endpoint, name)))
            yield family


class RequestTimes:
    """ASGI middleware: times each request by its route, never by its address, of which there are too many.

    Args:
        app: What answers.
        metrics: Is told.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        began_s = time.perf_counter()
        try:
            await self._app(scope, receive, noting)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            if route != "/events":  # it lasts as long as somebody looks
                method = scope["method"] if route != "none" else "ANY"
                self._metrics.request(method, route, status, time.perf_counter() - began_s)


class _Metered:
    """A broker in all but what it counts: what is not here is the broker's own."""

    def __init__(self, broker: Broker, metrics: Metrics) -> None:
        object.__setattr__(self, "_broker", broker)
        object.__setattr__(self, "_metrics", metrics)

    _broker: Broker
    _metrics: Metrics

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._broker, name, value)

    async def publish(self, publications: Sequence[Publication]) -> None:
        await self._broker.publish(publications)
        self._metrics.published.inc(len(publications))

    async def consume(self, queue: str, handler: Handler, **options: Any) -> None:
        async def counting(deliveries: Sequence[Delivery]) -> None:
            self._metrics.received.inc(len(deliveries))
            await handler(deliveries)

        await self._broker.consume(queue, counting, **options)


def metered(broker: Broker, metrics: Metrics) -> Broker:
    """The same broker, which counts its messages."""
    return cast(Broker, _Metered(broker, metrics))


def is_local(peer: str | None, headers: Mapping[str, str]) -> bool:
    """Whether a request comes from this machine and from no further: not through a proxy, not by a foreign name.

    A page of another site can have its name lead to 127.0.0.1; the header `Host` then has that name.
    """
    if peer not in ("127.0.0.1", "::1") or any(name in headers for name in ("forwarded", "x-forwarded-for", "via")):
        return False
    host = headers.get("host", "").rpartition("]")[0].lstrip("[") or headers.get("host", "").partition(":")[0]
    return host in ("127.0.0.1", "localhost", "::1")
