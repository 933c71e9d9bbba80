"""PostgreSQL's connections for single statements, kept by their threads and asked without SQLAlchemy.

For a lone task that comes after a pause, taking a connection from a pool, wrapping the statement and its rows, and
giving the connection back took two thirds as much processor time as all else, and 0.6 of 2.4 ms.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import sqlalchemy as sa

if TYPE_CHECKING:
    import psycopg


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

    def run(self, text: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Run a statement; returns its rows.

        Args:
            text: In psycopg's manner, with `%(name)s`.
            values: What stands for the names.

        Raises:
            DBAPIError: As SQLAlchemy would raise it.
        """
        import psycopg

        try:
            return self._driver.execute(cast(Any, text), values).fetchall()
        except psycopg.Error as exc:
            raise sa.exc.DBAPIError.instance(
                text, None, exc, psycopg.Error, connection_invalidated=self.broken
            ) from exc


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
