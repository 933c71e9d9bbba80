"""Waiting with a limit, cancelled at every moment."""

from __future__ import annotations

import asyncio

import pytest

from parsl_globus.service.broker.rabbitmq.within import within


def test_what_comes_in_time_is_returned_or_raised():
    async def soon(outcome):
        await asyncio.sleep(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def main():
        assert await within(60, soon("there")) == "there"
        with pytest.raises(KeyError):
            await within(60, soon(KeyError("lost")))

    asyncio.run(main())


def test_what_takes_longer_is_cancelled():
    async def main():
        never = asyncio.get_running_loop().create_future()
        with pytest.raises(asyncio.TimeoutError):
            await within(0.01, never)
        assert never.cancelled()

    asyncio.run(main())


@pytest.mark.parametrize("done", [True, False])
def test_a_task_that_is_cancelled_ends_even_if_what_it_waits_for_has_just_come(done):
    async def main():
        awaited = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(within(60, awaited))
        await asyncio.sleep(0)
        if done:
            awaited.set_result("there")
        task.cancel()
        await asyncio.wait([task], timeout=60)
        assert task.cancelled()

    asyncio.run(main())
