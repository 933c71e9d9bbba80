"""The SQL stores: the threads that run their queries, which are written once, in files by their subject."""

from __future__ import annotations

import asyncio
import enum
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

import sqlalchemy as sa

from parsl_globus import jitter
from parsl_globus.service.store import changes
from parsl_globus.service.store.base import ClientRecord, IdentityRecord, Purged, StoreUnavailable, TokenRecord
from parsl_globus.service.store.changes import select_in
from parsl_globus.service.store.sql_blobs import SqlBlobs
from parsl_globus.service.store.sql_endpoints import SqlEndpoints
from parsl_globus.service.store.sql_people import SqlPeople
from parsl_globus.service.store.sql_tasks import SqlTasks
from parsl_globus.service.store.sql_views import SqlViews
from parsl_globus.service.store.statements import KeptStatements, LoneStatements, Single, Statements
from parsl_globus.service.store.tables import CLIENTS, IDENTITIES, LEASES, SETTINGS, TOKENS

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_Connection = TypeVar("_Connection", sa.Connection, Statements)

#: How long a call waits for a database that is away, before it fails.
_PATIENCE_S = 5.0
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 0.5
#: So many changes at once, then two by a thread: the first moves SQLite's write-ahead log into the file when that is
#: long, and the second begins the log anew, which is when SQLite waits for the disk.
_AT_ONCE = 500


class Trouble(enum.Enum):
    """Why a statement failed, when it was not the statement's fault."""

    #: The transaction met another one, and was undone; again at once.
    COLLISION = "collision"
    #: The database can't be reached, or is not ready.
    AWAY = "away"


class Transactions(Protocol):
    """Where they come from; an `sa.Engine` is one. Thread-safe."""

    def begin(self) -> AbstractContextManager[sa.Connection]:
        """A transaction: committed at the end, undone when something is raised in it."""


class Database(Protocol):
    """A connected database: what differs between SQLite and PostgreSQL.

    Attributes:
        write_threads: How many writers make sense.
        read_threads: How many readers make sense.
        shared: See `Store`.
    """

    write_threads: int
    read_threads: int
    shared: bool

    @property
    def reader(self) -> Transactions:
        """For statements that only read."""

    @property
    def writer(self) -> Transactions:
        """For all others; each call is one transaction."""

    @property
    def single(self) -> KeptStatements | None:
        """For changes that are one statement, committed when it is done; `None` where a transaction costs no more."""

    @property
    def lone(self) -> LoneStatements | None:
        """For such changes that are small, while no other of them is under way."""

    @property
    def at_once(self) -> Transactions | None:
        """For changes that take less time than giving them to a thread; `None` where they wait for a server or a disk.

        Fails where it would have to wait for another writer.
        """

    def open(self) -> None:
        """Connect, and see to the schema. Raises `ConfigError`."""

    def close(self) -> None:
        """Disconnect."""

    def trouble(self, exc: sa.exc.DBAPIError) -> Trouble | None:
        """What kind of trouble this is; `None`: an error that would come again."""


