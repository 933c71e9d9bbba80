"""Removes what workers have left on disk and nobody will ask for any more, now and then while the endpoint runs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)

#: How often, in seconds.
PERIOD_S = 3600.0


class Tidying:
    """Calls what tidies up, each hour, on a thread of its own: a shared file system may take its time.

    Args:
        chores: What to call.
    """

    def __init__(self, chores: Sequence[Callable[[], None]]) -> None:
        self._chores = chores
        self._due_s = time.monotonic() + PERIOD_S
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """Begin if it is time; returns at once. The last time may not have ended yet."""
        now_s = time.monotonic()
        if now_s < self._due_s or (self._thread is not None and self._thread.is_alive()):
            return
        self._due_s = now_s + PERIOD_S
        self._thread = threading.Thread(target=self._run, name="tidying", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for chore in self._chores:
            try:
                chore()
            except OSError as exc:
                logger.warning("Old files can't be removed: %s", exc)
