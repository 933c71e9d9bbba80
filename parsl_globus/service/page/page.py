"""The page's parts, joined."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable

from parsl_globus.errors import ParslGlobusError
from parsl_globus.service.auth.base import Authenticator, Identity
from parsl_globus.service.broker.base import Broker
from parsl_globus.service.page.live import Live
from parsl_globus.service.page.metrics import EndpointNumbers, Metrics, Snapshot
from parsl_globus.service.page.render import Renderer
from parsl_globus.service.page.session import Sessions, Throttle
from parsl_globus.service.page.views import Views
from parsl_globus.service.rules.endpoints import EndpointRules
from parsl_globus.service.rules.presence import Presence
from parsl_globus.service.rules.registry import Registry
from parsl_globus.service.store.base import Store
from parsl_globus.wire import names

logger = logging.getLogger(__name__)

_NOBODY = uuid.UUID(int=0)
#: How long store and broker may take to answer before they count as away.
_HEALTH_S = 2.0


class Page:
    """All that the page's routes need.

    Args:
        store: Knows tasks and sessions.
        broker: Knows its queues.
        auth: Knows the callers.
        registry: Knows the endpoints.
        presence: Knows who is there.
        endpoints: Decides who may use which endpoint.
        metrics: What this process counts.

    Attributes:
        sessions: Who looks at it.
        views: What they see.
        renderer: How it looks.
        live: What is sent when it changes.
        metrics: For Prometheus.
        throttle: Holds back who guesses secrets.
    """

    def __init__(
        self,
        store: Store,
        broker: Broker,
        auth: Authenticator,
        registry: Registry,
        presence: Presence,
        endpoints: EndpointRules,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._broker = broker
        self.sessions = Sessions(store, auth)
        self.views = Views(store, broker, auth, registry, presence, endpoints)
        self.renderer = Renderer()
        self.live = Live()
        self.metrics = metrics
        self.throttle = Throttle()

    def stop(self) -> None:
        """End all live pages, so that the server needn't wait for them."""
        self.live.stop()

    async def login_path(self, identity_id: uuid.UUID) -> str:
        """Path of a link that logs an identity in, once; its code is in the part that browsers keep to themselves."""
        return f"/login#code={await self.sessions.new_code(identity_id)}"

    async def metrics_text(self) -> bytes:
        """Everything for Prometheus."""
        nobody = Identity(_NOBODY, "", admin=True)
        endpoints = await self.views.endpoints(nobody)
        counts = list((await self._store.counts()).values())
        numbers = [
            EndpointNumbers(
                e.endpoint_id,
                e.name,
                e.online,
                e.workers,
                e.unfinished,
                sum(u.queued or 0 for u in e.user_endpoints),
            )
            for e in endpoints
        ]
        snapshot = Snapshot(
            sum(c.submitted for c in counts),
            sum(c.done for c in counts),
            sum(c.failed for c in counts),
            numbers,
            self.live.streams,
        )
        return self.metrics.text(snapshot)

    async def health(self) -> dict[str, str]:
        """Whether store and broker answer: "ok" or "away" for each."""
        store, broker = await asyncio.gather(
            _answers(self._store.ping()), _answers(self._broker.queue_length(names.RESULTS_QUEUE))
        )
        return {"store": store, "broker": broker}


async def _answers(question: Awaitable[object]) -> str:
    try:
        await asyncio.wait_for(question, _HEALTH_S)
    except (ParslGlobusError, asyncio.TimeoutError, TimeoutError) as exc:
        logger.warning("The service is not well: %s", exc or "no answer in time")
        return "away"
    return "ok"
