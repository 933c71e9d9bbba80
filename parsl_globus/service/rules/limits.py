"""How many requests one identity may make in a while."""

from __future__ import annotations

import math
import time
import uuid

from parsl_globus.errors import TooManyRequests

#: Identities kept in mind; those that have made no request for a window need not be.
_REMEMBER_COUNT = 10_000


class RateLimits:
    """A bucket per identity: it holds one window's requests, and fills up evenly within one window.

    Each process of a service counts for itself.

    Args:
        requests: How many at once at most, and per window on average; 0 for no limit.
        window_s: The window.
    """

    def __init__(self, requests: int, window_s: float) -> None:
        self._requests = requests
        self._window_s = window_s
        self._left: dict[uuid.UUID, tuple[float, float]] = {}

    def count(self, identity_id: uuid.UUID) -> None:
        """Count one request.

        Raises:
            TooManyRequests: It is over the limit.
        """
        if self._requests <= 0:
            return
        now_s = time.monotonic()
        left, since_s = self._left.get(identity_id, (float(self._requests), now_s))
        per_s = self._requests / self._window_s
        left = min(float(self._requests), left + (now_s - since_s) * per_s)
        if left < 1:
            self._left[identity_id] = (left, now_s)
            raise TooManyRequests(
                retry_after_s=math.ceil((1 - left) / per_s),
                reason=f"At most {self._requests} requests in {self._window_s:g} s are taken from one identity. "
                "Send more tasks in one request, or wait.",
            )
        if len(self._left) >= _REMEMBER_COUNT:
            self._forget(now_s)
        self._left[identity_id] = (left - 1, now_s)

    def _forget(self, now_s: float) -> None:
        self._left = {i: kept for i, kept in self._left.items() if now_s - kept[1] < self._window_s}
        if len(self._left) >= _REMEMBER_COUNT:
            # More than that come within one window: those that have asked least are the least missed.
            emptiest = sorted(self._left.items(), key=lambda item: item[1][0])
            self._left = dict(emptiest[: _REMEMBER_COUNT // 2])
