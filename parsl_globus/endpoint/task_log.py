"""Tells in the log what becomes of which tasks: by their ids, as long as the log doesn't drown in them."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence

#: So many ids may be told at once, and so many per second in the long run: 65 MB a day at most.
_BURST = 5_000
_PER_S = 20.0
#: In a line.
_IDS_PER_LINE = 20


class TaskLog:
    """Logs lines such as "Accepted 2 tasks: ID ID". For one thread.

    With more tasks than the log can take it tells their number only, unless it is at DEBUG.

    Args:
        logger: Where to.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._left = float(_BURST)
        self._at_s = time.monotonic()

    def note(self, what: str, task_ids: Sequence[uuid.UUID]) -> None:
        """Tell that these tasks are, for example, "Accepted"."""
        if not task_ids:
            return
        if not self._may_list(len(task_ids)):
            self._logger.info("%s %d tasks; there are too many for their ids", what, len(task_ids))
            return
        for first in range(0, len(task_ids), _IDS_PER_LINE):
            some = task_ids[first : first + _IDS_PER_LINE]
            self._logger.info(
                "%s %d task%s: %s", what, len(some), "" if len(some) == 1 else "s", " ".join(map(str, some))
            )

    def _may_list(self, count: int) -> bool:
        if self._logger.isEnabledFor(logging.DEBUG):
            return True
        now_s = time.monotonic()
        self._left = min(float(_BURST), self._left + (now_s - self._at_s) * _PER_S)
        self._at_s = now_s
        if count > self._left:
            return False
        self._left -= count
        return True
