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
    """Logs lines such as "Accepted 2 tasks: ID ID". For one thread at a time.

    With more tasks than the log can take it tells their number only, unless it is at DEBUG. Fewer than fill a line wait
    for others until they are told: two lines cost a lone task nearly as much as what the agent writes to disk for it.

    Args:
        logger: Where to.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._waiting: dict[str, list[uuid.UUID]] = {}
        self._left = float(_BURST)
        self._at_s = time.monotonic()

    @property
    def waiting(self) -> bool:
        """Whether there is something to `tell`."""
        return bool(self._waiting)

    def note(self, what: str, task_ids: Sequence[uuid.UUID]) -> None:
        """Tell soon that these tasks are, for example, "Accepted"."""
        if not task_ids:
            return
        waiting = self._waiting.setdefault(what, [])
        waiting += task_ids
        if len(waiting) >= _IDS_PER_LINE or self._logger.isEnabledFor(logging.DEBUG):
            del self._waiting[what]
            self._tell(what, waiting)

    def tell(self) -> None:
        """Tell all that waits."""
        waiting, self._waiting = self._waiting, {}
        for what, task_ids in waiting.items():
            self._tell(what, task_ids)

    def _tell(self, what: str, task_ids: Sequence[uuid.UUID]) -> None:
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
