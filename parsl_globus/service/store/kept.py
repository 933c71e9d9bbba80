"""SQLite's connections, kept by their threads.

Taking a connection from a pool and giving it back costs more than a small transaction of SQLite's: 58 microseconds in a
loop instead of 10, and several times both when nothing of it is in the processor's caches.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa


class KeptConnections:
    """One connection for each thread that asks, open until `dispose`.

    Args:
        engine: Opens them.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._own = threading.local()
        self._lock = threading.Lock()
        self._all: list[sa.Connection] = []

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """A transaction: committed at the end, undone when something is raised in it."""
        connection = getattr(self._own, "connection", None) or self._connect()
        try:
            with connection.begin():
                yield connection
        except BaseException:
            # A pool would see to it: after a commit that failed, SQLAlchemy undoes nothing.
            driver: Any = connection.connection.driver_connection
            if driver.in_transaction:
                driver.rollback()
            raise

    def _connect(self) -> sa.Connection:
        connection = self._own.connection = self._engine.connect()
        with self._lock:
            self._all.append(connection)
        return connection

    def dispose(self) -> None:
        """Close them all; nobody may use them any more."""
        with self._lock:
            left, self._all = self._all, []
        for connection in left:
            connection.close()
        self._engine.dispose()
