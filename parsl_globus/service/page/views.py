"""From what the service knows to what a viewer may see of it, ready to be drawn."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from parsl_globus.errors import DecodeError, LinkError
from parsl_globus.service.auth.base import Authenticator, Identity
from parsl_globus.service.broker.base import Broker
from parsl_globus.service.page.throughput import LastHour, Plot, plot, seconds
from parsl_globus.service.rules.endpoints import EndpointRules
from parsl_globus.service.rules.presence import Presence
from parsl_globus.service.rules.registry import Registry
from parsl_globus.service.store.base import EndpointRecord, Store, TaskCounts, UserEndpointRecord
from parsl_globus.service.store.failures import Failure, failure_of, looks_failed
from parsl_globus.service.store.views import Shown, TaskDetail, TaskQuery, TaskRow
from parsl_globus.wire import codec, names
from parsl_globus.wire.messages import Result
from parsl_globus.wire.states import TaskStage

#: Tasks in one list, and failures on the first page.
LIST_LENGTH = 50
FAILURES_SHOWN = 6
#: User endpoints whose queues are asked for at a time, and how old an answer may be.
_QUEUES_ASKED = 100
_QUEUE_FRESH_S = 2.0
_QUEUE_WAIT_S = 2.0
_TEXT_CHARS = 200
#: A traceback longer than this is cut in the middle: its ends tell most.
_TRACEBACK_CHARS = 100_000
_QUERY_CHARS = 200
_SHORTEST_ID = 6


@dataclass(frozen=True)
class UserEndpointView:
    """A user endpoint as the page shows it; `None` is what it has not told."""

    endpoint_id: uuid.UUID
    owner: str
    online: bool
    since_s: float | None
    engine: str
    provider: str
    blocks: int | None
    most_blocks: int | None
    nodes: int | None
    workers: int | None
    idle: int | None
    queued: int | None
    waiting: int
    running: int
    done: int
    failed: int
    problem: str
    options: str


@dataclass(frozen=True)
class EndpointView:
    """An endpoint as the page shows it."""

    endpoint_id: uuid.UUID
    name: str
    owner: str
    mine: bool
    online: bool
    since_s: float | None
    host: str
    version: str
    user_endpoints: tuple[UserEndpointView, ...]

    @property
    def workers(self) -> int:
        """Workers of all its user endpoints that are there."""
        return sum(u.workers or 0 for u in self.user_endpoints if u.online)

    @property
    def unfinished(self) -> int:
        """Tasks that have not ended."""
        return sum(u.waiting + u.running for u in self.user_endpoints)


@dataclass(frozen=True)
class Totals:
    """Numbers at the top of the page."""

    endpoints: int
    online: int
    waiting: int
    running: int
    done: int
    failed: int


@dataclass(frozen=True)
class TaskLine:
    """A task in a list."""

    row: TaskRow
    state: str
    endpoint: str
    endpoint_id: uuid.UUID | None
    owner: str
    took: str


@dataclass(frozen=True)
class TaskPage:
    """One task with all that may be shown."""

    line: TaskLine
    group_id: uuid.UUID
    began_s: float | None
    ended_s: float | None
    failure: Failure | None
    payload_chars: int | None
    result_bytes: int | None
    specification: str
    details: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Overview:
    """The first page."""

    totals: Totals
    endpoints: tuple[EndpointView, ...]
    failures: tuple[TaskLine, ...]
    plot: Plot


@dataclass(frozen=True)
class TaskList:
    """A list of tasks.

    Attributes:
        lines: The newest first.
        older: What `before` is for the next page; `None` on the last one.
    """

    lines: tuple[TaskLine, ...]
    older: int | None


class Views:
    """Makes what the templates draw; everything goes through what the viewer may see.

    Args:
        store: Knows the tasks.
        broker: Knows how long queues are.
        auth: Knows the identities' names.
        registry: Knows the endpoints.
        presence: Knows who is there.
        endpoints: Decides who may use which endpoint.
    """

    def __init__(
        self,
        store: Store,
        broker: Broker,
        auth: Authenticator,
        registry: Registry,
        presence: Presence,
        endpoints: EndpointRules,
    ) -> None:
        self._store = store
        self._broker = broker
        self._auth = auth
        self._registry = registry
        self._presence = presence
        self._rules = endpoints
        self._hour = LastHour(store)
        self._queued: dict[uuid.UUID, tuple[float, int | None]] = {}

    # ---- what may be seen -------------------------------------------------------------------------------------

    def _endpoints_of(self, viewer: Identity) -> list[EndpointRecord]:
        if viewer.admin:
            return self._registry.managers()
        usable = {document["uuid"] for document in self._rules.listing(viewer, "any")}
        return [e for e in self._registry.managers() if str(e.endpoint_id) in usable]

    def _user_endpoints_of(self, viewer: Identity, endpoint: EndpointRecord) -> list[UserEndpointRecord]:
        """A viewer's own, and all of an endpoint that he runs."""
        every = viewer.admin or _runs(viewer, endpoint)
        return [
            u
            for u in self._registry.user_endpoints(endpoint.endpoint_id)
            if every or u.identity_id == viewer.identity_id
        ]

    # ---- endpoints --------------------------------------------------------------------------------------------

    async def endpoints(self, viewer: Identity) -> list[EndpointView]:
        """All endpoints that the viewer may use, each with what he may see of its user endpoints."""
        now_s = time.time()
        managers = self._endpoints_of(viewer)
        served = {e.endpoint_id: self._user_endpoints_of(viewer, e) for e in managers}
        everyone = [u for users in served.values() for u in users]
        people = await self._names([e.owner_id for e in managers] + [u.identity_id for u in everyone])
        counts = await self._store.counts()
        queued = await self._queue_lengths([u.endpoint_id for u in everyone], now_s)
        drawn = []
        for endpoint in managers:
            users = [
                self._user_endpoint(u, people, counts.get(u.endpoint_id, TaskCounts()), queued, now_s)
                for u in served[endpoint.endpoint_id]
            ]
            drawn.append(self._endpoint(viewer, endpoint, people, users, now_s))
        return drawn

    async def overview(self, viewer: Identity) -> Overview:
        """The first page."""
        endpoints = await self.endpoints(viewer)
        now_s = time.time()
        mine = None if viewer.admin else {u.endpoint_id for u in self._own_user_endpoints(viewer)}
        failures = await self._store.task_rows(TaskQuery(_owner(viewer), Shown.FAILED), FAILURES_SHOWN)
        return Overview(
            _totals(endpoints),
            tuple(sorted(endpoints, key=lambda e: (not e.online, e.name.casefold(), str(e.endpoint_id)))),
            tuple(await self._lines(failures)),
            plot(await self._hour.of(mine, now_s)),
        )

    def _own_user_endpoints(self, viewer: Identity) -> list[UserEndpointRecord]:
        return [u for u in self._registry.user_endpoints() if u.identity_id == viewer.identity_id]

    def _endpoint(
        self,
        viewer: Identity,
        endpoint: EndpointRecord,
        people: Mapping[uuid.UUID, str],
        users: Sequence[UserEndpointView],
        now_s: float,
    ) -> EndpointView:
        mine = _runs(viewer, endpoint)
        metadata = endpoint.metadata if mine or viewer.admin else {}
        return EndpointView(
            endpoint_id=endpoint.endpoint_id,
            name=(endpoint.display_name or endpoint.name)[:_TEXT_CHARS],
            owner=people.get(endpoint.owner_id, str(endpoint.owner_id)),
            mine=mine,
            online=self._online(endpoint.endpoint_id, now_s),
            since_s=self._presence.seen_s(endpoint.endpoint_id) or endpoint.registered_s or None,
            host=_text(metadata.get("hostname")),
            version=_text(metadata.get("endpoint_version")),
            user_endpoints=tuple(sorted(users, key=lambda u: (not u.online, u.owner, str(u.endpoint_id)))),
        )

    def _online(self, endpoint_id: uuid.UUID, now_s: float) -> bool:
        # One that has just registered reports at once, but it is there before that, too.
        new = not self._presence.state(endpoint_id) and self._presence.reachable(endpoint_id, now_s)
        return new or self._presence.online(endpoint_id, now_s)

    def _user_endpoint(
        self,
        user_endpoint: UserEndpointRecord,
        people: Mapping[uuid.UUID, str],
        counts: TaskCounts,
        queued: Mapping[uuid.UUID, int | None],
        now_s: float,
    ) -> UserEndpointView:
        endpoint_id = user_endpoint.endpoint_id
        state = self._presence.state(endpoint_id)
        online = self._presence.online(endpoint_id, now_s)
        node_info = state.get("node_info")
        running = 0
        outstanding, pending = _count(state.get("outstanding_tasks")), _count(state.get("pending_tasks"))
        if online and outstanding is not None and pending is not None:
            running = max(0, min(outstanding - pending, counts.unfinished))
        return UserEndpointView(
            endpoint_id=endpoint_id,
            owner=people.get(user_endpoint.identity_id, str(user_endpoint.identity_id)),
            online=online,
            since_s=self._presence.seen_s(endpoint_id),
            engine=_text(state.get("engine_type")),
            provider=_text(state.get("provider_type")),
            blocks=len(node_info) if isinstance(node_info, dict) else None,
            most_blocks=_count(state.get("max_blocks")),
            nodes=_count(state.get("active_managers", state.get("managers"))),
            workers=_count(state.get("total_workers")),
            idle=_count(state.get("idle_workers")),
            queued=queued.get(endpoint_id),
            waiting=counts.unfinished - running,
            running=running,
            done=counts.done,
            failed=counts.failed,
            problem=_text(state.get("error")),
            options=json.dumps(dict(user_endpoint.config))[:_TEXT_CHARS] if user_endpoint.config else "",
        )

    async def _queue_lengths(self, endpoint_ids: Sequence[uuid.UUID], now_s: float) -> dict[uuid.UUID, int | None]:
        """How many tasks wait in these user endpoints' queues; `None` where the broker can't say now."""
        old = [i for i in endpoint_ids if now_s - self._queued.get(i, (0.0, None))[0] >= _QUEUE_FRESH_S]
        asked = [self._queue_length(i) for i in old[:_QUEUES_ASKED]]
        for endpoint_id, length in zip(old, await asyncio.gather(*asked), strict=False):
            self._queued[endpoint_id] = (now_s, length)
        return {i: self._queued[i][1] for i in endpoint_ids if i in self._queued}

    async def _queue_length(self, endpoint_id: uuid.UUID) -> int | None:
        try:
            return await asyncio.wait_for(self._broker.queue_length(names.tasks_queue(endpoint_id)), _QUEUE_WAIT_S)
        except (LinkError, asyncio.TimeoutError, TimeoutError):
            return None

    async def _names(self, identity_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, str]:
        known = await self._auth.identities(list(dict.fromkeys(identity_ids)))
        return {identity.identity_id: identity.username for identity in known}

    # ---- tasks ------------------------------------------------------------------------------------------------

    async def tasks(self, viewer: Identity, shown: Shown, text: str, before: int | None) -> TaskList:
        """A list of tasks.

        Args:
            viewer: Who looks.
            shown: In which state.
            text: Looked for in ids, names of endpoints and functions, and texts of failures; "" for all tasks.
            before: For the next page.
        """
        query = TaskQuery(_owner(viewer), shown, before=before)
        wanted = text.strip()[:_QUERY_CHARS]
        if not wanted:
            rows = await self._store.task_rows(query, LIST_LENGTH + 1)
        else:
            rows = await self._search(viewer, query, wanted)
        older = rows[LIST_LENGTH - 1].sequence if len(rows) > LIST_LENGTH else None
        return TaskList(tuple(await self._lines(rows[:LIST_LENGTH])), older)

    async def _search(self, viewer: Identity, query: TaskQuery, text: str) -> list[TaskRow]:
        limit = LIST_LENGTH + 1
        ids = id_range(text)
        if ids is not None:
            found = await self._store.task_rows(replace(query, task_ids=ids), limit)
            where = self._matching_endpoints(viewer, ids=ids)
            if found or len(text) == 36:
                return found or await self._at(query, where, limit)
        named = self._matching_endpoints(viewer, text=text)
        parts = [
            await self._at(query, named | self._matching_endpoints(viewer, ids=ids), limit),
            await self._store.task_rows(replace(query, function_name=text), limit),
        ]
        if query.shown is not Shown.WAITING:
            parts.append(await self._store.failure_rows(query, text, limit))
        merged = {row.sequence: row for part in parts for row in part}
        return [merged[sequence] for sequence in sorted(merged, reverse=True)][:limit]

    async def _at(self, query: TaskQuery, endpoint_ids: frozenset[uuid.UUID], limit: int) -> list[TaskRow]:
        if not endpoint_ids:
            return []
        return await self._store.task_rows(replace(query, user_endpoint_ids=endpoint_ids), limit)

    def _matching_endpoints(
        self, viewer: Identity, *, text: str | None = None, ids: tuple[uuid.UUID, uuid.UUID] | None = None
    ) -> frozenset[uuid.UUID]:
        found = set()
        for endpoint in self._endpoints_of(viewer):
            named = text is not None and text.casefold() in (endpoint.display_name or endpoint.name).casefold()
            for user_endpoint in self._user_endpoints_of(viewer, endpoint):
                both = (endpoint.endpoint_id, user_endpoint.endpoint_id)
                if named or (ids is not None and any(ids[0] <= one <= ids[1] for one in both)):
                    found.add(user_endpoint.endpoint_id)
        return frozenset(found)

    async def _lines(self, rows: Sequence[TaskRow]) -> list[TaskLine]:
        people = await self._names([row.owner_id for row in rows])
        return [self._line(row, people) for row in rows]

    def _line(self, row: TaskRow, people: Mapping[uuid.UUID, str]) -> TaskLine:
        user_endpoint = self._registry.user_endpoint(row.user_endpoint_id)
        manager = self._registry.manager(user_endpoint.manager_id) if user_endpoint is not None else None
        return TaskLine(
            row=row,
            state=_state(row),
            endpoint="(deleted)" if manager is None else (manager.display_name or manager.name)[:_TEXT_CHARS],
            endpoint_id=None if manager is None else manager.endpoint_id,
            owner=people.get(row.owner_id, str(row.owner_id)),
            took="" if row.completed_s is None else seconds(max(0.0, row.completed_s - row.submitted_s)),
        )

    async def task(self, viewer: Identity, task_id: uuid.UUID) -> TaskPage | None:
        """One task; `None` when it is unknown, or not for this viewer."""
        detail = await self._store.task_detail(task_id)
        if detail is None or not (viewer.admin or detail.row.owner_id == viewer.identity_id):
            return None
        (line,) = await self._lines([detail.row])
        return _task_page(line, detail)


