"""The queries of the SQL stores, once, and the threads that run them."""

from __future__ import annotations

import asyncio
import enum
import json
import random
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa

from parsl_globus.service.store import changes, rows
from parsl_globus.service.store.base import (
    ClientRecord,
    DuplicateSubmission,
    Ended,
    Ending,
    EndpointRecord,
    FunctionRecord,
    GroupRecord,
    IdentityRecord,
    NewTask,
    Purged,
    ReportRecord,
    StoredResult,
    StoreUnavailable,
    SubmissionRecord,
    TaskCounts,
    TaskRecord,
    TokenRecord,
    UserEndpointRecord,
    WaitingTask,
)
from parsl_globus.service.store.changes import chunks, select_in
from parsl_globus.service.store.sql_blobs import SqlBlobs
from parsl_globus.service.store.sql_people import SqlPeople
from parsl_globus.service.store.sql_views import SqlViews
from parsl_globus.service.store.tables import (
    CLIENTS,
    ENDPOINTS,
    FUNCTIONS,
    GROUPS,
    IDENTITIES,
    LEASES,
    REPORTS,
    SETTINGS,
    SUBMISSIONS,
    TASKS,
    TOKENS,
    USER_ENDPOINTS,
)
from parsl_globus.wire.states import TaskStage

_T = TypeVar("_T")

#: How long a call waits for a database that is away, before it fails.
_PATIENCE_S = 5.0
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 0.5


class Trouble(enum.Enum):
    """Why a statement failed, when it was not the statement's fault."""

    #: The transaction met another one, and was undone; again at once.
    COLLISION = "collision"
    #: The database can't be reached, or is not ready.
    AWAY = "away"


class Database(Protocol):
    """A connected database: what differs between SQLite and PostgreSQL.

    Attributes:
        reader: For statements that only read.
        writer: For all others; each call is one transaction.
        write_threads: How many writers make sense.
        read_threads: How many readers make sense.
        shared: See `Store`.
    """

    reader: sa.Engine
    writer: sa.Engine
    write_threads: int
    read_threads: int
    shared: bool

    def open(self) -> None:
        """Connect, and see to the schema. Raises `ConfigError`."""

    def close(self) -> None:
        """Disconnect."""

    def trouble(self, exc: sa.exc.DBAPIError) -> Trouble | None:
        """What kind of trouble this is; `None`: an error that would come again."""


