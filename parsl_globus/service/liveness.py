"""Heartbeats in: who is there, who must be started, whose tasks have nobody to run them."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence

from parsl_globus.errors import DecodeError
from parsl_globus.service.broker.base import Delivery
from parsl_globus.service.results import ResultIntake, endpoint_of_key
from parsl_globus.service.rules.dispatch import Dispatcher
from parsl_globus.service.rules.presence import Presence, says_offline
from parsl_globus.service.rules.registry import Registry
from parsl_globus.service.rules.starting import Starter
from parsl_globus.service.store.base import ReportRecord, Store
from parsl_globus.wire import codec
from parsl_globus.wire.messages import EPStatusReport

logger = logging.getLogger(__name__)


class Liveness:
    """Takes heartbeats.

    Args:
        store: Keeps the last reports.
        registry: Knows the endpoints.
        presence: Is told who is there.
        starter: Starts user endpoints.
        results: Ends tasks that can't run.
        dispatcher: Has tasks that the broker did not take.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        presence: Presence,
        starter: Starter,
        results: ResultIntake,
        dispatcher: Dispatcher,
    ) -> None:
        self._store = store
        self._registry = registry
        self._presence = presence
        self._starter = starter
        self._results = results
        self._dispatcher = dispatcher

    async def handle(self, deliveries: Sequence[Delivery]) -> None:
        """Take a batch from the queue `heartbeats`. See `Handler`."""
        now_s = time.time()
        read = [pair for delivery in deliveries if (pair := _read(delivery, now_s)) is not None]
        await self._registry.look_up({endpoint_id for pair in read for endpoint_id in (pair[0], pair[1].endpoint_id)})
        reports = [report for sender_id, report in read if self._may_report(sender_id, report.endpoint_id)]
        if not reports:
            return
        await self._store.put_reports(reports)
        self._presence.note(reports)
        for report in reports:
            if "error" in report.state:
                await self._failed(report.endpoint_id, str(report.state["error"]))
        await self._wake(reports)

    def _may_report(self, sender_id: uuid.UUID, endpoint_id: uuid.UUID) -> bool:
        """An endpoint reports for itself; a manager for its user endpoints, when they can't start, too."""
        user_endpoint = self._registry.user_endpoint(endpoint_id)
        if user_endpoint is not None:
            may = sender_id in (endpoint_id, user_endpoint.manager_id)
        else:
            may = sender_id == endpoint_id and self._registry.manager(endpoint_id) is not None
        if not may:
            logger.warning("A heartbeat about %s from %s was dropped", endpoint_id, sender_id)
        return may

    async def _failed(self, endpoint_id: uuid.UUID, text: str) -> None:
        if self._registry.user_endpoint(endpoint_id) is None:
            logger.warning("Endpoint %s reports: %s", endpoint_id, text)
            return
        await self._starter.ended(endpoint_id)
        count = await self._results.fail_unfinished(endpoint_id, "EndpointStartFailed", text)
        await self._dispatcher.start_over(endpoint_id)
        logger.warning("User endpoint %s could not start, %d tasks failed: %s", endpoint_id, count, text)

    async def _wake(self, reports: Sequence[ReportRecord]) -> None:
        """Start user endpoints that have tasks but are away, where a report gives the occasion."""
        managers = {
            report.endpoint_id
            for report in reports
            if self._registry.manager(report.endpoint_id) is not None and not says_offline(report.state)
        }
        ended = {report.endpoint_id for report in reports if says_offline(report.state) and "error" not in report.state}
        await self._starter.wake_waiting(managers, ended)


def _read(delivery: Delivery, now_s: float) -> tuple[uuid.UUID, ReportRecord] | None:
    """A report with its sender, which the broker has checked."""
    sender_id = endpoint_of_key(delivery.routing_key, "heartbeats")
    try:
        message = codec.unpack(delivery.body, EPStatusReport)
    except DecodeError as exc:
        logger.warning("A heartbeat with the key '%.80s' was dropped: %s", delivery.routing_key, exc)
        return None
    if sender_id is None:
        logger.warning("A heartbeat with the foreign key '%.80s' was dropped", delivery.routing_key)
        return None
    return sender_id, ReportRecord(message.endpoint_id, now_s, message.global_state)
