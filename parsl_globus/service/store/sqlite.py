"""SQLite: one file, for a laptop and for tests."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from parsl_globus.errors import ConfigError
from parsl_globus.service.store.kept import KeptConnections
from parsl_globus.service.store.prepared import run_text
from parsl_globus.service.store.schema import HEAD, current, migrate
from parsl_globus.service.store.sql import SqlStore, Trouble

#: How long a writer waits for another process (a backup, say), in milliseconds.
_BUSY_TIMEOUT_MS = 10_000
#: The write-ahead log is moved into the file when it has so many pages of this size, 32 MB.
_CHECKPOINT_PAGES, _PAGE_BYTES = 8192, 4096


class SqliteDatabase:
    """A database file. See `Database`.

    Args:
        path: The file; made when missing, readable by its owner only.
        full_sync: Wait for the disk at each commit. Without it a commit survives the death of the process at any
            moment (the operating system has it), but the last moments may be lost with the power.
    """

    single = None
    lone = None
    write_threads = 1
    read_threads = 1
    shared = False

    def __init__(self, path: Path, *, full_sync: bool = False) -> None:
        self._path = path
        self._full_sync = full_sync
        self.writer = self._engine("BEGIN IMMEDIATE")
        self.reader = self._engine("BEGIN")
        self.at_once = None if full_sync else self._engine("BEGIN IMMEDIATE", waits=False)

    def _engine(self, begin: str, *, waits: bool = True) -> KeptConnections:
        """Connections; with `waits` they wait for other writers, and move a long write-ahead log into the file."""
        engine = sa.create_engine(f"sqlite:///{self._path}", connect_args={"check_same_thread": False})

        @sa.event.listens_for(engine, "connect")
        def connected(connection: sqlite3.Connection, record: Any) -> None:  # noqa: ARG001 - the hook's signature
            # The driver's own transactions start late, at the first change; ours start with "begin" below.
            connection.isolation_level = None
            for pragma in (
                f"busy_timeout = {_BUSY_TIMEOUT_MS if waits else 0}",
                "journal_mode = WAL",
                f"synchronous = {'FULL' if self._full_sync else 'NORMAL'}",
                "cache_size = -65536",
                # Debian's SQLite overwrites what is deleted, by default wherever it takes writes of its own: removing
                # costs ten times as much then, and tasks wait for it. Nothing here promises that.
                "secure_delete = FAST",
                # Writers wait for a checkpoint and its sync: not after each third task with a large argument.
                f"wal_autocheckpoint = {_CHECKPOINT_PAGES if waits else 0}",
                f"journal_size_limit = {_CHECKPOINT_PAGES * _PAGE_BYTES}",
            ):
                connection.execute(f"PRAGMA {pragma}").close()

        @sa.event.listens_for(engine, "begin")
        def begun(connection: sa.Connection) -> None:
            run_text(connection, begin)

        return KeptConnections(engine)

    def open(self) -> None:
        self.migrate()

    def migrate(self) -> tuple[str | None, str]:
        """Make the file, or bring it up to date; returns the schema's versions before and after."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path.touch(mode=0o600, exist_ok=True)
            with self.writer.begin() as connection:
                before = current(connection)
                migrate(connection)
                return before, HEAD
        except (OSError, sa.exc.DBAPIError) as exc:
            detail = exc.orig if isinstance(exc, sa.exc.DBAPIError) else exc
            raise ConfigError(
                f"The service's database can't be used ({detail}). Choose another folder with --data, or mend it.",
                file=str(self._path),
            ) from exc

    def trouble(self, exc: sa.exc.DBAPIError) -> Trouble | None:  # noqa: ARG002 - see `Database`
        # A file is there or it is not, and a writer that meets another one waits in SQLite itself.
        return None

    def close(self) -> None:
        if self.at_once is not None:
            self.at_once.dispose()
        self.reader.dispose()
        self.writer.dispose()


def sqlite_store(path: Path, *, full_sync: bool = False) -> SqlStore:
    """A store in a SQLite file; see `SqliteDatabase`."""
    return SqlStore(SqliteDatabase(path, full_sync=full_sync))
