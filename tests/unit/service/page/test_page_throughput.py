from __future__ import annotations

import asyncio
import uuid

import pytest

from parsl_globus.service.page.throughput import TASKS_HEIGHT, LastHour, Minute, plot, seconds
from parsl_globus.service.store.memory import MemoryStore
from parsl_globus.service.store.views import LatencyRow, MinuteRow

HERE, THERE = uuid.uuid4(), uuid.uuid4()
NOW_S = 1_000_000 * 60.0 + 30


class CountingStore(MemoryStore):
    """Tells which spans were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.minutes: list[MinuteRow] = []
        self.asked: list[tuple[float, float]] = []

    async def ended_by_minute(self, since_s, until_s):
        self.asked.append((since_s, until_s))
        return [row for row in self.minutes if since_s <= row.minute * 60 < until_s]

    async def latencies(self, since_s, until_s, limit):
        return [LatencyRow(r.minute, r.user_endpoint_id, 2.0) for r in self.minutes if r.minute * 60 == since_s]


def test_the_hour_is_read_once_and_then_only_its_end():
    async def main():
        store = CountingStore()
        store.minutes = [MinuteRow(1_000_000 - 30, HERE, False, 5), MinuteRow(1_000_000, HERE, True, 2)]
        hour = LastHour(store)
        first = await hour.of(None, NOW_S)
        await hour.of(None, NOW_S + 1)
        assert len(store.asked) == 1
        assert store.asked[0][1] - store.asked[0][0] == 3600
        assert len(first) == 60
        assert (first[-1].done, first[-1].failed, first[29].done, first[29].latency_s) == (0, 2, 5, 2.0)
        store.minutes.append(MinuteRow(1_000_001, HERE, False, 7))
        second = await hour.of(None, NOW_S + 60)
        assert store.asked[1][1] - store.asked[1][0] <= 180
        assert (second[-1].done, second[-2].failed, second[28].done) == (7, 2, 5)

    asyncio.run(main())


def test_what_others_did_does_not_show():
    async def main():
        store = CountingStore()
        store.minutes = [MinuteRow(1_000_000, HERE, False, 5), MinuteRow(1_000_000, THERE, False, 3)]
        hour = LastHour(store)
        assert (await hour.of({HERE}, NOW_S))[-1].done == 5
        assert (await hour.of(set(), NOW_S))[-1] == Minute(1_000_000 * 60)

    asyncio.run(main())


def test_an_empty_hour_can_be_drawn():
    drawn = plot([Minute(60 * i) for i in range(60)])
    assert (drawn.total, drawn.latency_s, drawn.most) == (0, None, 1)
    assert all(bar.done_height == 0 and bar.latency_y is None for bar in drawn.bars)


def test_the_scale_holds_the_highest_bar():
    drawn = plot([Minute(0, 90, 30, 0.25), Minute(60, 10, 0, 1.5)])
    assert (drawn.most, drawn.slowest_s, drawn.total, drawn.failed) == (200, 2.0, 130, 30)
    highest = drawn.bars[0]
    assert highest.failed_y == pytest.approx(TASKS_HEIGHT * 0.4)
    assert highest.failed_y + highest.failed_height == pytest.approx(highest.done_y)
    assert highest.title == "1 min ago: 120 ended, 30 failed, median 250 ms"


@pytest.mark.parametrize(("value", "text"), [(0.0123, "12 ms"), (1.25, "1.2 s"), (90, "1.5 min"), (7200, "2.0 h")])
def test_durations_for_people(value, text):
    assert seconds(value) == text