class SqlStore(SqlEndpoints, SqlTasks, SqlPeople, SqlViews, SqlBlobs):
    """See `Store`. Each call is one transaction, in a thread, so that the event loop never waits for a disk.

    A small change that is one statement to a server is awaited in the event loop, while no other of them is. And small
    changes of a database in this process are made there: they end in the memory of the system and take a part of a
    millisecond, and where they would have to wait for another writer or for the disk they go by a thread, too. A thread
    costs a lone task as much again, twice.

    Attributes:
        on_commit: Told how long each call took that changes something, in seconds.
    """

    on_commit: Callable[[float], None] | None = None

    def __init__(self, database: Database) -> None:
        self._database = database
        self._writers = ThreadPoolExecutor(database.write_threads, thread_name_prefix="store-write")
        self._readers = ThreadPoolExecutor(database.read_threads, thread_name_prefix="store-read")
        self._viewers = ThreadPoolExecutor(1, thread_name_prefix="store-view")
        #: Changes that are with the threads, and small ones since the last large one.
        self._changing = 0
        self._small = 0
        self._closing = False
        #: Tasks with large arguments, whose ends are large changes, too.
        self._large: set[uuid.UUID] = set()

    @property
    def shared(self) -> bool:
        return self._database.shared

    async def open(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._writers, self._database.open)

    async def close(self) -> None:
        self._closing = True
        if self._database.lone is not None:
            await self._database.lone.close()
        # Waits for what was begun; the threads are idle or about to be, so this is short.
        await asyncio.get_running_loop().run_in_executor(None, self._close)

    def _close(self) -> None:
        self._writers.shutdown(wait=True)
        self._readers.shutdown(wait=True)
        self._viewers.shutdown(wait=True, cancel_futures=True)
        self._database.close()

    async def _write(
        self,
        work: Callable[[sa.Connection], _T],
        *,
        small: bool = False,
        single: Callable[[], Single[_T]] | None = None,
    ) -> _T:
        """Run `work` in a transaction.

        Args:
            work: What it is.
            small: It takes no longer than a thread's waking up.
            single: Makes the same in one statement, where the database has use for that.
        """
        began_s = time.perf_counter()
        self._small = self._small + 1 if small and self._small <= _AT_ONCE else 0
        done = self._write_at_once(work) if self._small > 1 else None
        outcome = done[0] if done is not None else await self._write_patiently(work, small, single)
        if self.on_commit is not None:
            self.on_commit(time.perf_counter() - began_s)
        return outcome

    def _write_at_once(self, work: Callable[[sa.Connection], _T]) -> tuple[_T] | None:
        """What `work` returned; `None` if it has to wait."""
        transactions = self._database.at_once
        if transactions is None or self._changing or self._closing:
            return None
        try:
            with transactions.begin() as connection:
                return (work(connection),)
        except sa.exc.OperationalError:
            # Another process writes, or the disk has failed. A thread may wait for the first, and tells of the second.
            return None

    async def _write_patiently(
        self, work: Callable[[sa.Connection], _T], small: bool, single: Callable[[], Single[_T]] | None
    ) -> _T:
        self._changing += 1
        try:
            if single is not None:
                outcome = await self._write_in_one(small, single)
                if outcome is not None:
                    return outcome
            return await self._run(self._writers, self._database.writer.begin, work)
        finally:
            self._changing -= 1

    async def _write_in_one(self, small: bool, single: Callable[[], Single[_T]]) -> _T | None:
        kept, lone = self._database.single, self._database.lone
        began_s = asyncio.get_running_loop().time()
        if small and lone is not None and lone.free:
            try:
                return await lone.run(single())
            except sa.exc.DBAPIError as exc:
                if self._database.trouble(exc) is None:
                    raise
                logger.debug("A statement is tried again by a thread: %s", _first_line(exc))
        if kept is None:
            return None
        return await self._run(self._writers, kept.begin, lambda one: one.run(single()), began_s)

    async def _read(self, work: Callable[[sa.Connection], _T]) -> _T:
        return await self._run(self._readers, self._database.reader.begin, work)

    async def _run(
        self,
        threads: ThreadPoolExecutor,
        begin: Callable[[], AbstractContextManager[_Connection]],
        work: Callable[[_Connection], _T],
        began_s: float | None = None,
    ) -> _T:
        """Run `work` in what `begin` begins; again, when it failed through no fault of its own.

        It may have been committed even so, and only the answer be lost: what `work` returns must not depend on that.
        """

        def run() -> _T:
            with begin() as connection:
                return work(connection)

        loop = asyncio.get_running_loop()
        began_s, pause_s = loop.time() if began_s is None else began_s, _FIRST_PAUSE_S
        while True:
            try:
                return await loop.run_in_executor(threads, run)
            except sa.exc.DBAPIError as exc:
                trouble = self._database.trouble(exc)
                if trouble is None:
                    raise
                if loop.time() - began_s > _PATIENCE_S:
                    raise StoreUnavailable(detail=_first_line(exc)) from exc
            await asyncio.sleep(pause_s if trouble is Trouble.AWAY else jitter.up_to(_FIRST_PAUSE_S))
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


def _first_line(exc: sa.exc.DBAPIError) -> str:
    # The driver's words; SQLAlchemy's add the statement and its values.
    return (str(exc.orig).strip() or type(exc.orig).__name__).splitlines()[0]
