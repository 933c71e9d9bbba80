"""The queries about tasks, their submissions and groups, for the SQL stores."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import sqlalchemy as sa

from parsl_globus.service.store import changes, rows, single
from parsl_globus.service.store.base import (
    DuplicateSubmission,
    Ended,
    Ending,
    GroupRecord,
    NewTask,
    StoredResult,
    SubmissionRecord,
    TaskRecord,
    WaitingTask,
)
from parsl_globus.service.store.changes import select_in
from parsl_globus.service.store.statements import Single
from parsl_globus.service.store.tables import ENDPOINTS, GROUPS, SUBMISSIONS, TASKS, USER_ENDPOINTS
from parsl_globus.wire.states import TaskStage

_T = TypeVar("_T")

#: A change of no more tasks than this, and no more bytes in all, is a small one.
_SMALL_TASKS, _SMALL_BYTES = 4, 64 * 1024
#: So many tasks with more are remembered at most.
_LARGE_COUNT = 100_000


class SqlTasks:
    """See `Store`; a part of `SqlStore`, whose transactions it uses."""

    if TYPE_CHECKING:
        _large: set[uuid.UUID]

        async def _write(
            self,
            work: Callable[[sa.Connection], _T],
            *,
            small: bool = False,
            single: Callable[[], Single[_T]] | None = None,
        ) -> _T: ...

        async def _read(self, work: Callable[[sa.Connection], _T]) -> _T: ...

    async def add_submission(self, submission: SubmissionRecord, tasks: Sequence[NewTask]) -> None:
        def work(connection: sa.Connection) -> bool:
            changes.add_submission(connection, submission, tasks)
            return True

        try:
            sizes_bytes = [len(task.payload) for task in tasks]
            small = _is_small(sizes_bytes)
            in_one = partial(single.add_submission, submission, tasks)
            if not small:
                self._note_large(tasks)
            await self._write(work, small=small, single=in_one if single.fits(sizes_bytes) else None)
        except sa.exc.IntegrityError as exc:
            # It may be its own row that it met: the connection was lost while this was committed, and it came again.
            if tasks and await self.tasks([tasks[0].task_id], with_body=False):
                return
            if submission.key is None or await self.submission_reply(submission.owner_id, submission.key) is None:
                raise
            raise DuplicateSubmission(key=submission.key) from exc

    def _note_large(self, tasks: Sequence[NewTask]) -> None:
        if len(self._large) >= _LARGE_COUNT:
            self._large.clear()
        self._large.update(task.task_id for task in tasks if len(task.payload) > _SMALL_BYTES)

    async def mark_sent(self, sender: str, submission_ids: Sequence[uuid.UUID]) -> None:
        await self._write(lambda c: changes.mark_sent(c, sender, submission_ids))

    async def adopt_unsent(self, sender: str, senders: str, now_s: float, limit: int = 100) -> list[uuid.UUID]:
        tried: set[uuid.UUID] = set()

        def work(connection: sa.Connection) -> list[uuid.UUID]:
            found = changes.adopt_unsent(connection, sender, senders, now_s, limit, tried)
            tried.update(found)
            return found

        return await self._write(work)

    async def submission_reply(self, owner_id: uuid.UUID, key: str) -> str | None:
        values = {"b_owner_id": owner_id, "b_key": key}
        return await self._read(lambda c: c.execute(changes.REPLY_QUERY, values).scalar_one_or_none())

    async def group(self, group_id: uuid.UUID) -> GroupRecord | None:
        query = sa.select(*rows.GROUP_COLUMNS).where(GROUPS.c.group_id == group_id)
        row = await self._read(lambda c: c.execute(query).one_or_none())
        return None if row is None else rows.to_group(row)

    async def group_tasks(self, group_id: uuid.UUID) -> list[uuid.UUID]:
        query = (
            sa.select(TASKS.c.task_id)
            .join(SUBMISSIONS, SUBMISSIONS.c.number == TASKS.c.submission)
            .where(SUBMISSIONS.c.group_id == group_id)
            .order_by(TASKS.c.sequence)
        )
        return await self._read(lambda c: list(c.execute(query).scalars()))

    async def tasks(self, task_ids: Sequence[uuid.UUID], *, with_body: bool = True) -> list[TaskRecord]:
        body = TASKS.c.body if with_body else sa.null().label("body")
        columns = (TASKS.c.task_id, TASKS.c.stage, TASKS.c.completed_s, body, SUBMISSIONS.c.owner_id)
        query = sa.select(*columns, SUBMISSIONS.c.group_id, SUBMISSIONS.c.user_endpoint_id).join(
            SUBMISSIONS, SUBMISSIONS.c.number == TASKS.c.submission
        )

        def work(connection: sa.Connection) -> list[TaskRecord]:
            found = select_in(connection, query, TASKS.c.task_id, list(dict.fromkeys(task_ids)))
            return [TaskRecord(**{**row._mapping, "stage": TaskStage(row.stage)}) for row in found]

        return await self._read(work)

    async def finish_tasks(self, endings: Sequence[Ending]) -> list[Ended | None]:
        tried = False

        def again() -> bool:
            nonlocal tried
            before, tried = tried, True
            return before

        def work(connection: sa.Connection) -> list[Ended | None]:
            return changes.finish(connection, endings, again())

        def work_in_one() -> Single[list[Ended | None]]:
            return single.finish(endings, again())

        ids = {ending.task_id for ending in endings}
        # The arguments go with it, as many pages as they have.
        sizes_bytes = [len(ending.body) for ending in endings]
        small = _is_small(sizes_bytes) and self._large.isdisjoint(ids)
        self._large -= ids
        in_one = work_in_one if len(ids) == len(endings) and single.fits(sizes_bytes) else None
        return await self._write(work, small=small, single=in_one)

    async def unfinished_tasks(
        self,
        user_endpoint_id: uuid.UUID | None = None,
        *,
        submission_id: uuid.UUID | None = None,
        after: int = 0,
        limit: int = 500,
    ) -> list[WaitingTask]:
        query = (
            sa.select(
                TASKS.c.sequence,
                TASKS.c.task_id,
                TASKS.c.function_id,
                TASKS.c.payload,
                SUBMISSIONS.c.user_endpoint_id,
                SUBMISSIONS.c.resource_specification,
                SUBMISSIONS.c.result_serializers,
            )
            .join(SUBMISSIONS, SUBMISSIONS.c.number == TASKS.c.submission)
            .where(TASKS.c.completed_s.is_(None), TASKS.c.sequence > after)
            .order_by(TASKS.c.sequence)
            .limit(limit)
        )
        if user_endpoint_id is not None:
            query = query.where(SUBMISSIONS.c.user_endpoint_id == user_endpoint_id)
        if submission_id is not None:
            # There is an index of those that were not sent yet, and nobody asks for others.
            query = query.where(SUBMISSIONS.c.submission_id == submission_id, SUBMISSIONS.c.sender.is_not(None))
        return await self._read(lambda c: [rows.to_waiting_task(row) for row in c.execute(query)])

    async def stray_endpoints(self) -> list[uuid.UUID]:
        query = (
            sa.select(SUBMISSIONS.c.user_endpoint_id)
            .distinct()
            .join(TASKS, SUBMISSIONS.c.number == TASKS.c.submission)
            .outerjoin(USER_ENDPOINTS, USER_ENDPOINTS.c.endpoint_id == SUBMISSIONS.c.user_endpoint_id)
            .outerjoin(ENDPOINTS, ENDPOINTS.c.endpoint_id == USER_ENDPOINTS.c.manager_id)
            .where(TASKS.c.completed_s.is_(None), ENDPOINTS.c.endpoint_id.is_(None))
        )
        return await self._read(lambda c: list(c.execute(query).scalars()))

    async def results_since(self, since_s: float, *, after: int = 0, limit: int = 500) -> list[StoredResult]:
        query = (
            sa.select(TASKS.c.sequence, TASKS.c.completed_s, TASKS.c.body, *rows.GROUP_COLUMNS)
            .join(SUBMISSIONS, SUBMISSIONS.c.number == TASKS.c.submission)
            .join(GROUPS, GROUPS.c.group_id == SUBMISSIONS.c.group_id)
            .where(GROUPS.c.used_s >= since_s, GROUPS.c.has_queue, TASKS.c.completed_s >= since_s)
            .where(TASKS.c.sequence > after, TASKS.c.body.is_not(None))
            .order_by(TASKS.c.sequence)
            .limit(limit)
        )

        def work(connection: sa.Connection) -> list[StoredResult]:
            found = connection.execute(query)
            return [StoredResult(row.sequence, rows.to_group(row), row.completed_s, row.body) for row in found]

        return await self._read(work)

    async def groups_in_use(self, since_s: float) -> list[GroupRecord]:
        waiting = (
            sa.select(SUBMISSIONS.c.group_id)
            .join(TASKS, SUBMISSIONS.c.number == TASKS.c.submission)
            .where(TASKS.c.completed_s.is_(None))
        )
        used = (GROUPS.c.used_s >= since_s) | GROUPS.c.group_id.in_(waiting)
        query = sa.select(*rows.GROUP_COLUMNS).where(GROUPS.c.has_queue, used)
        return await self._read(lambda c: [rows.to_group(row) for row in c.execute(query)])


def _is_small(sizes_bytes: Sequence[int]) -> bool:
    return len(sizes_bytes) <= _SMALL_TASKS and sum(sizes_bytes) <= _SMALL_BYTES
