"""The page's queries in SQL, in a thread of their own: a slow one holds up no task."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

from parsl_globus.service.store.failures import failure_of, looks_failed
from parsl_globus.service.store.statements import Statements
from parsl_globus.service.store.tables import FUNCTIONS, SUBMISSIONS, TASKS
from parsl_globus.service.store.views import (
    HEAD_BYTES,
    SEARCH_BYTES,
    SEARCH_TASKS,
    LatencyRow,
    MinuteRow,
    Shown,
    TaskDetail,
    TaskQuery,
    TaskRow,
)
from parsl_globus.wire.states import TaskStage

if TYPE_CHECKING:
    from parsl_globus.service.store.sql import Database

_T = TypeVar("_T")
_Connection = TypeVar("_Connection", sa.Connection, Statements)

#: Bodies read at a time while failures are searched.
_BODIES = 100
_MINUTE_S = 60
_PLAIN = re.compile(r"[a-z0-9 _.,:;()=-]+")

_COLUMNS = (
    TASKS.c.sequence,
    TASKS.c.task_id,
    SUBMISSIONS.c.owner_id,
    SUBMISSIONS.c.user_endpoint_id,
    TASKS.c.function_id,
    TASKS.c.stage,
    SUBMISSIONS.c.submitted_s,
    TASKS.c.completed_s,
)
_FROM = TASKS.join(SUBMISSIONS, SUBMISSIONS.c.number == TASKS.c.submission)
_NAMED = _FROM.outerjoin(FUNCTIONS, FUNCTIONS.c.function_id == TASKS.c.function_id)
_ROW = (
    *_COLUMNS,
    sa.func.coalesce(FUNCTIONS.c.name, "").label("function_name"),
    sa.func.substr(TASKS.c.body, 1, HEAD_BYTES).label("head"),
)


class SqlViews:
    """See `ViewStore`; mixed into `SqlStore`, by whose ways all of it goes."""

    _database: Database
    #: The thread of these queries.
    _viewers: ThreadPoolExecutor

    if TYPE_CHECKING:

        async def _run(
            self,
            threads: ThreadPoolExecutor,
            begin: Callable[[], AbstractContextManager[_Connection]],
            work: Callable[[_Connection], _T],
        ) -> _T:
            """See `SqlStore`."""

    async def _view(self, work: Callable[[sa.Connection], _T]) -> _T:
        return await self._run(self._viewers, self._database.reader.begin, work)

    async def task_rows(self, query: TaskQuery, limit: int) -> list[TaskRow]:
        statement = _statement(query, limit)
        return await self._view(lambda c: [_row(row) for row in c.execute(statement)])

    async def failure_rows(self, query: TaskQuery, text: str, limit: int) -> list[TaskRow]:
        return await self._view(partial(_search_failures, query=query, text=text, limit=limit))

    async def task_detail(self, task_id: uuid.UUID) -> TaskDetail | None:
        more = (SUBMISSIONS.c.group_id, SUBMISSIONS.c.resource_specification, TASKS.c.body)
        length = sa.func.length(TASKS.c.payload).label("payload_chars")
        statement = sa.select(*_ROW, *more, length).select_from(_NAMED).where(TASKS.c.task_id == task_id)
        row = await self._view(lambda c: c.execute(statement).one_or_none())
        if row is None:
            return None
        return TaskDetail(_row(row), row.group_id, row.resource_specification, row.payload_chars, row.body)

    async def ended_by_minute(self, since_s: float, until_s: float) -> list[MinuteRow]:
        minute = _minute()
        failed = (TASKS.c.stage == TaskStage.FAILED.value).label("failed")
        statement = (
            sa.select(minute, SUBMISSIONS.c.user_endpoint_id, failed, sa.func.count().label("number"))
            .select_from(_FROM)
            .where(TASKS.c.completed_s >= since_s, TASKS.c.completed_s < until_s)
            .group_by(minute, SUBMISSIONS.c.user_endpoint_id, failed)
        )

        def work(connection: sa.Connection) -> list[MinuteRow]:
            found = connection.execute(statement)
            return [MinuteRow(int(row.minute), row.user_endpoint_id, bool(row.failed), row.number) for row in found]

        return await self._view(work)

    async def latencies(self, since_s: float, until_s: float, limit: int) -> list[LatencyRow]:
        latency = (TASKS.c.completed_s - SUBMISSIONS.c.submitted_s).label("latency_s")
        statement = (
            sa.select(_minute(), SUBMISSIONS.c.user_endpoint_id, latency)
            .select_from(_FROM)
            .where(TASKS.c.completed_s >= since_s, TASKS.c.completed_s < until_s)
            .order_by(TASKS.c.completed_s)
            .limit(limit)
        )

        def work(connection: sa.Connection) -> list[LatencyRow]:
            found = connection.execute(statement)
            return [LatencyRow(int(row.minute), row.user_endpoint_id, row.latency_s) for row in found]

        return await self._view(work)

    async def ping(self) -> None:
        await self._view(lambda c: c.execute(sa.select(sa.literal(1))).all())


class _WholeMinute(sa.sql.functions.GenericFunction[int]):
    """Minutes since the epoch: SQLite rounds towards zero and may lack `floor`, PostgreSQL rounds to the nearest."""

    type = sa.BigInteger()
    inherit_cache = True
    name = "whole_minute"


@compiles(_WholeMinute)
def _whole_minute(element: Any, compiler: Any, **options: Any) -> str:
    return f"floor({compiler.process(element.clauses, **options)} / {_MINUTE_S})"


@compiles(_WholeMinute, "sqlite")
def _whole_minute_sqlite(element: Any, compiler: Any, **options: Any) -> str:
    return f"CAST({compiler.process(element.clauses, **options)} / {_MINUTE_S} AS INTEGER)"


def _minute() -> sa.Label[int]:
    return _WholeMinute(TASKS.c.completed_s).label("minute")


def _statement(query: TaskQuery, limit: int) -> sa.Select[Any]:
    """The rows that fit; the order is that of an index in each case, so that no query sorts what it won't show."""
    if query.function_name is not None:
        return _by_function(query, query.function_name, limit)
    statement = sa.select(*_ROW).select_from(_NAMED).where(*_conditions(query))
    return statement.order_by(*_order(query)).limit(limit)


