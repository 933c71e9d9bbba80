"""A store in memory, for tests and throw-away services: it forgets everything with its process."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from parsl_globus.service.store.base import (
    ClientRecord,
    DuplicateSubmission,
    Ended,
    Ending,
    EndpointGone,
    EndpointRecord,
    FunctionRecord,
    GroupRecord,
    GroupTaken,
    IdentityRecord,
    NewTask,
    Purged,
    ReportRecord,
    StoredResult,
    SubmissionRecord,
    TaskCounts,
    TaskRecord,
    TokenRecord,
    UserEndpointRecord,
    WaitingTask,
)
from parsl_globus.service.store.memory_blobs import MemoryBlobs
from parsl_globus.service.store.memory_people import MemoryPeople
from parsl_globus.service.store.memory_views import MemoryViews
from parsl_globus.wire.states import TaskStage

_R = TypeVar("_R")


@dataclass
class _Task:
    sequence: int
    new: NewTask
    submission: SubmissionRecord
    stage: TaskStage = TaskStage.PUBLISHED
    completed_s: float | None = None
    body: bytes | None = None


class MemoryStore(MemoryBlobs, MemoryPeople, MemoryViews):
    """See `Store`. Nothing here awaits, so that every call is atomic in its event loop.

    Attributes:
        shared: See `Store`; tests that share one among several services set it.
    """

    shared = False

    def __init__(self) -> None:
        super().__init__()
        self._identities: dict[uuid.UUID, IdentityRecord] = {}
        self._clients: dict[uuid.UUID, ClientRecord] = {}
        self._tokens: dict[str, TokenRecord] = {}
        self._endpoints: dict[uuid.UUID, EndpointRecord] = {}
        self._user_endpoints: dict[uuid.UUID, UserEndpointRecord] = {}
        self._counts: dict[uuid.UUID, TaskCounts] = {}
        self._reports: dict[uuid.UUID, ReportRecord] = {}
        self._functions: dict[uuid.UUID, FunctionRecord] = {}
        self._groups: dict[uuid.UUID, GroupRecord] = {}
        self._submissions: dict[uuid.UUID, SubmissionRecord] = {}
        self._tasks: dict[uuid.UUID, _Task] = {}
        self._sequence = 0
        self._version = 0
        self._starts: dict[uuid.UUID, float] = {}
        self._unsent: dict[uuid.UUID, str] = {}
        self._settings: dict[str, str] = {}
        self._leases: dict[str, tuple[str, float]] = {}

    async def open(self) -> None:
        return

    async def close(self) -> None:
        return

    async def add_identity(self, identity: IdentityRecord) -> None:
        self._identities[identity.identity_id] = identity

    async def identities(self, identity_ids: Sequence[uuid.UUID]) -> list[IdentityRecord]:
        return [self._identities[i] for i in identity_ids if i in self._identities]

    async def add_client(self, client: ClientRecord) -> None:
        self._clients[client.client_id] = client

    async def client(self, client_id: uuid.UUID) -> ClientRecord | None:
        return self._clients.get(client_id)

    async def add_tokens(self, tokens: Sequence[TokenRecord]) -> None:
        self._tokens.update((token.token_hash, token) for token in tokens)

    async def token(self, token_hash: str) -> TokenRecord | None:
        return self._tokens.get(token_hash)

    async def put_endpoint(self, endpoint: EndpointRecord) -> None:
        self._version += 1
        self._endpoints[endpoint.endpoint_id] = endpoint

    async def endpoint(self, endpoint_id: uuid.UUID) -> EndpointRecord | None:
        return self._endpoints.get(endpoint_id)

    async def endpoints(self, endpoint_ids: Sequence[uuid.UUID] | None = None) -> list[EndpointRecord]:
        found = _some(self._endpoints, endpoint_ids)
        return sorted(found, key=lambda endpoint: (endpoint.name, endpoint.endpoint_id.hex))

    async def endpoints_version(self) -> str:
        return str(self._version)

    async def delete_endpoint(self, endpoint_id: uuid.UUID) -> bool:
        self._version += 1
        gone = [u for u in self._user_endpoints.values() if u.manager_id == endpoint_id]
        for user_endpoint in gone:
            del self._user_endpoints[user_endpoint.endpoint_id]
            self._counts.pop(user_endpoint.endpoint_id, None)
            self._reports.pop(user_endpoint.endpoint_id, None)
            self._starts.pop(user_endpoint.endpoint_id, None)
        self._reports.pop(endpoint_id, None)
        return self._endpoints.pop(endpoint_id, None) is not None

    async def put_user_endpoint(self, user_endpoint: UserEndpointRecord) -> None:
        self._version += 1
        self._user_endpoints[user_endpoint.endpoint_id] = user_endpoint
        self._counts.setdefault(user_endpoint.endpoint_id, TaskCounts())

    async def user_endpoints(
        self, manager_id: uuid.UUID | None = None, *, endpoint_ids: Sequence[uuid.UUID] | None = None
    ) -> list[UserEndpointRecord]:
        return [u for u in _some(self._user_endpoints, endpoint_ids) if manager_id in (None, u.manager_id)]

    async def claim_start(self, endpoint_id: uuid.UUID, now_s: float, before_s: float) -> bool:
        if endpoint_id not in self._user_endpoints or self._starts.get(endpoint_id, float("-inf")) >= before_s:
            return False
        self._starts[endpoint_id] = now_s
        return True

    async def forget_starts(self, endpoint_ids: Sequence[uuid.UUID] | None = None) -> None:
        for endpoint_id in list(self._starts) if endpoint_ids is None else endpoint_ids:
            self._starts.pop(endpoint_id, None)

    async def put_reports(self, reports: Sequence[ReportRecord]) -> None:
        self._reports.update((report.endpoint_id, report) for report in reports)

    async def reports(
        self, endpoint_ids: Sequence[uuid.UUID] | None = None, *, since_s: float | None = None
    ) -> list[ReportRecord]:
        return [r for r in _some(self._reports, endpoint_ids) if since_s is None or r.received_s >= since_s]

    async def add_function(self, function: FunctionRecord) -> None:
        self._functions[function.function_id] = function

    async def functions(self, function_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, FunctionRecord]:
        return {i: self._functions[i] for i in function_ids if i in self._functions}

    async def live_functions(self, function_ids: Sequence[uuid.UUID]) -> set[uuid.UUID]:
        return {i for i in function_ids if i in self._functions and not self._functions[i].deleted}

    async def delete_function(self, function_id: uuid.UUID) -> bool:
        function = self._functions.get(function_id)
        if function is None or function.deleted:
            return False
        self._functions[function_id] = replace(function, deleted=True)
        return True

    async def add_submission(self, submission: SubmissionRecord, tasks: Sequence[NewTask]) -> None:
        if submission.key is not None and await self.submission_reply(submission.owner_id, submission.key) is not None:
            raise DuplicateSubmission(key=submission.key)
        if submission.user_endpoint_id not in self._user_endpoints:
            raise EndpointGone(endpoint_id=submission.user_endpoint_id)
        known = self._groups.get(submission.group.group_id)
        if known is not None and known.owner_id != submission.group.owner_id:
            raise GroupTaken(group_id=known.group_id)
        if known is None or (submission.group.has_queue and not known.has_queue):
            self._groups[submission.group.group_id] = submission.group
        self._submissions[submission.submission_id] = submission
        if submission.sender is not None:
            self._unsent[submission.submission_id] = submission.sender
        for task in tasks:
            self._sequence += 1
            self._tasks[task.task_id] = _Task(self._sequence, task, submission)
        self._count(submission.user_endpoint_id, submitted=len(tasks))

    def _count(self, endpoint_id: uuid.UUID, *, submitted: int = 0, done: int = 0, failed: int = 0) -> None:
        counts = self._counts.get(endpoint_id)
        if counts is not None:
            self._counts[endpoint_id] = TaskCounts(
                counts.submitted + submitted, counts.done + done, counts.failed + failed
            )

    async def mark_sent(self, sender: str, submission_ids: Sequence[uuid.UUID]) -> None:
        for submission_id in submission_ids:
            if self._unsent.get(submission_id) == sender:
                del self._unsent[submission_id]

    async def adopt_unsent(self, sender: str, senders: str, now_s: float, limit: int = 100) -> list[uuid.UUID]:
        alive = {name.removeprefix(senders) for name, (_, until_s) in self._leases.items() if until_s > now_s}
        orphans = [i for i, known in self._unsent.items() if known not in alive and known != sender][:limit]
        self._unsent.update(dict.fromkeys(orphans, sender))
        return orphans

    async def submission_reply(self, owner_id: uuid.UUID, key: str) -> str | None:
        replies = (s.reply for s in self._submissions.values() if s.owner_id == owner_id and s.key == key)
        return next(replies, None)

    async def group(self, group_id: uuid.UUID) -> GroupRecord | None:
        return self._groups.get(group_id)

    async def group_tasks(self, group_id: uuid.UUID) -> list[uuid.UUID]:
        return [task_id for task_id, task in self._tasks.items() if task.submission.group.group_id == group_id]

    async def tasks(self, task_ids: Sequence[uuid.UUID], *, with_body: bool = True) -> list[TaskRecord]:
        return [
            TaskRecord(
                task_id=task_id,
                owner_id=task.submission.owner_id,
                group_id=task.submission.group.group_id,
                user_endpoint_id=task.submission.user_endpoint_id,
                stage=task.stage,
                completed_s=task.completed_s,
                body=task.body if with_body else None,
            )
            for task_id in dict.fromkeys(task_ids)
            if (task := self._tasks.get(task_id)) is not None
        ]

    async def finish_tasks(self, endings: Sequence[Ending]) -> list[Ended | None]:
        return [self._finish(ending) for ending in endings]

    def _finish(self, ending: Ending) -> Ended | None:
        task = self._tasks.get(ending.task_id)
        if task is None or task.submission.user_endpoint_id != ending.user_endpoint_id:
            return None
        group = self._groups[task.submission.group.group_id]
        if not task.stage.may_become(ending.stage):
            return Ended(ending.task_id, new=False, group=group, completed_s=task.completed_s or ending.completed_s)
        task.stage, task.completed_s, task.body = ending.stage, ending.completed_s, ending.body
        ok = ending.stage is TaskStage.SUCCESS
        self._count(ending.user_endpoint_id, done=int(ok), failed=int(not ok))
        return Ended(ending.task_id, new=True, group=group, completed_s=ending.completed_s)

    async def unfinished_tasks(
        self,
        user_endpoint_id: uuid.UUID | None = None,
        *,
        submission_id: uuid.UUID | None = None,
        after: int = 0,
        limit: int = 500,
    ) -> list[WaitingTask]:
        waiting = [
            WaitingTask(
                task.sequence,
                task.new,
                task.submission.user_endpoint_id,
                task.submission.resource_specification,
                task.submission.result_serializers,
            )
            for task in self._tasks.values()
            if not task.stage.final
            and task.sequence > after
            and user_endpoint_id in (None, task.submission.user_endpoint_id)
            and submission_id in (None, task.submission.submission_id)
        ]
        return waiting[:limit]

    async def stray_endpoints(self) -> list[uuid.UUID]:
        waiting = {t.submission.user_endpoint_id for t in self._tasks.values() if not t.stage.final}
        served = {u.endpoint_id for u in self._user_endpoints.values() if u.manager_id in self._endpoints}
        return list(waiting - served)

    async def results_since(self, since_s: float, *, after: int = 0, limit: int = 500) -> list[StoredResult]:
        results = [
            StoredResult(task.sequence, group, task.completed_s, task.body)
            for task in self._tasks.values()
            if task.completed_s is not None and task.completed_s >= since_s and task.body is not None
            if task.sequence > after and (group := self._groups[task.submission.group.group_id]).has_queue
        ]
        return results[:limit]

    async def groups_in_use(self, since_s: float) -> list[GroupRecord]:
        used = {group.group_id for group in self._groups.values() if group.created_s >= since_s}
        for task in self._tasks.values():
            if task.completed_s is None or max(task.completed_s, task.submission.submitted_s) >= since_s:
                used.add(task.submission.group.group_id)
        return [group for group in self._groups.values() if group.group_id in used and group.has_queue]

    async def counts(self) -> dict[uuid.UUID, TaskCounts]:
        return dict(self._counts)

    async def purge(self, before_s: float, now_s: float, *, limit: int = 500) -> Purged:
        self._tokens = {h: token for h, token in self._tokens.items() if token.expires_s > now_s}
        old = [i for i, t in self._tasks.items() if t.completed_s is not None and t.completed_s < before_s]
        for task_id in old[:limit]:
            del self._tasks[task_id]
        if len(old) > limit:
            return Purged([], more=True)
        used = {task.submission.submission_id for task in self._tasks.values()}
        self._submissions = {i: s for i, s in self._submissions.items() if i in used or s.submitted_s >= before_s}
        groups = {s.group.group_id for s in self._submissions.values()}
        gone = [g for i, g in self._groups.items() if i not in groups and g.created_s < before_s]
        for group in gone:
            del self._groups[group.group_id]
        return Purged(gone, more=False)

    async def setting(self, name: str, value: str) -> str:
        return self._settings.setdefault(name, value)

    async def lease(self, name: str, holder: str, now_s: float, life_s: float) -> bool:
        known, until_s = self._leases.get(name, (holder, 0.0))
        if known != holder and until_s > now_s:
            return False
        self._leases[name] = (holder, now_s + life_s)
        return True

    async def release(self, name: str, holder: str) -> None:
        if self._leases.get(name, ("", 0.0))[0] == holder:
            del self._leases[name]


def _some(records: Mapping[uuid.UUID, _R], ids: Sequence[uuid.UUID] | None) -> list[_R]:
    return list(records.values()) if ids is None else [records[i] for i in dict.fromkeys(ids) if i in records]
