"""Long task messages, which workers read from a file instead of getting them through Parsl's interchange.

There a message is copied and pickled in four processes, in two of them twice, which for a megabyte costs several times
what writing and reading a file does.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from parsl_globus.endpoint.engine import EngineTask
from parsl_globus.endpoint.marks import mark_name

logger = logging.getLogger(__name__)

#: Beside the folder of the marks, which workers reach as well.
BODIES_FOLDER = "bodies"
#: A shorter message goes the usual way: a file on a file system that nodes share is not made in no time.
LARGE_BODY_BYTES = 256 * 1024


class LargeBodies:
    """The files of one engine.

    They are no record: a message that matters is in the spool.

    Args:
        directory: Where they are; workers see it, too. Made by `start`.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def start(self) -> None:
        """Remove what an agent left that was killed: of its workers, one that finds no file begins nothing."""
        self._directory.mkdir(exist_ok=True, mode=0o700)
        for path in self._directory.iterdir():
            path.unlink(missing_ok=True)

    def put(self, task: EngineTask) -> Path | None:
        """Write a task's message to a file if it is long; `None` when it has to go the usual way."""
        if len(task.body) <= LARGE_BODY_BYTES:
            return None
        path = self._directory / mark_name(task.task_id, task.attempt)
        try:
            with open(path, "wb", buffering=0, opener=_private) as file:
                left = memoryview(task.body)
                while left:
                    left = left[file.write(left) :]
        except OSError as exc:
            logger.warning("Task %s goes through the interchange, as no file can be written: %s", task.task_id, exc)
            path.unlink(missing_ok=True)
            return None
        return path


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