def _conditions(query: TaskQuery) -> Iterator[sa.ColumnElement[bool]]:
    if query.owner_id is not None:
        here = SUBMISSIONS.c.owner_id == query.owner_id
        # An owner's tasks are many; where the other conditions leave few, no planner is to start from the owner.
        yield here if _by_owner(query) else sa.case((here, 1), else_=0) == 1
    if query.shown is Shown.WAITING:
        yield TASKS.c.completed_s.is_(None)
    elif query.shown is Shown.FAILED:
        # As a literal: the partial index fits only what the planner can see.
        yield TASKS.c.stage == sa.literal_column(f"'{TaskStage.FAILED.value}'")
    elif query.shown is Shown.DONE:
        yield TASKS.c.stage == TaskStage.SUCCESS.value
    if query.task_ids is not None:
        yield TASKS.c.task_id.between(*query.task_ids)
    if query.user_endpoint_ids is not None:
        yield SUBMISSIONS.c.user_endpoint_id.in_(sorted(query.user_endpoint_ids)[:500])
    if query.before is not None:
        yield TASKS.c.sequence < query.before


def _by_owner(query: TaskQuery) -> bool:
    """Whether the owner's newest submissions are the way to the tasks, rather than an index of the tasks' own."""
    return query.owner_id is not None and query.shown in (Shown.ALL, Shown.DONE) and query.task_ids is None


def _order(query: TaskQuery) -> tuple[sa.ColumnElement[Any], ...]:
    if _by_owner(query):
        return (SUBMISSIONS.c.number.desc(), TASKS.c.sequence.desc())
    return (TASKS.c.sequence.desc(),)


def _by_function(query: TaskQuery, name: str, limit: int) -> sa.Select[Any]:
    newest = sa.select(*_COLUMNS, TASKS.c.body).select_from(_FROM).where(*_conditions(query))
    part = newest.order_by(*_order(query)).limit(SEARCH_TASKS).subquery()
    pattern = "%" + name.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
    return (
        sa.select(
            *(part.c[column.name] for column in _COLUMNS),
            FUNCTIONS.c.name.label("function_name"),
            sa.func.substr(part.c.body, 1, HEAD_BYTES).label("head"),
        )
        .join(FUNCTIONS, FUNCTIONS.c.function_id == part.c.function_id)
        .where(FUNCTIONS.c.name.ilike(pattern, escape="\\"))
        .order_by(part.c.sequence.desc())
        .limit(limit)
    )


def _row(row: sa.Row[Any]) -> TaskRow:
    return TaskRow(
        sequence=row.sequence,
        task_id=row.task_id,
        owner_id=row.owner_id,
        user_endpoint_id=row.user_endpoint_id,
        function_id=row.function_id,
        function_name=row.function_name,
        stage=TaskStage(row.stage),
        submitted_s=row.submitted_s,
        completed_s=row.completed_s,
        head=bytes(row.head or b""),
    )


def _search_failures(connection: sa.Connection, query: TaskQuery, text: str, limit: int) -> list[TaskRow]:
    wanted = text.casefold()
    raw = _sure_part(wanted)
    found: list[TaskRow] = []
    size = 0
    candidates = list(_failed(connection, query))
    for start in range(0, len(candidates), _BODIES):
        part = {row.sequence: row for row in candidates[start : start + _BODIES]}
        bodies = sa.select(TASKS.c.sequence, TASKS.c.body).where(TASKS.c.sequence.in_(part))
        for sequence, body in connection.execute(bodies.order_by(TASKS.c.sequence.desc())):
            size += len(body or b"")
            if body is None or raw not in body.lower():
                continue
            failure = failure_of(body)
            if failure is not None and failure.has(wanted):
                found.append(part[sequence])
                if len(found) == limit:
                    return found
        if size > SEARCH_BYTES:
            break
    return found


def _sure_part(wanted: str) -> bytes:
    """What a message with `wanted` in it surely has, in small letters: JSON escapes quotes, breaks and umlauts."""
    return max(_PLAIN.findall(wanted), key=len, default="").encode() if wanted.isascii() else b""


def _failed(connection: sa.Connection, query: TaskQuery) -> Iterator[TaskRow]:
    """Those of the newest tasks that failed, newest first."""
    for row in connection.execute(_statement(query, SEARCH_TASKS)):
        if looks_failed(TaskStage(row.stage), bytes(row.head or b"")):
            yield _row(row)
