"""Statements that run for every task: put together once and, where the database is SQLite, given to its driver.

For a statement that takes the driver a microsecond, SQLAlchemy spends 17 in a loop, and several times that when a lone
task comes after a pause and nothing of it is in the processor's caches. Each task needs eight. On other databases,
which are asked over a network, they go the usual way, if not all in one as in `single`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa

_Convert = Callable[[Any], Any] | None


@dataclass(frozen=True)
class _Text:
    """A statement as the driver takes it.

    Attributes:
        text: With question marks.
        parameters: Their names in order, and what their values have to go through.
    """

    text: str
    parameters: Sequence[tuple[str, _Convert]]

    def values(self, given: Mapping[str, Any]) -> list[Any]:
        return [
            given[name] if convert is None or given[name] is None else convert(given[name])
            for name, convert in self.parameters
        ]


class Prepared:
    """One statement; its parameters have names.

    Args:
        statement: An insert, update or select.
        columns: Of an insert: those that are given.
    """

    def __init__(self, statement: Any, columns: Sequence[str] | None = None) -> None:
        self._statement = statement
        self._columns = list(columns) if columns is not None else None
        self._text: _Text | None = None
        self._row: Any = None
        self._results: Sequence[_Convert] = ()

    def change(self, connection: sa.Connection, values: Mapping[str, Any]) -> int:
        """Run an update; returns how many rows it met."""
        if connection.dialect.name != "sqlite":
            return connection.execute(self._statement, dict(values)).rowcount
        return self._run(connection, values).rowcount

    def change_all(self, connection: sa.Connection, values: Sequence[Mapping[str, Any]]) -> None:
        """Run an insert or update for each of `values`."""
        if connection.dialect.name != "sqlite":
            connection.execute(self._statement, [dict(one) for one in values])
        elif len(values) == 1:
            self._run(connection, values[0])
        else:
            text = self._prepare(connection.dialect)
            driver = _driver(connection)
            try:
                driver.executemany(text.text, map(text.values, values)).close()
            except sqlite3.Error as exc:
                raise _wrapped(text.text, exc) from exc

    def insert(self, connection: sa.Connection, values: Mapping[str, Any]) -> int:
        """Run an insert; returns the number that the database gave to the row."""
        if connection.dialect.name == "sqlite":
            number = self._run(connection, values).lastrowid
            assert number is not None  # there is one after each insert
            return number
        key = connection.execute(self._statement, dict(values)).inserted_primary_key
        assert key is not None  # every single-row insert has one
        return int(key[0])

    def rows(self, connection: sa.Connection, values: Mapping[str, Any]) -> list[Any]:
        """Run a select; returns its rows, with the columns as attributes."""
        if connection.dialect.name != "sqlite":
            return list(connection.execute(self._statement, dict(values)))
        cursor = self._run(connection, values)
        try:
            found = cursor.fetchall()
        except sqlite3.Error as exc:
            raise _wrapped(str(self._statement), exc) from exc
        return [
            self._row._make(
                value if convert is None or value is None else convert(value)
                for value, convert in zip(row, self._results, strict=True)
            )
            for row in found
        ]

    def _run(self, connection: sa.Connection, values: Mapping[str, Any]) -> sqlite3.Cursor:
        text = self._text or self._prepare(connection.dialect)
        try:
            return _driver(connection).execute(text.text, text.values(values))
        except sqlite3.Error as exc:
            raise _wrapped(text.text, exc) from exc

    def _prepare(self, dialect: sa.Dialect) -> _Text:
        if self._text is not None:
            return self._text
        compiled: Any = self._statement.compile(dialect=dialect, column_keys=self._columns)
        if isinstance(self._statement, sa.Select):
            columns = self._statement.selected_columns
            self._row = NamedTuple("_Row", [(column.key, Any) for column in columns])  # type: ignore[misc]
            self._results = [c.type.dialect_impl(dialect).result_processor(dialect, None) for c in columns]
        names = compiled.positiontup
        self._text = _Text(
            str(compiled),
            [(name, compiled.binds[name].type.dialect_impl(dialect).bind_processor(dialect)) for name in names],
        )
        return self._text


def run_text(connection: sa.Connection, text: str) -> None:
    """Run a statement without parameters, of SQLite only."""
    try:
        _driver(connection).execute(text).close()
    except sqlite3.Error as exc:
        raise _wrapped(text, exc) from exc


def _driver(connection: sa.Connection) -> sqlite3.Connection:
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)  # the dialect is SQLite's
    return driver


def _wrapped(text: str, exc: sqlite3.Error) -> Exception:
    """As SQLAlchemy would raise it."""
    return sa.exc.DBAPIError.instance(text, None, exc, sqlite3.Error)
