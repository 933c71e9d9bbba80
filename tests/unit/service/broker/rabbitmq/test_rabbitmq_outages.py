"""A real RabbitMQ that comes and goes: with what it held, and without."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from parsl_globus.errors import BrokerRefused, ConfigError, LinkClosed, LinkGaveUp
from parsl_globus.service.broker.base import Delivery, Publication, Refill
from parsl_globus.service.broker.rabbitmq import RabbitMQBroker

DEADLINE_S = 40.0


class Process:
    """A service process, as far as its broker sees it: two queues, one message to publish again."""

    def __init__(self, url: str) -> None:
        self.broker = RabbitMQBroker(url)
        self.broker.refill = Refill(self._declare, self._publish)
        self.refills = 0
        self.got: asyncio.Queue[bytes] = asyncio.Queue()
        self.in_refill: Callable[[], Awaitable[None]] | None = None
        self.filled = asyncio.Event()

    async def _declare(self) -> None:
        await self.broker.declare_queue("inbox")
        await self.broker.declare_queue("tasks")

    async def _publish(self) -> None:
        self.refills += 1
        if self.in_refill is not None:
            await self.in_refill()
        await self.broker.publish([Publication("tasks", b"again")])
        self.filled.set()

    async def handle(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self.got.put_nowait(delivery.body)

    async def next(self) -> bytes:
        return await asyncio.wait_for(self.got.get(), DEADLINE_S)

    async def published(self, body: bytes) -> None:
        """Publish to the inbox, over an outage if there is one."""
        while True:
            try:
                await self.broker.publish([Publication("inbox", body)])
            except (LinkGaveUp, BrokerRefused):
                await asyncio.sleep(0.05)
            else:
                return


@asynccontextmanager
async def running(*processes: Process, fills: bool = True):
    try:
        for process in processes:
            await process.broker.start()
            await process.broker.consume("inbox", process.handle)
        if fills:
            await asyncio.wait_for(processes[0].filled.wait(), DEADLINE_S)
        yield
    finally:
        for process in processes:
            await asyncio.wait_for(process.broker.stop(), DEADLINE_S)


async def in_thread(call, *args, **kwargs):
    """The server's start and stop block; the broker's loop goes on meanwhile."""
    return await asyncio.to_thread(call, *args, **kwargs)


def run(main: Awaitable[None]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(main, 2 * DEADLINE_S)

    asyncio.run(limited())


def test_a_broker_that_holds_nothing_is_filled_by_one_process(server):
    async def main():
        first, second = Process(server.url), Process(server.url)
        async with running(first, second):
            assert (first.refills, first.broker.kept) == (1, False)
            assert second.refills == 0
            assert await second.broker.queue_length("tasks") == 1

    run(main())


def test_a_start_waits_for_the_queues_only(server):
    async def main():
        process = Process(server.url)
        go_on = asyncio.Event()

        async def wait() -> None:
            await go_on.wait()

        process.in_refill = wait
        async with running(process, fills=False):
            assert not process.filled.is_set()
            await process.published(b"meanwhile")
            assert await process.next() == b"meanwhile"
            go_on.set()
            await asyncio.wait_for(process.filled.wait(), DEADLINE_S)

    run(main())


def test_a_start_whose_refill_fails_fills_later(server):
    async def main():
        process = Process(server.url)
        failures = iter([RuntimeError("the store is away"), None])

        async def in_refill():
            if (failure := next(failures)) is not None:
                raise failure

        process.in_refill = in_refill
        async with running(process):
            assert process.refills == 2

    run(main())


def test_a_restart_loses_nothing_and_fills_nothing(server):
    async def main():
        process = Process(server.url)
        async with running(process):
            await process.broker.declare_queue("kept")
            await process.broker.publish([Publication("kept", b"%d" % number) for number in range(100)])
            await in_thread(server.stop)
            begun_s = time.monotonic()
            with pytest.raises(LinkGaveUp):
                await process.broker.publish([Publication("kept", b"lost")])
            with pytest.raises(LinkGaveUp):
                await process.broker.declare_queue("lost")
            assert time.monotonic() - begun_s < 10
            await in_thread(server.start)
            await process.published(b"after")
            assert await process.next() == b"after"
            assert await process.broker.queue_length("kept") == 100
            assert process.refills == 1

    run(main())


def test_a_wiped_broker_is_filled_again_by_one_process(server):
    async def main():
        processes = Process(server.url), Process(server.url)
        async with running(*processes):
            await in_thread(server.stop, kill=True)
            server.wipe()
            await in_thread(server.start)
            await processes[0].published(b"after")
            done, waiting = await asyncio.wait(
                [asyncio.create_task(process.next()) for process in processes], return_when=asyncio.FIRST_COMPLETED
            )
            assert [task.result() for task in done] == [b"after"]
            for task in waiting:
                task.cancel()
            for process in processes:
                await process.broker.wait_whole(DEADLINE_S)
            # One at the start and one now; perhaps once more, if that broke off as the broker had just started.
            assert sum(process.refills for process in processes) in (2, 3)
            assert await processes[0].broker.queue_length("tasks") == 1

    run(main())


def test_a_refill_that_breaks_off_is_done_again(server):
    async def main():
        process = Process(server.url)
        async with running(process):
            await in_thread(server.stop, kill=True)
            server.wipe()
            failures = iter([RuntimeError("the store is away"), None])

            async def in_refill():
                if (failure := next(failures)) is not None:
                    raise failure

            process.in_refill = in_refill
            await in_thread(server.start)
            await process.published(b"after")
            assert await process.next() == b"after"
            assert process.refills == 3
            assert await process.broker.queue_length("tasks") == 1

    run(main())


def test_logins_wait_until_the_queues_are_there_not_for_what_is_published(server):
    async def main():
        process = Process(server.url)
        async with running(process):
            await process.broker.wait_whole(DEADLINE_S)
            await in_thread(server.stop, kill=True)
            server.wipe()
            begun_s = time.monotonic()
            await process.broker.wait_whole(0.3)
            assert time.monotonic() - begun_s > 0.25
            publishing, go_on = asyncio.Event(), asyncio.Event()

            async def in_refill():
                publishing.set()
                await go_on.wait()

            process.in_refill = in_refill
            await in_thread(server.start)
            await asyncio.wait_for(publishing.wait(), DEADLINE_S)
            begun_s = time.monotonic()
            await process.broker.wait_whole(DEADLINE_S)
            assert time.monotonic() - begun_s < 5
            go_on.set()

    run(main())


def test_what_one_process_could_not_handle_another_one_gets(server):
    async def main():
        sick, well = Process(server.url), Process(server.url)
        failed = asyncio.Event()

        async def fail(deliveries):
            failed.set()
            raise RuntimeError("the store is away")

        sick.handle = fail
        await sick.broker.start()
        try:
            await sick.broker.consume("inbox", sick.handle)
            await sick.broker.publish([Publication("inbox", b"%d" % number) for number in range(20)])
            await asyncio.wait_for(failed.wait(), DEADLINE_S)
            async with running(well, fills=False):
                assert {await well.next() for _ in range(20)} == {b"%d" % number for number in range(20)}
        finally:
            await sick.broker.stop()

    run(main())


def test_what_was_in_hand_when_the_connection_broke_comes_again(server):
    async def main():
        process = Process(server.url)
        entered, go_on = asyncio.Event(), asyncio.Event()

        async def handle(deliveries):
            for delivery in deliveries:
                process.got.put_nowait(delivery.body)
            entered.set()
            await go_on.wait()

        process.handle = handle
        async with running(process):
            await process.broker.publish([Publication("inbox", b"one")])
            await asyncio.wait_for(entered.wait(), DEADLINE_S)
            await in_thread(server.stop)
            await in_thread(server.start)
            await process.broker.wait_whole(DEADLINE_S)
            go_on.set()
            assert [await process.next(), await process.next()] == [b"one", b"one"]
            await process.published(b"two")
            assert await process.next() == b"two"

    run(main())


def test_a_deleted_queue_of_the_service_is_made_again(server):
    async def main():
        process, other = Process(server.url), RabbitMQBroker(server.url)
        async with running(process):
            await other.start()
            try:
                await other.delete_queue("inbox")
                await process.published(b"after")
                assert await process.next() == b"after"
                assert process.refills == 2
            finally:
                await other.stop()

    run(main())


def test_a_refused_login_of_the_service_is_told_at_once(server):
    async def main():
        broker = RabbitMQBroker(server.url.replace("service:", "service:wrong"))
        with pytest.raises(ConfigError, match="refuses the service's own login"):
            await broker.start()

    run(main())


def test_a_broker_that_is_not_there_is_told(server):
    async def main():
        await in_thread(server.stop)
        broker = RabbitMQBroker(server.url, start_s=0.3)
        with pytest.raises(ConfigError, match="Start RabbitMQ there") as refusal:
            await broker.start()
        assert "service:" not in str(refusal.value)
        await broker.stop()
        with pytest.raises(LinkClosed):
            await broker.publish([Publication("x", b"y")])
        await in_thread(server.start)

    run(main())
