"""The file of a journal: which calls were submitted, as which tasks, and the results that came."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import stat
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from parsl_globus.errors import JournalError, JournalInUse

#: Nothing is known of a task after this time, by Globus's documentation, so it need not be remembered without a result.
TASK_LIFE_S = 14 * 86_400.0
#: How long another process may take to let go of the file, in seconds.
_LOCK_TIMEOUT_S = 1.0
#: "pgjl", so that no other database is taken for a journal.
_APPLICATION_ID = 0x70676A6C
_VERSION = 1
#: What a row takes besides its result.
ROW_BYTES = 200

_SCHEMA = f"""
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_VERSION};
CREATE TABLE IF NOT EXISTS batches (batch INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT, specification TEXT,
    configuration TEXT, payloads TEXT);
CREATE TABLE IF NOT EXISTS tasks (key BLOB PRIMARY KEY, endpoint TEXT NOT NULL, batch INTEGER, position INTEGER,
    task_id TEXT, task_group TEXT, result TEXT, at_s REAL NOT NULL);
"""


@dataclass(frozen=True)
class Row:
    """A call that was submitted.

    Attributes:
        key: Of the call.
        batch: The submission it was part of.
        position: Its place in there.
        task_id: Its task, when the service has answered.
        group_id: The task group in which its result comes.
        answered: Whether its result is in the file.
    """

    key: bytes
    batch: int
    position: int
    task_id: uuid.UUID | None
    group_id: uuid.UUID | None
    answered: bool


@dataclass(frozen=True)
class Batch:
    """A submission that was not answered yet.

    Attributes:
        key: Its idempotency key; without one it can't be repeated, and what follows is empty.
        group: What its tasks need.
        payloads: Its tasks.
    """

    key: uuid.UUID | None
    group: tuple[str, str]
    payloads: list[str]


class JournalFile:
    """One SQLite file that only this process uses. Each method is one synced transaction; thread-safe.

    Args:
        path: Made if missing, for its owner only.

    Raises:
        JournalInUse: Another process, or another executor of this one, has it open.
        JournalError: It can't be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            _own(path)
            self._db = sqlite3.connect(path, timeout=_LOCK_TIMEOUT_S, check_same_thread=False, isolation_level=None)
        except (OSError, sqlite3.Error) as exc:
            raise JournalError(path=str(path), detail=str(exc)) from exc
        try:
            self._open()
        except BaseException:
            self._db.close()
            raise

    def _open(self) -> None:
        try:
            # In this mode the first access locks the file for as long as it is open, and needs no memory shared with
            # others, which network file systems don't have.
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            (application,) = self._db.execute("PRAGMA application_id").fetchone()
            (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if (application, version) != (_APPLICATION_ID, _VERSION) and tables:
                detail = "it is the database of another program, or of another version of this one"
                raise JournalError(path=str(self.path), detail=detail)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
            with self._transaction() as db:
                long_ago_s = time.time() - TASK_LIFE_S
                db.execute("DELETE FROM tasks WHERE result IS NULL AND at_s < ?", (long_ago_s,))
                db.execute("DELETE FROM batches WHERE batch NOT IN (SELECT batch FROM tasks WHERE task_id IS NULL)")
        except sqlite3.OperationalError as exc:
            if "locked" in str(exc):
                raise JournalInUse(path=str(self.path)) from exc
            raise JournalError(path=str(self.path), detail=str(exc)) from exc
        except sqlite3.Error as exc:
            raise JournalError(path=str(self.path), detail=str(exc)) from exc

    def rows(self, endpoint_id: uuid.UUID) -> list[Row]:
        """What is known of calls on this endpoint, oldest first."""
        query = (
            "SELECT key, batch, position, task_id, task_group, result IS NOT NULL FROM tasks WHERE endpoint = ?"
            " ORDER BY rowid"
        )
        with self._transaction() as db:
            return [
                Row(key, batch, position, task_id and uuid.UUID(task_id), group and uuid.UUID(group), bool(answered))
                for key, batch, position, task_id, group, answered in db.execute(query, (str(endpoint_id),))
            ]

    def size_bytes(self) -> int:
        """About how much all rows take."""
        with self._transaction() as db:
            (size,) = db.execute(f"SELECT sum({ROW_BYTES} + ifnull(length(result), 0)) FROM tasks").fetchone()
        return int(size or 0)

    def sending(self, endpoint_id: uuid.UUID, batch: Batch, calls: Iterable[tuple[bytes, int]]) -> int:
        """A submission is about to leave.

        Args:
            endpoint_id: Where to.
            batch: The submission.
            calls: Those of its calls that have keys, with their places.

        Returns:
            Its number.
        """
        payloads = json.dumps(batch.payloads) if batch.key else None
        now_s = time.time()
        with self._transaction() as db:
            number = db.execute(
                "INSERT INTO batches (key, specification, configuration, payloads) VALUES (?, ?, ?, ?)",
                (batch.key and str(batch.key), *batch.group, payloads),
            ).lastrowid
            assert number is not None
            db.executemany(
                "INSERT OR REPLACE INTO tasks (key, endpoint, batch, position, at_s) VALUES (?, ?, ?, ?, ?)",
                [(key, str(endpoint_id), number, position, now_s) for key, position in calls],
            )
        return number

    def batch(self, number: int) -> Batch | None:
        """A submission that was not answered; `None` when there is no such."""
        query = "SELECT key, specification, configuration, payloads FROM batches WHERE batch = ?"
        with self._transaction() as db:
            row = db.execute(query, (number,)).fetchone()
        if row is None:
            return None
        key, specification, configuration, payloads = row
        return Batch(key and uuid.UUID(key), (specification, configuration), json.loads(payloads or "[]"))

    def submitted(self, group_id: uuid.UUID, tasks: Sequence[tuple[bytes, uuid.UUID]], batches: Iterable[int]) -> None:
        """The service has answered: these calls are these tasks, and nothing of these submissions is open any more."""
        with self._transaction() as db:
            rows = [(str(task_id), str(group_id), key) for key, task_id in tasks]
            db.executemany("UPDATE tasks SET task_id = ?, task_group = ? WHERE key = ?", rows)
            db.executemany("DELETE FROM batches WHERE batch = ?", [(number,) for number in batches])

    def keep(self, results: Iterable[tuple[bytes, str]]) -> None:
        """Results have come."""
        with self._transaction() as db:
            db.executemany("UPDATE tasks SET result = ? WHERE key = ?", [(text, key) for key, text in results])

    def result(self, key: bytes) -> str | None:
        """The result that was kept of this call."""
        with self._transaction() as db:
            row = db.execute("SELECT result FROM tasks WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row and row[0] is not None else None

    def forget(self, keys: Iterable[bytes]) -> None:
        """These calls are as if they had never been submitted."""
        with self._transaction() as db:
            db.executemany("DELETE FROM tasks WHERE key = ?", [(key,) for key in keys])

    def oldest_results(self, size_bytes: int) -> list[bytes]:
        """The oldest calls with results that take so much together; all of them if they take less."""
        keys: list[bytes] = []
        query = "SELECT key, length(result) FROM tasks WHERE result IS NOT NULL ORDER BY rowid"
        with self._transaction() as db:
            for key, length in db.execute(query):
                if size_bytes <= 0:
                    break
                keys.append(key)
                size_bytes -= ROW_BYTES + length
        return keys

    def close(self) -> None:
        """Let go of the file; calling it twice is harmless."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._db.execute("BEGIN")
                try:
                    yield self._db
                    self._db.execute("COMMIT")
                except BaseException:
                    with contextlib.suppress(sqlite3.Error):
                        self._db.execute("ROLLBACK")
                    raise
            except sqlite3.Error as exc:
                raise JournalError(path=str(self.path), detail=str(exc)) from exc


def _own(path: Path) -> None:
    """Make sure that nobody else can write what will be unpickled from there, nor read it.

    Never opens a file that exists: closing it again would end the lock that another executor of this process has on it.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise OSError("it is not a file") from None
        if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise OSError("others can write to it, and what is in there would be unpickled") from None
        if stat.S_IMODE(found.st_mode) != 0o600:
            path.chmod(0o600)
