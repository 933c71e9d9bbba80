"""Marks: a name in a folder per hand-over of a task, by which it is certain whether it has begun or ever will.

Whoever comes first makes it: the worker that begins, or the agent that takes the task back. That holds for workers of
an agent that was killed, too. All marks of a worker are names of one file (see `worker/claim.py`); a mark's own name in
a line of it tells the worker to end that task.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from pathlib import Path

logger = logging.getLogger(__name__)

#: Marks of tasks that were taken back are kept this long: by then, no worker of an earlier agent lives any more.
_LIFE_S = 14 * 24 * 3600.0
#: Of the workers' files, beside the folder of the marks, as workers know it; a test compares them.
WORKERS_FOLDER = "workers"


def mark_name(task_id: uuid.UUID, attempt: int) -> str:
    """The file's name; each hand-over has its own, as a mark is never used twice."""
    return str(task_id) if attempt <= 1 else f"{task_id}.{attempt}"


class Marks:
    """The marks of one user endpoint.

    Args:
        directory: Where they are; workers see it, too. Made if missing.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(exist_ok=True, mode=0o700)

    def take_back(self, task_id: uuid.UUID, attempt: int) -> bool:
        """Keep a task that was handed over from beginning.

        Returns:
            Whether it hasn't begun; then it never will. When it can't be told, it counts as begun.
        """
        try:
            os.close(
                os.open(self._directory / mark_name(task_id, attempt), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            )
        except FileExistsError:
            return False
        except OSError as exc:
            logger.warning("Task %s counts as begun, its mark can't be made: %s", task_id, exc)
            return False
        return True

    def ask_to_end(self, task_id: uuid.UUID, attempt: int) -> bool:
        """Tell the worker that has begun this task to end it.

        Returns:
            Whether it was told; not when the task has ended.
        """
        try:
            name = mark_name(task_id, attempt)
            # Added, as another task of the same worker may be told, too; and only if it is there.
            with open(self._directory / name, "a", opener=_existing) as mark:
                mark.write(f"{name}\n")
        except FileNotFoundError:
            return False
        except OSError as exc:
            logger.warning("Task %s can't be told to end, its mark can't be written: %s", task_id, exc)
            return False
        return True

    def asked_to_end(self, task_id: uuid.UUID, attempt: int) -> bool:
        """Whether a worker was told to end this task, by this agent or an earlier one."""
        name = mark_name(task_id, attempt)
        try:
            with (self._directory / name).open() as names:
                return f"{name}\n" in names
        except OSError:
            return False

    def forget(self, task_id: uuid.UUID, attempt: int) -> None:
        """The task has ended, by this hand-over."""
        (self._directory / mark_name(task_id, attempt)).unlink(missing_ok=True)

    def prune(self) -> None:
        """Remove what nobody can ask for any more."""
        workers = self._directory.parent / WORKERS_FOLDER
        for folder in (self._directory, *([workers] if workers.is_dir() else [])):
            _prune(folder)


def _existing(path: str, flags: int) -> int:
    return os.open(path, flags & ~os.O_CREAT)


def _prune(folder: Path) -> None:
    oldest_s = time.time() - _LIFE_S
    for entry in os.scandir(folder):
        try:
            # When it was written, and when it got or lost one of its names.
            if max(entry.stat().st_mtime, entry.stat().st_ctime) < oldest_s:
                os.unlink(entry.path)
        except FileNotFoundError:
            continue  # its task has ended just now
