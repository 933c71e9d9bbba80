"""Which tasks go to a worker in one trip: many at once, of functions that were measured to be short."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import TypeVar

#: What one trip may take, by what was measured.
TRIP_NS = 10_000_000
#: A task of a function of which more than a quarter takes longer than this goes alone. On a node that is busy with
#: other things, some tasks of any function do.
SHORT_NS = 3_000_000
#: A result's own way counts as if it were 100 MB/s: those who share its trip wait for it.
_BYTE_NS = 10
#: However short: a trip's results are lost with their worker's node, should its disk be lost, too.
TRIP_TASKS = 64
#: Fewer that wait are not worth it; each gets a worker at once.
DEEP = 32
#: How many measurements make a function known, how many of each count, and how many functions are remembered.
_MEASUREMENTS = 8
_LATEST = 16
_FUNCTIONS = 1024

#: Where our runner's call tells the digest of its function; its quotes are escaped once for each JSON around it.
_DIGEST = re.compile(rb'function\\+": ?\\+"([0-9a-f]{16,64})\\')
_SEARCHED_BYTES = 16 * 1024
#: When a task's worker began it and ended it, at the end of a result message.
_TIMES = re.compile(rb'"timestamp": ?(\d{16,20})')
_TIMES_BYTES = 1024

_T = TypeVar("_T")


def function_key(function: str, body: bytes) -> str:
    """What a task's duration is known by: its function; of our runner's, which runs all of them, the app's."""
    found = _DIGEST.search(body, 0, _SEARCHED_BYTES)
    return function if found is None else found[1].decode()


def took_ns(result: bytes) -> int | None:
    """How long a task took, by its packed result message, which is not decoded: it may be megabytes."""
    times = [int(text) for text in _TIMES.findall(result, max(0, len(result) - _TIMES_BYTES))]
    return max(times) - min(times) if len(times) >= 2 else None


class Durations:
    """How long the tasks of each function take, of late. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latest_ns: OrderedDict[str, deque[int]] = OrderedDict()

    def note(self, key: str, duration_ns: int, result_bytes: int = 0) -> None:
        """One task of this function took so long, and had so large a result."""
        with self._lock:
            latest_ns = self._latest_ns.pop(key, None)
            if latest_ns is None:
                latest_ns = deque(maxlen=_LATEST)
            self._latest_ns[key] = latest_ns
            latest_ns.append(duration_ns + _BYTE_NS * result_bytes)
            while len(self._latest_ns) > _FUNCTIONS:
                self._latest_ns.popitem(last=False)

    def forget(self, key: str) -> None:
        """A task of this function held up others of its trip: it is measured anew."""
        with self._lock:
            self._latest_ns.pop(key, None)

    def short_ns(self, key: str) -> float | None:
        """How long three of four tasks of this function take at most, if it is known to be short."""
        with self._lock:
            ordered_ns = sorted(self._latest_ns.get(key, ()))
        if len(ordered_ns) < _MEASUREMENTS:
            return None
        usual_ns = ordered_ns[-1 - len(ordered_ns) // 4]
        return float(usual_ns) if usual_ns <= SHORT_NS else None


def trips(tasks: Sequence[tuple[_T, float | None]], outstanding: int) -> list[list[_T]]:
    """Put tasks together.

    Args:
        tasks: In their order, each with how long it takes if it may share a trip, see `Durations.short_ns`.
        outstanding: How many tasks the engine has besides.

    Returns:
        All of them; those that go alone first.
    """
    short = [(task, duration_ns) for task, duration_ns in tasks if duration_ns is not None]
    if len(short) + outstanding < DEEP or len(short) < 2:
        return [[task] for task, _ in tasks]
    found = [[task] for task, duration_ns in tasks if duration_ns is None]
    trip: list[_T] = []
    left_ns = float(TRIP_NS)
    for task, duration_ns in short:
        if trip and (duration_ns > left_ns or len(trip) == TRIP_TASKS):
            found.append(trip)
            trip, left_ns = [], float(TRIP_NS)
        trip.append(task)
        left_ns -= duration_ns
    found.append(trip)
    return found