class SqlStore(SqlPeople, SqlViews, SqlBlobs):
    """See `Store`. Each call is one transaction, in a thread, so that the event loop never waits for a disk.

    Attributes:
        on_commit: Told how long each call took that changes something, in seconds.
    """

    on_commit: Callable[[float], None] | None = None

    def __init__(self, database: Database) -> None:
        self._database = database
        self._writers = ThreadPoolExecutor(database.write_threads, thread_name_prefix="store-write")
        self._readers = ThreadPoolExecutor(database.read_threads, thread_name_prefix="store-read")
        self._viewers = ThreadPoolExecutor(1, thread_name_prefix="store-view")

    @property
    def shared(self) -> bool:
        return self._database.shared

    async def open(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._writers, self._database.open)

    async def close(self) -> None:
        # Waits for what was begun; the threads are idle or about to be, so this is short.
        await asyncio.get_running_loop().run_in_executor(None, self._close)

    def _close(self) -> None:
        self._writers.shutdown(wait=True)
        self._readers.shutdown(wait=True)
        self._viewers.shutdown(wait=True, cancel_futures=True)
        self._database.close()

    async def _write(self, work: Callable[[sa.Connection], _T]) -> _T:
        began_s = time.perf_counter()
        outcome = await self._run(self._writers, self._database.writer, work)
        if self.on_commit is not None:
            self.on_commit(time.perf_counter() - began_s)
        return outcome

    async def _read(self, work: Callable[[sa.Connection], _T]) -> _T:
        return await self._run(self._readers, self._database.reader, work)

    async def _run(self, threads: ThreadPoolExecutor, engine: sa.Engine, work: Callable[[sa.Connection], _T]) -> _T:
        """Run `work` in a transaction; again, when it failed through no fault of its own.

        It may have been committed even so, and only the answer be lost: what `work` returns must not depend on that.
        """

        def run() -> _T:
            with engine.begin() as connection:
                return work(connection)

        loop = asyncio.get_running_loop()
        began_s, pause_s = loop.time(), _FIRST_PAUSE_S
        while True:
            try:
                return await loop.run_in_executor(threads, run)
            except sa.exc.DBAPIError as exc:
                trouble = self._database.trouble(exc)
                if trouble is None:
                    raise
                if loop.time() - began_s > _PATIENCE_S:
                    raise StoreUnavailable(detail=_first_line(exc)) from exc
            await asyncio.sleep(pause_s if trouble is Trouble.AWAY else random.uniform(0.0, _FIRST_PAUSE_S))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    # ---- identities, clients, tokens --------------------------------------------------------------------------

    async def add_identity(self, identity: IdentityRecord) -> None:
        await self._write(lambda c: changes.upsert(c, IDENTITIES, [vars(identity)]))

    async def identities(self, identity_ids: Sequence[uuid.UUID]) -> list[IdentityRecord]:
        def work(connection: sa.Connection) -> list[IdentityRecord]:
            found = select_in(connection, sa.select(IDENTITIES), IDENTITIES.c.identity_id, identity_ids)
            return [IdentityRecord(row.identity_id, row.username) for row in found]

        return await self._read(work)

    async def add_client(self, client: ClientRecord) -> None:
        await self._write(lambda c: changes.upsert(c, CLIENTS, [vars(client)]))

    async def client(self, client_id: uuid.UUID) -> ClientRecord | None:
        query = sa.select(CLIENTS).where(CLIENTS.c.client_id == client_id)
        row = await self._read(lambda c: c.execute(query).one_or_none())
        return None if row is None else ClientRecord(row.client_id, row.identity_id, row.secret_hash)

    async def add_tokens(self, tokens: Sequence[TokenRecord]) -> None:
        values = [{**vars(token), "scopes": " ".join(sorted(token.scopes))} for token in tokens]
        await self._write(lambda c: changes.upsert(c, TOKENS, values))

    async def token(self, token_hash: str) -> TokenRecord | None:
        query = sa.select(TOKENS).where(TOKENS.c.token_hash == token_hash)
        row = await self._read(lambda c: c.execute(query).one_or_none())
        if row is None:
            return None
        return TokenRecord(row.token_hash, row.identity_id, row.client_id, frozenset(row.scopes.split()), row.expires_s)

    # ---- endpoints --------------------------------------------------------------------------------------------

    async def put_endpoint(self, endpoint: EndpointRecord) -> None:
        def work(connection: sa.Connection) -> None:
            changes.upsert(connection, ENDPOINTS, [rows.of_endpoint(endpoint)])
            changes.set_endpoints_version(connection)

        await self._write(work)

    async def endpoint(self, endpoint_id: uuid.UUID) -> EndpointRecord | None:
        query = sa.select(ENDPOINTS).where(ENDPOINTS.c.endpoint_id == endpoint_id)
        row = await self._read(lambda c: c.execute(query).one_or_none())
        return None if row is None else rows.to_endpoint(row)

    async def endpoints(self, endpoint_ids: Sequence[uuid.UUID] | None = None) -> list[EndpointRecord]:
        query = sa.select(ENDPOINTS).order_by(ENDPOINTS.c.name, ENDPOINTS.c.endpoint_id)

        def work(connection: sa.Connection) -> list[EndpointRecord]:
            return [rows.to_endpoint(row) for row in _some(connection, query, ENDPOINTS.c.endpoint_id, endpoint_ids)]

        return await self._read(work)

    async def endpoints_version(self) -> str:
        query = sa.select(SETTINGS.c.value).where(SETTINGS.c.name == changes.ENDPOINTS_VERSION)
        return await self._read(lambda c: c.execute(query).scalar_one_or_none()) or ""

    async def delete_endpoint(self, endpoint_id: uuid.UUID) -> bool:
        served = sa.select(USER_ENDPOINTS.c.endpoint_id).where(USER_ENDPOINTS.c.manager_id == endpoint_id)

        def work(connection: sa.Connection) -> bool:
            connection.execute(
                sa.delete(REPORTS).where(
                    REPORTS.c.endpoint_id.in_(served) | (REPORTS.c.endpoint_id == endpoint_id),
                )
            )
            connection.execute(sa.delete(USER_ENDPOINTS).where(USER_ENDPOINTS.c.manager_id == endpoint_id))
            known = connection.execute(sa.delete(ENDPOINTS).where(ENDPOINTS.c.endpoint_id == endpoint_id)).rowcount > 0
            changes.set_endpoints_version(connection)
            return known

        return await self._write(work)

    async def put_user_endpoint(self, user_endpoint: UserEndpointRecord) -> None:
        def work(connection: sa.Connection) -> None:
            changes.upsert(connection, USER_ENDPOINTS, [rows.of_user_endpoint(user_endpoint)])
            changes.set_endpoints_version(connection)

        await self._write(work)

    async def user_endpoints(
        self, manager_id: uuid.UUID | None = None, *, endpoint_ids: Sequence[uuid.UUID] | None = None
    ) -> list[UserEndpointRecord]:
        query = sa.select(USER_ENDPOINTS)
        if manager_id is not None:
            query = query.where(USER_ENDPOINTS.c.manager_id == manager_id)

        def work(connection: sa.Connection) -> list[UserEndpointRecord]:
            found = _some(connection, query, USER_ENDPOINTS.c.endpoint_id, endpoint_ids)
            return [rows.to_user_endpoint(row) for row in found]

        return await self._read(work)

    async def claim_start(self, endpoint_id: uuid.UUID, now_s: float, before_s: float) -> bool:
        table = USER_ENDPOINTS.c
        due = table.start_sent_s.is_(None) | (table.start_sent_s < before_s)
        update = sa.update(USER_ENDPOINTS).values(start_sent_s=now_s)
        tried = False

        def work(connection: sa.Connection) -> bool:
            nonlocal tried
            # By this call, the first time.
            noted = (table.start_sent_s == now_s) if tried else sa.false()
            tried = True
            return connection.execute(update.where(table.endpoint_id == endpoint_id, due | noted)).rowcount > 0

        return await self._write(work)

    async def forget_starts(self, endpoint_ids: Sequence[uuid.UUID] | None = None) -> None:
        table = USER_ENDPOINTS.c
        statement = sa.update(USER_ENDPOINTS).where(table.start_sent_s.is_not(None)).values(start_sent_s=None)

        def work(connection: sa.Connection) -> None:
            if endpoint_ids is None:
                connection.execute(statement)
            else:
                for chunk in chunks(endpoint_ids):
                    connection.execute(statement.where(table.endpoint_id.in_(chunk)))

        await self._write(work)

    async def put_reports(self, reports: Sequence[ReportRecord]) -> None:
        last = {report.endpoint_id: report for report in reports}
        values = [{**vars(report), "state": json.dumps(dict(report.state))} for report in last.values()]
        await self._write(lambda c: changes.upsert(c, REPORTS, values))

    async def reports(
        self, endpoint_ids: Sequence[uuid.UUID] | None = None, *, since_s: float | None = None
    ) -> list[ReportRecord]:
        query = sa.select(REPORTS)
        if since_s is not None:
            query = query.where(REPORTS.c.received_s >= since_s)

        def work(connection: sa.Connection) -> list[ReportRecord]:
            found = _some(connection, query, REPORTS.c.endpoint_id, endpoint_ids)
            return [ReportRecord(row.endpoint_id, row.received_s, json.loads(row.state)) for row in found]

        return await self._read(work)

    async def counts(self) -> dict[uuid.UUID, TaskCounts]:
        table = USER_ENDPOINTS.c
        query = sa.select(table.endpoint_id, table.submitted, table.done, table.failed)
        found = await self._read(lambda c: c.execute(query).all())
        return {row.endpoint_id: TaskCounts(row.submitted, row.done, row.failed) for row in found}

    # ---- functions --------------------------------------------------------------------------------------------

    async def add_function(self, function: FunctionRecord) -> None:
        await self._write(lambda c: c.execute(sa.insert(FUNCTIONS), vars(function)))

    async def functions(self, function_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, FunctionRecord]:
        def work(connection: sa.Connection) -> dict[uuid.UUID, FunctionRecord]:
            found = select_in(connection, sa.select(FUNCTIONS), FUNCTIONS.c.function_id, function_ids)
            return {row.function_id: FunctionRecord(**row._mapping) for row in found}

        return await self._read(work)

    async def live_functions(self, function_ids: Sequence[uuid.UUID]) -> set[uuid.UUID]:
        query = sa.select(FUNCTIONS.c.function_id).where(~FUNCTIONS.c.deleted)

        def work(connection: sa.Connection) -> set[uuid.UUID]:
            found = select_in(connection, query, FUNCTIONS.c.function_id, function_ids)
            return {row.function_id for row in found}

        return await self._read(work)

    async def delete_function(self, function_id: uuid.UUID) -> bool:
        there = (FUNCTIONS.c.function_id == function_id) & ~FUNCTIONS.c.deleted
        statement = sa.update(FUNCTIONS).where(there).values(deleted=True)
        return await self._write(lambda c: c.execute(statement).rowcount > 0)

    # ---- tasks ------------------------------------------------------------------------------------------------

    async def add_submission(self, submission: SubmissionRecord, tasks: Sequence[NewTask]) -> None:
        try:
            await self._write(lambda c: changes.add_submission(c, submission, tasks))
        except sa.exc.IntegrityError as exc:
            # It may be its own row that it met: the connection was lost while this was committed, and it came again.
            if tasks and await self.tasks([tasks[0].task_id], with_body=False):
                return
            if submission.key is None or await self.submission_reply(submission.owner_id, submission.key) is None:
                raise
            raise DuplicateSubmission(key=submission.key) from exc

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

        def work(connection: sa.Connection) -> list[Ended | None]:
            nonlocal tried
            again, tried = tried, True
            return changes.finish(connection, endings, again)

        return await self._write(work)

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

    # ---- what is old, and what processes share ------------------------------------------------------------------

    async def purge(self, before_s: float, now_s: float, *, limit: int = 500) -> Purged:
        return await self._write(lambda c: changes.purge(c, before_s, now_s, limit))

    async def setting(self, name: str, value: str) -> str:
        def work(connection: sa.Connection) -> str:
            statement = changes.insert(connection, SETTINGS).on_conflict_do_nothing()
            connection.execute(statement, {"name": name, "value": value})
            query = sa.select(SETTINGS.c.value).where(SETTINGS.c.name == name)
            return str(connection.execute(query).scalar_one())

        return await self._write(work)

    async def lease(self, name: str, holder: str, now_s: float, life_s: float) -> bool:
        return await self._write(lambda c: changes.lease(c, name, holder, now_s, life_s))

    async def release(self, name: str, holder: str) -> None:
        statement = sa.delete(LEASES).where(LEASES.c.name == name, LEASES.c.holder == holder)
        await self._write(lambda c: c.execute(statement))


def _some(
    connection: sa.Connection,
    query: sa.Select[Any],
    column: sa.ColumnElement[Any],
    values: Sequence[Any] | None,
) -> Iterable[sa.Row[Any]]:
    return connection.execute(query) if values is None else select_in(connection, query, column, values)


def _first_line(exc: sa.exc.DBAPIError) -> str:
    # The driver's words; SQLAlchemy's add the statement and its values.
    return (str(exc.orig).strip() or type(exc.orig).__name__).splitlines()[0]
