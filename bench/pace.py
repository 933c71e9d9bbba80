"""How fast the processor is, time and again during a run.

Who shares a host shares its cores. A neighbour that is busy can take half of one, and neither the load nor the stolen
time of this machine shows it: only that the same work takes longer.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

#: Long enough for the clock, and short beside what is measured: some milliseconds.
_ADDITIONS = 100_000
#: Single ones are also longer when something of this machine comes in between; the least of these is not.
_EACH = 3
#: A run whose median is more times its least than this was on no quiet machine. After a rest, the processor of a quiet
#: one was seen to be 1.25 times as fast as during work; a core that is shared with a busy neighbour, half as fast. A
#: machine that was slow all the time isn't found so.
_QUIET = 1.5


def addition_loop_ms() -> float:
    """How long a loop takes that does nothing but add, in milliseconds."""
    began = time.perf_counter()
    total = 0
    for number in range(_ADDITIONS):
        total += number
    return 1e3 * (time.perf_counter() - began)


class Pace:
    """The times of one loop, over a run.

    Args:
        loop_ms: Runs it, and tells how long it took, in milliseconds.
    """

    def __init__(self, loop_ms: Callable[[], float] = addition_loop_ms) -> None:
        self._loop_ms = loop_ms
        self._found_ms: list[float] = []

    def note(self) -> None:
        """Take it once more."""
        self._found_ms.append(min(self._loop_ms() for _ in range(_EACH)))

    def summary(self) -> dict[str, float] | None:
        """Least, median and most, in milliseconds; `None` when it was never taken."""
        found = self._found_ms
        if not found:
            return None
        each = {"least": min(found), "median": statistics.median(found), "most": max(found)}
        return {name: round(value, 2) for name, value in each.items()}


def described(meta: dict[str, Any]) -> str:
    """What a run's pace tells, in words; empty when it was not taken.

    Args:
        meta: Of the run.
    """
    pace = meta.get("pace_ms")
    if not pace:
        return ""
    words = f"a loop of {_ADDITIONS:,} additions took {pace['median']:g} ms ({pace['least']:g} to {pace['most']:g})"
    if pace["median"] <= _QUIET * pace["least"]:
        return words
    return f"{words}: this was no quiet machine, its times can't be judged, and some ratios are others"
