"""PostgreSQL's connections for single statements, kept and asked without SQLAlchemy.

For a lone task that comes after a pause, taking a connection from a pool, wrapping the statement and its rows, and
giving the connection back took two thirds as much processor time as all else, and 0.6 of 2.4 ms.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import sqlalchemy as sa

if TYPE_CHECKING:
    import psycopg

_T = TypeVar("_T")

#: How long a statement that is under way is waited for at the end.
_CLOSE_S = 2.0


@dataclass(frozen=True)
class Single(Generic[_T]):
    """A change that is one statement.

    Attributes:
        text: In psycopg's manner, with `%(name)s`.
        values: What stands for the names.
        outcome: Makes of the rows what comes of it; `None`: nothing was changed, for it can't be done in one.
    """

    text: str
    values: Mapping[str, Any]
    outcome: Callable[[list[tuple[Any, ...]]], _T | None]


class Statements:
    """A connection that commits each statement.

    Args:
        connection: Nobody else's.
    """

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection
        self._driver = cast("psycopg.Connection[Any]", connection.connection.driver_connection)

    @property
    def broken(self) -> bool:
        """Whether nothing can be asked any more."""
        return bool(self._driver.closed)

    def run(self, single: Single[_T]) -> _T | None:
        """Run a statement; returns its outcome. Raises `DBAPIError`, as SQLAlchemy would."""
        import psycopg

        try:
            rows = self._driver.execute(cast(Any, single.text), single.values).fetchall()
        except psycopg.Error as exc:
            raise _wrapped(single.text, exc, broken=self.broken) from exc
        return single.outcome(rows)


class KeptStatements:
    """One connection for each thread that asks, made anew when it broke; open until `dispose`.

    Args:
        engine: Opens them; in the mode in which each statement is committed.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._own = threading.local()
        self._lock = threading.Lock()
        self._all: set[Statements] = set()

    @contextmanager
    def begin(self) -> Iterator[Statements]:
        """This thread's connection."""
        statements: Statements = getattr(self._own, "statements", None) or self._connect()
        try:
            yield statements
        finally:
            if statements.broken:
                self._own.statements = None
                with self._lock:
                    self._all.discard(statements)
                statements.connection.invalidate()
                statements.connection.close()

    def _connect(self) -> Statements:
        statements = self._own.statements = Statements(self._engine.connect())
        with self._lock:
            self._all.add(statements)
        return statements

    def dispose(self) -> None:
        """Close them all; nobody may use them any more."""
        with self._lock:
            left, self._all = self._all, set()
        for statements in left:
            statements.connection.close()
        self._engine.dispose()


class LoneStatements:
    """A connection of the event loop, for one statement at a time: two changes of threads cost a lone task 0.3 ms more.

    Args:
        connect: Makes it, in the mode in which each statement is committed.
    """

    def __init__(self, connect: Callable[[], Awaitable[psycopg.AsyncConnection[Any]]]) -> None:
        self._lock = asyncio.Lock()
        self._closed = False
        self._connect = connect
        self._driver: psycopg.AsyncConnection[Any] | None = None

    @property
    def free(self) -> bool:
        """Whether it may be asked now."""
        return not (self._closed or self._lock.locked())

    async def run(self, single: Single[_T]) -> _T | None:
        """See `Statements.run`; only while it is free."""
        async with self._lock:
            rows = await self._run(single)
        return single.outcome(rows)

    async def _run(self, single: Single[Any]) -> list[tuple[Any, ...]]:
        import psycopg

        try:
            if self._driver is None or self._driver.closed:
                self._driver = await self._connect()
            cursor = await self._driver.execute(cast(Any, single.text), single.values)
            return await cursor.fetchall()
        except psycopg.Error as exc:
            broken = self._driver is None or self._driver.closed
            raise _wrapped(single.text, exc, broken=bool(broken)) from exc

    async def close(self) -> None:
        """Close it, after the statement that is under way if that ends soon. Calling it twice is harmless."""
        if self._closed:
            return
        self._closed = True
        ended = asyncio.ensure_future(self._lock.acquire())
        await asyncio.wait([ended], timeout=_CLOSE_S)
        ended.cancel()
        driver, self._driver = self._driver, None
        if driver is not None:
            await driver.close()


def _wrapped(text: str, exc: psycopg.Error, *, broken: bool) -> Exception:
    """As SQLAlchemy would raise it; without the values."""
    import psycopg

    return sa.exc.DBAPIError.instance(text, None, exc, psycopg.Error, connection_invalidated=broken)