def _task_page(line: TaskLine, detail: TaskDetail) -> TaskPage:
    began_s = ended_s = None
    result: Result | None = None
    failure: Failure | None = None
    if detail.body is not None:
        failure = failure_of(detail.body)
        try:
            result = codec.unpack(detail.body, Result)
        except DecodeError:
            result = None  # the failure tells
    told: dict[str, Any] = {}
    if result is not None:
        times = {transition.state.name: transition.timestamp / 1e9 for transition in result.task_statuses or ()}
        began_s, ended_s = times.get("EXEC_START"), times.get("EXEC_END")
        told = dict(result.details or {})
    if failure is not None:
        failure = replace(failure, text=_cut(failure.text))
    return TaskPage(
        line=line,
        group_id=detail.group_id,
        began_s=began_s,
        ended_s=ended_s,
        failure=failure,
        payload_chars=detail.payload_chars,
        result_bytes=None if detail.body is None else len(detail.body),
        specification="" if detail.resource_specification == "{}" else detail.resource_specification[:2000],
        details=tuple((str(key)[:_TEXT_CHARS], _text(value)) for key, value in sorted(told.items(), key=str) if value),
    )


def id_range(text: str) -> tuple[uuid.UUID, uuid.UUID] | None:
    """The ids that begin with `text`; `None` when that is no beginning of an id, or too short a one."""
    digits = text.replace("-", "").lower()
    if not _SHORTEST_ID <= len(digits) <= 32 or any(digit not in "0123456789abcdef" for digit in digits):
        return None
    return uuid.UUID(digits.ljust(32, "0")), uuid.UUID(digits.ljust(32, "f"))


