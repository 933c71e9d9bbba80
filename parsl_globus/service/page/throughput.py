"""How the last hour went, minute by minute: read from the store once, then only what is new."""

from __future__ import annotations

import asyncio
import statistics
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from parsl_globus.service.store.base import Store

MINUTES = 60
_MINUTE_S = 60
#: The newest minutes are read again no more often than this.
_FRESH_S = 2.0
#: Of each minute, the latencies of so many tasks count; a median needs no more.
_SAMPLE = 500


@dataclass
class _Part:
    """One user endpoint's share of a minute."""

    done: int = 0
    failed: int = 0
    latencies: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Minute:
    """What ended in one minute.

    Attributes:
        start_s: When it began, in seconds since the epoch.
        done: Ended with a value.
        failed: Ended with an error.
        latency_s: The median time from acceptance to end; `None` when nothing ended.
    """

    start_s: int
    done: int = 0
    failed: int = 0
    latency_s: float | None = None


class LastHour:
    """The last hour, of all user endpoints together in memory.

    Args:
        store: Knows it.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._minutes: dict[int, dict[uuid.UUID, _Part]] = {}
        self._read_s = float("-inf")
        self._reading = asyncio.Lock()

    async def of(self, user_endpoint_ids: Collection[uuid.UUID] | None, now_s: float) -> list[Minute]:
        """The last hour's minutes, the running one last.

        Args:
            user_endpoint_ids: Only what ended there; `None` for everything.
            now_s: The present, in seconds since the epoch.
        """
        async with self._reading:
            if now_s - self._read_s >= _FRESH_S:
                await self._read(now_s)
        last = int(now_s // _MINUTE_S)
        return [self._minute(minute, user_endpoint_ids) for minute in range(last - MINUTES + 1, last + 1)]

    async def _read(self, now_s: float) -> None:
        last = int(now_s // _MINUTE_S)
        first = last - MINUTES + 1
        # What ends is stored a moment later, so the minute that has just passed may still grow.
        begin = max(first, int((self._read_s - _MINUTE_S) // _MINUTE_S)) if self._read_s > 0 else first
        counts = await self._store.ended_by_minute(begin * _MINUTE_S, (last + 1) * _MINUTE_S)
        fresh: dict[int, dict[uuid.UUID, _Part]] = {}
        for row in counts:
            part = fresh.setdefault(row.minute, {}).setdefault(row.user_endpoint_id, _Part())
            if row.failed:
                part.failed += row.count
            else:
                part.done += row.count
        for minute in sorted(fresh):
            start_s = minute * _MINUTE_S
            for latency in await self._store.latencies(start_s, start_s + _MINUTE_S, _SAMPLE):
                fresh[minute].setdefault(latency.user_endpoint_id, _Part()).latencies.append(latency.latency_s)
        kept = {minute: parts for minute, parts in self._minutes.items() if first <= minute < begin}
        self._minutes = {**kept, **fresh}
        self._read_s = now_s

    def _minute(self, minute: int, user_endpoint_ids: Collection[uuid.UUID] | None) -> Minute:
        parts = [
            part
            for endpoint_id, part in self._minutes.get(minute, {}).items()
            if user_endpoint_ids is None or endpoint_id in user_endpoint_ids
        ]
        latencies = [latency for part in parts for latency in part.latencies]
        return Minute(
            minute * _MINUTE_S,
            sum(part.done for part in parts),
            sum(part.failed for part in parts),
            statistics.median(latencies) if latencies else None,
        )


@dataclass(frozen=True)
class Bar:
    """A minute in the plot, in its coordinates."""

    x: float
    done_y: float
    done_height: float
    failed_y: float
    failed_height: float
    latency_y: float | None
    title: str


@dataclass(frozen=True)
class Plot:
    """What the template draws: bars of tasks above, dots of median latencies below.

    Attributes:
        bars: One a minute, the oldest first.
        most: Tasks a minute at the upper end of the scale.
        slowest_s: Latency at the upper end of the scale.
        total: Tasks that ended in this hour.
        failed: Those of them that failed.
        latency_s: The newest minute's median, where one is.
    """

    bars: tuple[Bar, ...]
    most: int
    slowest_s: float
    total: int
    failed: int
    latency_s: float | None


#: Size of the drawing, the heights of its two halves, and the width of a bar.
PLOT_WIDTH, TASKS_HEIGHT, LATENCY_TOP, LATENCY_HEIGHT = 600, 100, 120, 60
BAR_WIDTH = PLOT_WIDTH / MINUTES


def plot(minutes: Sequence[Minute]) -> Plot:
    """Scale the minutes."""
    most = _round_up(max((m.done + m.failed for m in minutes), default=0))
    slowest_s = _round_up_s(max((m.latency_s or 0.0 for m in minutes), default=0.0))
    bars = []
    for index, minute in enumerate(minutes):
        done = TASKS_HEIGHT * minute.done / most
        failed = TASKS_HEIGHT * minute.failed / most
        latency_y = None
        if minute.latency_s is not None:
            latency_y = round(LATENCY_TOP + LATENCY_HEIGHT * (1 - minute.latency_s / slowest_s), 1)
        bars.append(
            Bar(
                x=round(index * BAR_WIDTH, 1),
                done_y=round(TASKS_HEIGHT - done, 1),
                done_height=round(done, 1),
                failed_y=round(TASKS_HEIGHT - done - failed, 1),
                failed_height=round(failed, 1),
                latency_y=latency_y,
                title=_title(minute, len(minutes) - 1 - index),
            )
        )
    known = [m.latency_s for m in minutes if m.latency_s is not None]
    total, failures = sum(m.done + m.failed for m in minutes), sum(m.failed for m in minutes)
    return Plot(tuple(bars), most, slowest_s, total, failures, known[-1] if known else None)


def _title(minute: Minute, ago: int) -> str:
    when = "this minute" if ago == 0 else f"{ago} min ago"
    latency = "" if minute.latency_s is None else f", median {seconds(minute.latency_s)}"
    return f"{when}: {minute.done + minute.failed} ended, {minute.failed} failed{latency}"


def _round_up(value: int) -> int:
    """The next of 1, 2, 5, 10, 20, 50 and so on."""
    step = 1
    while True:
        for factor in (1, 2, 5):
            if step * factor >= value:
                return step * factor
        step *= 10


def _round_up_s(value: float) -> float:
    return _round_up(max(1, int(value * 1000 + 0.999))) / 1000


def seconds(value: float) -> str:
    """A duration for people."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 60:
        return f"{value:.1f} s"
    if value < 3600:
        return f"{value / 60:.1f} min"
    return f"{value / 3600:.1f} h"
