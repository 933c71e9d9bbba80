"""The last output of a task whose worker died, from the file that the worker left (see `worker/output.py`)."""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

#: Beside the folder of the marks, as workers know it; a test compares them.
FOLDER = "output"
TAIL_BYTES = 4096
#: No worker lives any more so long after it began its last task; what has nothing to tell, as of a worker that ended in
#: order, is kept for less.
_LIFE_S = 14 * 24 * 3600.0
_EMPTY_LIFE_S = 3 * 24 * 3600.0
#: More than the first line of a file.
_EMPTY_BYTES = 64
#: So much is kept in all, of what was written last.
FOLDER_BYTES = 2 * 1024**3


def last_output(marks_dir: str | None, task_id: uuid.UUID) -> str:
    """What the task wrote last, as it follows the words of its failure; nothing when there is none.

    Looks into a file of each worker, which is for failures only.
    """
    head = f"{task_id}\n".encode()
    for path in _files(marks_dir):
        try:
            with path.open("rb") as file:
                if file.read(len(head)) != head:
                    continue
                file.seek(max(len(head), os.fstat(file.fileno()).st_size - TAIL_BYTES))
                text = file.read().decode(errors="replace").strip()
            path.unlink()
        except OSError as exc:
            logger.warning("The output of task %s can't be read: %s", task_id, exc)
            return ""
        return f"\n\nThe last output of the task was:\n{text}\n" if text else ""
    return ""


def prune(marks_dir: str | None) -> None:
    """Remove the files of workers that are long gone, and the oldest when all together are too long."""
    now_s, sum_bytes = time.time(), 0
    for path, file in sorted(_stats(marks_dir), key=lambda one: one[1].st_mtime, reverse=True):
        sum_bytes += file.st_size
        life_s = _EMPTY_LIFE_S if file.st_size < _EMPTY_BYTES else _LIFE_S
        if file.st_mtime < now_s - life_s or sum_bytes > FOLDER_BYTES:
            path.unlink(missing_ok=True)


def _stats(marks_dir: str | None) -> Iterator[tuple[Path, os.stat_result]]:
    for path in _files(marks_dir):
        try:
            yield path, path.stat()
        except FileNotFoundError:
            continue  # it was read just now


def _files(marks_dir: str | None) -> list[Path]:
    folder = Path(marks_dir).parent / FOLDER if marks_dir is not None else None
    return list(folder.iterdir()) if folder is not None and folder.is_dir() else []