def _runs(viewer: Identity, endpoint: EndpointRecord) -> bool:
    return viewer.identity_id == endpoint.owner_id or viewer.identity_id in endpoint.admins


def _owner(viewer: Identity) -> uuid.UUID | None:
    return None if viewer.admin else viewer.identity_id


def _state(row: TaskRow) -> str:
    if row.stage is TaskStage.SUCCESS:
        return "raised" if looks_failed(row.stage, row.head) else "done"
    return "failed" if row.stage is TaskStage.FAILED else "waiting"


def _totals(endpoints: Sequence[EndpointView]) -> Totals:
    users = [u for endpoint in endpoints for u in endpoint.user_endpoints]
    return Totals(
        endpoints=len(endpoints),
        online=sum(endpoint.online for endpoint in endpoints),
        waiting=sum(u.waiting for u in users),
        running=sum(u.running for u in users),
        done=sum(u.done for u in users),
        failed=sum(u.failed for u in users),
    )


def _text(value: Any) -> str:
    """Whatever an endpoint said, as short text."""
    return "" if value is None else str(value)[:_TEXT_CHARS]


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _cut(text: str) -> str:
    if len(text) <= _TRACEBACK_CHARS:
        return text
    half = _TRACEBACK_CHARS // 2
    return f"{text[:half]}\n\n... {len(text) - 2 * half} characters are left out ...\n\n{text[-half:]}"
