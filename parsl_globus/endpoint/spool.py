"""Accepted tasks and unconfirmed results, on disk: what a restarted agent needs to answer for every task it took."""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from parsl_globus.endpoint.spool_files import FOLDER, LONG_BYTES, SpoolFiles
from parsl_globus.errors import EndpointError

logger = logging.getLogger(__name__)

#: The file's name in the user endpoint's folder.
SPOOL_FILE = "spool.db"
#: A task that was answered is remembered this long, so that a late redelivery doesn't run it again.
TOMBSTONE_LIFE_S = 2 * 24 * 3600.0
#: And at most this many of them.
MAX_TOMBSTONES = 100_000
#: The write-ahead log is moved into the file when it has so many pages of this size, 32 MB.
_CHECKPOINT_PAGES, _PAGE_BYTES = 8192, 4096
#: Pages kept in memory, in units of 1024 bytes.
_CACHE_KB = 16384
#: How often the tombstones are looked through.
_PRUNE_EVERY = 10_000
#: In place of the size of a long message that an older agent left.
_UNKNOWN_BYTES = -1

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tasks (
    task_id TEXT PRIMARY KEY, body BLOB NOT NULL, headers TEXT NOT NULL, handed_over INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0, attempt INTEGER NOT NULL DEFAULT 0, file_bytes INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS results (task_id TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS answered (task_id TEXT PRIMARY KEY, at_s REAL NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class SpooledTask:
    """A task as it was delivered.

    Attributes:
        body: The packed task message, untouched.
        headers: The delivery's headers that matter for running it.
        failures: How often the system lost it so far after it had begun.
        attempt: How often it was given to the engine, this time included.
        file: Where the message is as well, if it is long.
    """

    task_id: uuid.UUID
    body: bytes = field(repr=False)
    headers: Mapping[str, Any]
    failures: int = 0
    attempt: int = 0
    file: Path | None = None


@dataclass(frozen=True)
class Recovered:
    """What an earlier agent left.

    Attributes:
        accepted: Tasks that were never given to the engine.
        handed_over: Tasks that were, and may have begun.
        results: Results that the broker hasn't confirmed.
        unreadable: Tasks whose long messages are not whole, as after a loss of power; they may have begun.
    """

    accepted: Sequence[SpooledTask]
    handed_over: Sequence[SpooledTask]
    results: Sequence[tuple[uuid.UUID, bytes]]
    unreadable: Sequence[SpooledTask] = ()


class Spool:
    """One SQLite file. Each method is one transaction; thread-safe.

    Long messages are in files beside it. It survives the end of the process at any moment (`kill -9` included). A power
    failure may take the last moments.

    Args:
        path: The file; made if missing.

    Raises:
        EndpointError: The file can't be opened, or is no spool.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files = SpoolFiles(path.parent / FOLDER)
        #: Tasks whose messages are in files.
        self._filed: set[uuid.UUID] = set()
        self._lock = threading.Lock()
        self._answered_since_pruning = 0
        try:
            path.touch(mode=0o600)
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            # In WAL mode NORMAL syncs at checkpoints only: a commit costs microseconds, and what it wrote is in the
            # kernel's hands, so it outlives this process.
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            # By default, Debian's SQLite overwrites with zeros what is deleted, which is all that ever comes here.
            self._db.execute("PRAGMA secure_delete=FAST")
            # Tasks wait for a checkpoint and its sync: not after each third task with a large argument.
            self._db.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
            self._db.execute(f"PRAGMA journal_size_limit={_CHECKPOINT_PAGES * _PAGE_BYTES}")
            self._db.execute(f"PRAGMA cache_size=-{_CACHE_KB}")
            self._db.executescript(_SCHEMA)
            self._add_new_columns()
        except (OSError, sqlite3.Error) as exc:
            raise EndpointError(f"The spool {path} can't be used: {exc}. Move it away to start without it.") from exc

    def _add_new_columns(self) -> None:
        """What a spool of an older agent lacks."""
        columns = {name for _, name, *_ in self._db.execute("PRAGMA table_info(tasks)")}
        if "file_bytes" not in columns:
            self._db.execute("ALTER TABLE tasks ADD COLUMN file_bytes INTEGER")
        # At each start, as an older agent may have been at it in between.
        self._db.execute("UPDATE tasks SET file_bytes=? WHERE body=x'' AND file_bytes IS NULL", (_UNKNOWN_BYTES,))

    def accept(self, tasks: Iterable[SpooledTask], *, handed_over: bool = False) -> list[SpooledTask]:
        """Note these tasks, in one commit.

        Args:
            tasks: As they were delivered.
            handed_over: Whether the engine gets the new ones right after this; saves a commit for `handed_over`.

        Returns:
            Those that are new; the others were delivered before.
        """
        fresh: list[SpooledTask] = []
        with self._transaction() as db:
            for task in tasks:
                key = task.task_id.hex
                known = db.execute(
                    "SELECT 1 FROM results WHERE task_id=?1 UNION ALL SELECT 1 FROM answered WHERE task_id=?1", (key,)
                ).fetchone()
                if known:
                    continue
                long = len(task.body) > LONG_BYTES
                added = db.execute(
                    "INSERT OR IGNORE INTO tasks (task_id, body, headers, handed_over, attempt, file_bytes)"
                    " VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        key,
                        b"" if long else task.body,
                        json.dumps(dict(task.headers)),
                        handed_over,
                        task.attempt,
                        len(task.body) if long else None,
                    ),
                )
                if added.rowcount:
                    fresh.append(self._filed_away(task) if long else task)
        return fresh

    def _filed_away(self, task: SpooledTask) -> SpooledTask:
        self._filed.add(task.task_id)
        return replace(task, file=self._files.write(task.task_id, task.body))

    def known(self, task_ids: Iterable[uuid.UUID]) -> set[uuid.UUID]:
        """Those that were accepted before, whether they have ended or not."""
        with self._transaction() as db:
            return {
                task_id
                for task_id in task_ids
                if db.execute(
                    "SELECT 1 FROM tasks WHERE task_id=?1 UNION ALL SELECT 1 FROM results WHERE task_id=?1"
                    " UNION ALL SELECT 1 FROM answered WHERE task_id=?1",
                    (task_id.hex,),
                ).fetchone()
            }

    def handed_over(self, task_ids: Iterable[uuid.UUID]) -> None:
        """Note that the engine gets these; from now on they may have begun."""
        with self._transaction() as db:
            rows = [(i.hex,) for i in task_ids]
            db.executemany("UPDATE tasks SET handed_over=1, attempt=attempt+1 WHERE task_id=?", rows)

    def taken_back(self, task_id: uuid.UUID) -> None:
        """Note that the engine had this task, but that it has not begun and will not."""
        with self._transaction() as db:
            db.execute("UPDATE tasks SET handed_over=0 WHERE task_id=?", (task_id.hex,))

    def failed(self, task_id: uuid.UUID) -> None:
        """Note that the system lost this task once more, and that it will run again."""
        with self._transaction() as db:
            db.execute("UPDATE tasks SET failures=failures+1, handed_over=0 WHERE task_id=?", (task_id.hex,))

    def finish(self, results: Iterable[tuple[uuid.UUID, bytes]]) -> None:
        """Note results; their tasks are done with."""
        rows = [(task_id.hex, body) for task_id, body in results]
        with self._transaction() as db:
            db.executemany("INSERT OR REPLACE INTO results (task_id, body) VALUES (?, ?)", rows)
            db.executemany("DELETE FROM tasks WHERE task_id=?", [(key,) for key, _ in rows])
        if self._filed:  # after the commit: until then these tasks may have to run again
            self._remove_files([uuid.UUID(key) for key, _ in rows])

    def _remove_files(self, task_ids: Iterable[uuid.UUID]) -> None:
        with self._lock:
            gone = self._filed.intersection(task_ids)
            self._filed -= gone
        try:
            self._files.remove(gone)
        except OSError as exc:
            logger.warning("Files of tasks that have ended stay until the next start: %s", exc)

    def confirmed(self, task_ids: Iterable[uuid.UUID]) -> None:
        """Forget these results, as the broker has them; the ids are remembered for a while."""
        keys = [(task_id.hex,) for task_id in task_ids]
        now_s = time.time()
        with self._transaction() as db:
            db.executemany("DELETE FROM results WHERE task_id=?", keys)
            db.executemany("INSERT OR REPLACE INTO answered VALUES (?, ?)", [(key, now_s) for (key,) in keys])
            self._answered_since_pruning += len(keys)
            if self._answered_since_pruning >= _PRUNE_EVERY:
                self._answered_since_pruning = 0
                self._prune(db, now_s)

    def answered(self, task_ids: Iterable[uuid.UUID], before_s: float) -> list[uuid.UUID]:
        """Those whose results were forgotten before `before_s`, seconds since the epoch, as the broker had them."""
        with self._transaction() as db:
            return [
                task_id
                for task_id in task_ids
                if db.execute(
                    "SELECT 1 FROM answered WHERE task_id=?1 AND at_s < ?2"
                    " AND NOT EXISTS (SELECT 1 FROM results WHERE task_id=?1)",
                    (task_id.hex, before_s),
                ).fetchone()
            ]

    def discard_tasks(self) -> int:
        """Forget all tasks, as the service has answered for them; returns how many. None of them may run any more."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO answered SELECT task_id, ? FROM tasks", (time.time(),))
            count = db.execute("DELETE FROM tasks").rowcount
        with self._transaction():
            self._files.keep_only(())
        return count

    def recover(self) -> Recovered:
        """What an earlier agent left here."""
        with self._transaction() as db:
            rows = db.execute(
                "SELECT task_id, body, headers, failures, attempt, handed_over, file_bytes FROM tasks"
            ).fetchall()
            results = db.execute("SELECT task_id, body FROM results").fetchall()
            self._prune(db, time.time())
            self._filed = {uuid.UUID(key) for key, *_, file_bytes in rows if file_bytes is not None}
            self._files.keep_only(self._filed)
            tasks: dict[bool, list[SpooledTask]] = {False: [], True: []}
            unreadable = []
            for key, body, headers, failures, attempt, handed_over, file_bytes in rows:
                task = SpooledTask(uuid.UUID(key), body, json.loads(headers), failures, attempt)
                whole = task if file_bytes is None else self._from_file(task, file_bytes)
                if whole is None:
                    unreadable.append(task)
                else:
                    tasks[bool(handed_over)].append(whole)
        return Recovered(
            accepted=tasks[False],
            handed_over=tasks[True],
            results=[(uuid.UUID(key), body) for key, body in results],
            unreadable=unreadable,
        )

    def _from_file(self, task: SpooledTask, size_bytes: int) -> SpooledTask | None:
        """The task with its message, unless that was lost with the power: files are not synced."""
        try:
            body = self._files.read(task.task_id)
        except FileNotFoundError:
            return None
        if size_bytes not in (len(body), _UNKNOWN_BYTES):
            return None
        return replace(task, body=body, file=self._files.path(task.task_id))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                except BaseException:
                    self._db.execute("ROLLBACK")
                    raise
                self._db.execute("COMMIT")
            except (sqlite3.Error, OSError) as exc:
                raise EndpointError(f"The spool {self._path} can't be used: {exc}.") from exc

    @staticmethod
    def _prune(db: sqlite3.Connection, now_s: float) -> None:
        db.execute("DELETE FROM answered WHERE at_s < ?", (now_s - TOMBSTONE_LIFE_S,))
        db.execute(
            "DELETE FROM answered WHERE at_s < (SELECT at_s FROM answered ORDER BY at_s DESC LIMIT 1 OFFSET ?)",
            (MAX_TOMBSTONES,),
        )


def outstanding(directory: Path) -> tuple[int, int]:
    """How many tasks of the user endpoint in `directory` have not ended, and how many results are not confirmed.

    Raises:
        EndpointError: Its spool can't be read.
    """
    path = directory / SPOOL_FILE
    if not path.exists():
        return 0, 0
    try:
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            (tasks,) = db.execute("SELECT count(*) FROM tasks").fetchone()
            (results,) = db.execute("SELECT count(*) FROM results").fetchone()
        finally:
            db.close()
    except sqlite3.Error as exc:
        raise EndpointError(f"The spool {path} can't be read: {exc}.") from exc
    return tasks, results


def discard_tasks(directory: Path) -> None:
    """Forget the tasks of the user endpoint in `directory`, whose failure the service is being told."""
    path = directory / SPOOL_FILE
    if not path.exists():
        return
    try:
        spool = Spool(path)
        try:
            count = spool.discard_tasks()
        finally:
            spool.close()
    except EndpointError as exc:
        logger.error("Tasks that have failed may run at the next start: %s", exc)
        return
    if count:
        logger.info("%d tasks fail with the endpoint", count)
