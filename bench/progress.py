"""Tells how far a run is, and when it has to come to an end."""

from __future__ import annotations

import logging
import time

logger = logging.getLogger(__name__)


class Progress:
    """Counts the steps of a run.

    Args:
        limit_s: What can be left out is left out after so many seconds; `None` leaves nothing out.
    """

    def __init__(self, limit_s: float | None = None) -> None:
        self._began_s = time.monotonic()
        self._limit_s = limit_s
        self._done = 0
        self.total = 0

    def elapsed_s(self) -> float:
        """Since the run began."""
        return time.monotonic() - self._began_s

    def over(self, share: float = 1.0) -> bool:
        """Whether this share of the time is used up."""
        return self._limit_s is not None and self.elapsed_s() > share * self._limit_s

    def step(self, what: str, *, steps: int = 1) -> None:
        """Note that something was measured, or left out."""
        self._done += steps
        minutes, seconds = divmod(int(self.elapsed_s()), 60)
        logger.info("%3d of %d, %d:%02d  %s", self._done, self.total, minutes, seconds, what)
