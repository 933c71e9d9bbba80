from __future__ import annotations

import asyncio
import json
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st
from noting_broker import NotingBroker

from parsl_globus.service.rules.dispatch import Dispatcher, task_body
from parsl_globus.service.rules.functions import FunctionRules
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
from parsl_globus.wire import codec, names
from parsl_globus.wire.messages import Task
from parsl_globus.wire.states import TaskStage

OWNER, FUNCTION = uuid.uuid4(), uuid.uuid4()


@given(code=st.text(), payload=st.text())
def test_a_body_is_what_the_packer_would_write(code, payload):
    task_id = uuid.uuid4()
    body = task_body(task_id, json.dumps(code)[1:-1], payload)
    expected = Task(task_id=task_id, task_buffer=code + payload)
    assert codec.unpack(body, Task) == expected
    assert json.loads(body[1:]) == json.loads(codec.pack(expected)[1:])
    assert body[:1] == codec.pack(expected)[:1]
    assert b"\n" not in body


class Bench:
    def __init__(self):
        self.store, self.broker = MemoryStore(), NotingBroker()
        self.queues = Queues(self.broker, control=False)
        functions = FunctionRules(self.store, versions=False)
        self.dispatcher = Dispatcher(self.store, self.broker, self.queues, functions)
        self.endpoint_id = uuid.uuid4()
        self.queue = names.tasks_queue(self.endpoint_id)

    async def submit(self, count):
        """Store tasks, and hand them to the dispatcher as a submission does."""
        if not await self.store.functions([FUNCTION]):
            await self.store.add_function(FunctionRecord(FUNCTION, OWNER, "f", "1\nf"))
            await self.store.put_user_endpoint(UserEndpointRecord(self.endpoint_id, uuid.uuid4(), OWNER))
            await self.queues.declare_user_endpoint(self.endpoint_id)
        tasks = [NewTask(uuid.uuid4(), FUNCTION, "1\np") for _ in range(count)]
        group = GroupRecord(uuid.uuid4(), OWNER, has_queue=True)
        await self.store.add_submission(
            SubmissionRecord(uuid.uuid4(), OWNER, group, self.endpoint_id, None, "{}", (), "{}", 1.0), tasks
        )
        waiting = [w for w in await self.store.unfinished_tasks() if w.task in tasks]
        publications = await self.dispatcher._publications(waiting)
        ids = [task.task_id for task in tasks]
        await self.dispatcher.send(self.endpoint_id, publications, ids)
        return ids

    def sent(self):
        return [codec.unpack(p.body, Task).task_id for p in self.broker.published]


@pytest.fixture
def bench():
    return Bench()


def test_what_the_broker_does_not_take_is_sent_when_it_does(bench):
    async def scenario():
        first = await bench.submit(2)
        bench.broker.full.add(bench.queue)
        second = await bench.submit(300)
        await bench.dispatcher.retry()
        assert bench.sent() == first
        bench.broker.full.clear()
        third = await bench.submit(1)  # must not overtake
        assert bench.sent() == first
        await bench.dispatcher.retry()
        assert bench.sent() == first + second + third
        fourth = await bench.submit(1)
        await bench.dispatcher.retry()
        assert bench.sent() == first + second + third + fourth

    asyncio.run(scenario())


def test_tasks_survive_a_broker_that_is_away(bench):
    async def scenario():
        bench.broker.down = True
        ids = await bench.submit(3)
        await bench.dispatcher.retry()
        bench.broker.down = False
        await bench.dispatcher.retry()
        assert bench.sent() == ids

    asyncio.run(scenario())


def test_tasks_that_ended_meanwhile_are_not_sent(bench):
    async def scenario():
        bench.broker.down = True
        first, second = await bench.submit(2)
        await bench.store.finish_tasks([Ending(first, bench.endpoint_id, TaskStage.FAILED, 2.0, b"")])
        bench.broker.down = False
        await bench.dispatcher.retry()
        assert bench.sent() == [second]
        third = await bench.submit(1)
        assert bench.sent() == [second, *third]

    asyncio.run(scenario())


def test_an_empty_broker_gets_every_unfinished_task(bench):
    async def scenario():
        ids = await bench.submit(450)
        await bench.store.finish_tasks([Ending(ids[0], bench.endpoint_id, TaskStage.SUCCESS, 2.0, b"")])
        bench.broker.published.clear()
        assert await bench.dispatcher.send_all_unfinished() == 449
        assert bench.sent() == ids[1:]

    asyncio.run(scenario())


def test_starting_over_leaves_out_what_has_ended(bench):
    async def scenario():
        ids = await bench.submit(4)
        await bench.store.finish_tasks([Ending(ids[0], bench.endpoint_id, TaskStage.FAILED, 2.0, b"")])
        bench.broker.published.clear()  # as a real one does with a queue that is deleted
        await bench.dispatcher.start_over(bench.endpoint_id)
        assert bench.sent() == ids[1:]
        assert bench.queue in bench.broker.queues

    asyncio.run(scenario())
