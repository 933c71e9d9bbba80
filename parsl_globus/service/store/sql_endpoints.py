"""The queries about endpoints and functions, for the SQL stores."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa

from parsl_globus.service.store import changes, rows
from parsl_globus.service.store.base import EndpointRecord, FunctionRecord, ReportRecord, TaskCounts, UserEndpointRecord
from parsl_globus.service.store.changes import chunks, select_in
from parsl_globus.service.store.tables import ENDPOINTS, FUNCTIONS, REPORTS, SETTINGS, USER_ENDPOINTS

_T = TypeVar("_T")


class SqlEndpoints:
    """See `Store`; a part of `SqlStore`, whose transactions it uses."""

    if TYPE_CHECKING:

        async def _write(self, work: Callable[[sa.Connection], _T]) -> _T: ...

        async def _read(self, work: Callable[[sa.Connection], _T]) -> _T: ...

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


def _some(
    connection: sa.Connection,
    query: sa.Select[Any],
    column: sa.ColumnElement[Any],
    values: Sequence[Any] | None,
) -> Iterable[sa.Row[Any]]:
    return connection.execute(query) if values is None else select_in(connection, query, column, values)
