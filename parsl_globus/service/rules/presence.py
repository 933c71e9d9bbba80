"""Which endpoints are there, as their last reports say."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from parsl_globus.service.store.base import ReportRecord, Store

#: The public agent's default, for reports that don't say.
_DEFAULT_PERIOD_S = 30.0
#: A manager that has just registered is there although it has not reported yet.
_REGISTRATION_GRACE_S = 60.0
#: Reports of other processes may be stored this long after the time they bear.
_STORING_S = 15.0


class Presence:
    """The last report of each endpoint, in memory.

    Where other processes take reports, too, `refresh` takes in what they have stored, about once a second; `look_up`
    asks for what came just now.

    Args:
        missed_heartbeats: After how many heartbeat periods of silence an endpoint counts as offline.
        store: Has all reports.
    """

    def __init__(self, missed_heartbeats: float, store: Store | None = None) -> None:
        self._store = store
        self._newest_s = 0.0
        self._missed_heartbeats = missed_heartbeats
        self._reports: dict[uuid.UUID, ReportRecord] = {}
        self._registered: dict[uuid.UUID, float] = {}

    def note(self, reports: Iterable[ReportRecord]) -> None:
        """Take in reports, the newest last."""
        for report in reports:
            known = self._reports.get(report.endpoint_id)
            if known is None or known.received_s <= report.received_s:
                self._reports[report.endpoint_id] = report
            self._newest_s = max(self._newest_s, report.received_s)

    async def refresh(self) -> None:
        """Take in what other processes have been told."""
        if self._store is not None and self._store.shared:
            self.note(await self._store.reports(since_s=self._newest_s - _STORING_S))

    async def look_up(self, endpoint_ids: Collection[uuid.UUID]) -> None:
        """Know the very last reports of these endpoints."""
        if self._store is not None and self._store.shared:
            self.note(await self._store.reports(list(endpoint_ids)))

    def note_registration(self, endpoint_id: uuid.UUID, now_s: float) -> None:
        """A manager has just registered."""
        self._registered[endpoint_id] = now_s

    def forget(self, endpoint_id: uuid.UUID) -> None:
        """The endpoint was deleted."""
        self._reports.pop(endpoint_id, None)
        self._registered.pop(endpoint_id, None)

    def state(self, endpoint_id: uuid.UUID) -> Mapping[str, Any]:
        """The last `global_state`; empty when there was none."""
        report = self._reports.get(endpoint_id)
        return report.state if report else {}

    def seen_s(self, endpoint_id: uuid.UUID) -> float | None:
        """When the endpoint reported last, in seconds since the epoch; `None` when it never did."""
        report = self._reports.get(endpoint_id)
        return report.received_s if report else None

    def online(self, endpoint_id: uuid.UUID, now_s: float) -> bool:
        """Whether the endpoint reported lately, and did not say good-bye or fail."""
        report = self._reports.get(endpoint_id)
        if report is None or says_offline(report.state):
            return False
        return now_s - report.received_s <= self._missed_heartbeats * _period_s(report.state)

    def reachable(self, manager_id: uuid.UUID, now_s: float) -> bool:
        """Whether a command to this manager is likely to be read soon."""
        registered_s = self._registered.get(manager_id, float("-inf"))
        return self.online(manager_id, now_s) or now_s - registered_s <= _REGISTRATION_GRACE_S


def says_offline(state: Mapping[str, Any]) -> bool:
    """Whether a report is a good-bye or a failure to start (PROTOCOL.md section 5)."""
    return _period_s(state) <= 0 or state.get("active") is False or "error" in state


def _period_s(state: Mapping[str, Any]) -> float:
    period = state.get("heartbeat_period", _DEFAULT_PERIOD_S)
    return float(period) if isinstance(period, (int, float)) else _DEFAULT_PERIOD_S
