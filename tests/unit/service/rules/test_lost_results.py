"""When endpoints are asked for results that the broker may have lost, and about what."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from noting_broker import NotingBroker

from parsl_globus.service.rules import lost_results as module
from parsl_globus.service.rules.lost_results import LostResults
from parsl_globus.service.rules.queues import Queues
from parsl_globus.service.store.base import (
    Ending,
    FunctionRecord,
    GroupRecord,
    NewTask,
    SubmissionRecord,
    UserEndpointRecord,
)
from parsl_globus.service.store.memory import MemoryStore
from parsl_globus.wire import names
from parsl_globus.wire.control import LOST_RESULTS, unpack_control
from parsl_globus.wire.states import TaskStage

OWNER, FUNCTION = uuid.uuid4(), uuid.uuid4()


class Bench:
    def __init__(self, asks=True):
        self.store, self.broker = MemoryStore(), NotingBroker()
        self.queues = Queues(self.broker, control=True)
        self.lost_results = LostResults(self.store, self.broker, self.queues, asks=asks)

    async def endpoint(self, count):
        """A user endpoint with so many unfinished tasks."""
        if not await self.store.functions([FUNCTION]):
            await self.queues.declare_own()
            await self.store.add_function(FunctionRecord(FUNCTION, OWNER, "f", "1\nf"))
        endpoint_id = uuid.uuid4()
        await self.store.put_user_endpoint(UserEndpointRecord(endpoint_id, uuid.uuid4(), OWNER))
        tasks = [NewTask(uuid.uuid4(), FUNCTION, "1\np") for _ in range(count)]
        group = GroupRecord(uuid.uuid4(), OWNER, has_queue=True)
        await self.store.add_submission(
            SubmissionRecord(uuid.uuid4(), OWNER, group, endpoint_id, None, "{}", (), "{}", 1.0), tasks
        )
        return endpoint_id, [task.task_id for task in tasks]

    def asked(self):
        """The tasks of which each endpoint was asked, by its control queue."""
        asked: dict[str, list[uuid.UUID]] = {}
        for publication in self.broker.published:
            command, task_ids = unpack_control(publication.body)
            assert command == LOST_RESULTS
            asked.setdefault(publication.routing_key, []).extend(task_ids)
        return asked


@pytest.fixture
def due(monkeypatch):
    monkeypatch.setattr(module, "ASK_AFTER_S", 0.0)


@pytest.mark.usefixtures("due")
def test_each_endpoint_is_asked_once_about_what_has_not_ended():
    async def scenario():
        bench = Bench()
        first, ids = await bench.endpoint(450)
        second, (other,) = await bench.endpoint(1)
        await bench.store.finish_tasks([Ending(ids[0], first, TaskStage.SUCCESS, 2.0, b"")])
        await bench.lost_results.look()
        assert bench.asked() == {}  # nothing was lost
        bench.lost_results.broker_lost_all()
        for _ in range(2):
            await bench.lost_results.look()
            assert bench.asked() == {names.control_queue(first): ids[1:], names.control_queue(second): [other]}

    asyncio.run(scenario())


def test_endpoints_have_time_to_send_again_what_was_not_confirmed():
    async def scenario():
        bench = Bench()
        await bench.endpoint(1)
        bench.lost_results.broker_lost_all()
        await bench.lost_results.look()
        assert bench.asked() == {}

    asyncio.run(scenario())


@pytest.mark.usefixtures("due")
def test_results_that_wait_to_be_stored_come_first(monkeypatch):
    async def scenario():
        bench = Bench()
        endpoint_id, ids = await bench.endpoint(1)
        bench.lost_results.broker_lost_all()
        waiting = [3, 0]

        async def queue_length(name):
            assert name == names.RESULTS_QUEUE
            return waiting.pop(0)

        monkeypatch.setattr(bench.broker, "queue_length", queue_length)
        await bench.lost_results.look()
        assert bench.asked() == {}
        await bench.lost_results.look()
        assert bench.asked() == {names.control_queue(endpoint_id): ids}

    asyncio.run(scenario())


@pytest.mark.usefixtures("due")
def test_a_broker_that_is_away_and_a_full_queue_hold_up_nobody():
    async def scenario():
        bench = Bench()
        full, _ = await bench.endpoint(1)
        endpoint_id, ids = await bench.endpoint(1)
        bench.lost_results.broker_lost_all()
        bench.broker.down = True
        await bench.lost_results.look()
        bench.broker.down = False
        bench.broker.full.add(names.control_queue(full))
        await bench.lost_results.look()
        assert bench.asked() == {names.control_queue(endpoint_id): ids}

    asyncio.run(scenario())


@pytest.mark.usefixtures("due")
def test_a_broker_that_goes_away_amid_the_questions_is_asked_the_rest_later(monkeypatch):
    async def scenario():
        bench = Bench()
        endpoint_id, ids = await bench.endpoint(450)
        bench.lost_results.broker_lost_all()
        publish, calls = bench.broker.publish, []

        async def gone_at_the_second(publications):
            calls.append(publications)
            bench.broker.down = len(calls) == 2
            await publish(publications)

        monkeypatch.setattr(bench.broker, "publish", gone_at_the_second)
        await bench.lost_results.look()
        asked = bench.asked()[names.control_queue(endpoint_id)]
        assert 0 < len(asked) < 450
        await bench.lost_results.look()
        assert bench.asked() == {names.control_queue(endpoint_id): ids}  # each once

    asyncio.run(scenario())


@pytest.mark.usefixtures("due")
def test_nobody_is_asked_without_control_queues():
    async def scenario():
        bench = Bench(asks=False)
        await bench.endpoint(1)
        bench.lost_results.broker_lost_all()
        await bench.lost_results.look()
        assert bench.asked() == {}

    asyncio.run(scenario())
