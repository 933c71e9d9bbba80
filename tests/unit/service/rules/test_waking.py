"""Endpoints of new tasks are woken together, and one that can't be keeps no other asleep."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from parsl_globus.service.rules import waking
from parsl_globus.service.rules.waking import Waker
from parsl_globus.service.store.base import StoreUnavailable, UserEndpointRecord

DEADLINE_S = 60


class Starter:
    """Wakes nobody, and notes whom it should have."""

    def __init__(self) -> None:
        self.woken: list[uuid.UUID] = []
        self.entered = asyncio.Event()
        self.go_on = asyncio.Event()
        self.failures: list[Exception] = []
        self.here: set[uuid.UUID] = set()

    async def wake(self, user_endpoint: UserEndpointRecord) -> None:
        self.woken.append(user_endpoint.endpoint_id)
        self.entered.set()
        await self.go_on.wait()
        if self.failures:
            raise self.failures.pop()


def endpoint() -> UserEndpointRecord:
    return UserEndpointRecord(uuid.uuid4(), uuid.uuid4(), uuid.uuid4(), {}, {})


def run(scenario) -> None:
    async def main() -> None:
        starter = Starter()
        await scenario(starter, Waker(starter.here.__contains__, starter.wake))

    asyncio.run(asyncio.wait_for(main(), DEADLINE_S))


async def all_woken(starter: Starter, count: int) -> None:
    while len(starter.woken) < count:
        starter.entered.clear()
        await starter.entered.wait()


def test_what_comes_while_it_looks_is_looked_at_once_more():
    one, other = endpoint(), endpoint()

    async def scenario(starter, waker):
        waker.wake(one)
        await starter.entered.wait()
        for _ in range(5):
            waker.wake(one)
            waker.wake(other)
        starter.go_on.set()
        await all_woken(starter, 3)
        await asyncio.sleep(0)
        assert starter.woken == [one.endpoint_id, one.endpoint_id, other.endpoint_id]
        waker.wake(one)
        await all_woken(starter, 4)
        await waker.stop()

    run(scenario)


@pytest.mark.parametrize("failure", [StoreUnavailable(detail="away"), RuntimeError("a fault of ours")])
def test_one_that_fails_keeps_no_other_asleep(failure):
    one, other = endpoint(), endpoint()

    async def scenario(starter, waker):
        starter.failures.append(failure)
        starter.go_on.set()
        waker.wake(one)
        waker.wake(other)
        await all_woken(starter, 2)
        assert starter.woken == [one.endpoint_id, other.endpoint_id]
        await waker.stop()

    run(scenario)


def test_one_that_is_there_is_looked_at_once_and_later(monkeypatch):
    monkeypatch.setattr(waking, "LOOK_AGAIN_S", 0.2)
    here, away = endpoint(), endpoint()

    async def scenario(starter, waker):
        starter.here.add(here.endpoint_id)
        starter.go_on.set()
        for _ in range(5):
            waker.wake(here)
        waker.wake(away)
        await all_woken(starter, 2)
        await asyncio.sleep(0)
        assert starter.woken == [away.endpoint_id, here.endpoint_id]
        await waker.stop()

    run(scenario)


@pytest.mark.parametrize("there", [True, False])
def test_a_stop_ends_what_is_under_way(there):
    async def scenario(starter, waker):
        one = endpoint()
        if there:
            starter.here.add(one.endpoint_id)
        waker.wake(one)
        if not there:
            await starter.entered.wait()
        assert "wake endpoints" in {task.get_name() for task in asyncio.all_tasks()}
        await waker.stop()
        await waker.stop()
        assert "wake endpoints" not in {task.get_name() for task in asyncio.all_tasks()}

    run(scenario)
