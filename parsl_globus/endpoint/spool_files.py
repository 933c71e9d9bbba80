"""Long task messages of a spool, each in a file of its own.

SQLite writes a message of a megabyte twice and cuts it into pages, which costs seven times what a file does; and
workers read it from there, instead of getting it through Parsl's interchange, where it is copied and pickled in four
processes.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Collection, Iterable
from pathlib import Path

logger = logging.getLogger(__name__)

#: In the user endpoint's folder, which workers reach if they reach any of it.
FOLDER = "bodies"
#: A shorter message goes the usual way: a file on a file system that nodes share is not made in no time.
LONG_BYTES = 256 * 1024


class SpoolFiles:
    """The files of one spool. Every method may raise `OSError`.

    Args:
        directory: Where they are; made when the first one is.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, task_id: uuid.UUID) -> Path:
        """Where the message of a task is, if it is in a file."""
        return self._directory / task_id.hex

    def write(self, task_id: uuid.UUID, body: bytes) -> Path:
        """Write the message of a task."""
        path = self.path(task_id)
        try:
            file = open(path, "wb", buffering=0, opener=_private)  # noqa: SIM115 - closed below
        except FileNotFoundError:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            file = open(path, "wb", buffering=0, opener=_private)  # noqa: SIM115 - closed below
        with file:
            left = memoryview(body)
            while left:
                left = left[file.write(left) :]
        return path

    def read(self, task_id: uuid.UUID) -> bytes:
        """The message of a task."""
        return self.path(task_id).read_bytes()

    def remove(self, task_ids: Iterable[uuid.UUID]) -> None:
        """Remove what there is of these tasks."""
        for task_id in task_ids:
            self.path(task_id).unlink(missing_ok=True)

    def keep_only(self, task_ids: Collection[uuid.UUID]) -> None:
        """Remove what is there of other tasks."""
        kept = {task_id.hex for task_id in task_ids}
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return
        for name in names:
            if name not in kept:
                try:
                    (self._directory / name).unlink(missing_ok=True)
                except OSError as exc:  # one that is being read on NFS, for example
                    logger.warning("%s stays: %s", self._directory / name, exc)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
