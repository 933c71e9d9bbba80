from __future__ import annotations

import asyncio
import uuid

import pytest
from noting_broker import NotingBroker

from parsl_globus.errors import LinkError, LinkGaveUp, ServiceError
from parsl_globus.service.broker.base import Delivery
from parsl_globus.service.results import ResultIntake, failure_body
from parsl_globus.service.rules.queues import Queues, group_queue
from parsl_globus.service.store.base import (
    GroupRecord,
    NewTask,
    StoreUnavailable,
    SubmissionRecord,
    UserEndpointRecord,
)
from parsl_globus.service.store.memory import MemoryStore
from parsl_globus.wire import codec, names
from parsl_globus.wire.messages import Result
from parsl_globus.wire.states import TaskStage

OWNER = uuid.uuid4()
DEADLINE_S = 60


class Bench:
    def __init__(self):
        self.store, self.broker = MemoryStore(), NotingBroker()
        self.queues = Queues(self.broker, control=False)
        self.intake = self.new_intake()
        self.group = GroupRecord(uuid.uuid4(), OWNER, has_queue=True)
        self.endpoint_id = uuid.uuid4()

    def new_intake(self, *, kept=False):
        return ResultIntake(self.store, self.broker, self.queues, kept=kept)

    async def lone(self):
        """An intake that expects the result of a task, and that."""
        (delivery,) = await self.tasks(1)
        intake = self.new_intake(kept=True)
        intake.expect(codec.unpack(delivery.body, Result).task_id, self.endpoint_id, self.group)
        return intake, delivery

    async def tasks(self, count):
        await self.store.put_user_endpoint(UserEndpointRecord(self.endpoint_id, uuid.uuid4(), OWNER))
        tasks = [NewTask(uuid.uuid4(), uuid.uuid4(), "p") for _ in range(count)]
        await self.store.add_submission(
            SubmissionRecord(uuid.uuid4(), OWNER, self.group, self.endpoint_id, None, "{}", (), "{}", 1.0), tasks
        )
        await self.queues.declare_group(self.group)
        return [self.delivery(codec.pack(Result(task_id=task.task_id, data="00\nx"))) for task in tasks]

    def delivery(self, body, *, redelivered=False):
        return Delivery(names.results_key(self.endpoint_id), body, {}, redelivered)

    def forwarded(self):
        return [p.body for p in self.broker.published]


@pytest.fixture
def bench():
    return Bench()


def test_a_result_that_was_stored_but_not_forwarded_is_forwarded_when_it_comes_again(bench):
    async def scenario():
        deliveries = await bench.tasks(2)
        bench.broker.down = True
        with pytest.raises(LinkError):  # put back, and delivered again
            await bench.intake.handle(deliveries)
        bench.broker.down = False
        assert await bench.store.unfinished_tasks() == []
        await bench.new_intake().handle(deliveries)
        assert bench.forwarded() == [d.body for d in deliveries]

    asyncio.run(scenario())


def test_a_repeat_that_was_forwarded_is_dropped(bench):
    async def scenario():
        deliveries = await bench.tasks(1)
        await bench.intake.handle(deliveries)
        await bench.intake.handle(deliveries + deliveries)
        assert len(bench.forwarded()) == 1

    asyncio.run(scenario())


def test_a_queue_that_the_broker_lost_is_declared_again(bench):
    async def scenario():
        deliveries = await bench.tasks(3)
        bench.broker.queues.clear()
        await bench.intake.handle(deliveries)
        assert bench.forwarded() == [d.body for d in deliveries]

    asyncio.run(scenario())


def test_a_full_queue_of_one_group_does_not_hold_up_others(bench):
    async def scenario():
        stuck = await bench.tasks(1)
        bench.broker.full.add(group_queue(bench.group))
        bench.group = GroupRecord(uuid.uuid4(), OWNER, has_queue=True)
        others = await bench.tasks(1)
        await bench.intake.handle(stuck + others)
        assert bench.forwarded() == [others[0].body]
        assert await bench.store.unfinished_tasks() == []

    asyncio.run(scenario())


@pytest.mark.parametrize("again", [False, True], ids=["new", "again"])
def test_groups_do_not_wait_for_each_other_s_confirms(bench, monkeypatch, again):
    async def scenario():
        deliveries = []
        for _ in range(3):
            bench.group = GroupRecord(uuid.uuid4(), OWNER, has_queue=True)
            deliveries += await bench.tasks(2)
        if again:
            await bench.intake.handle(deliveries)
            bench.broker.published.clear()
        publish, waiting, all_there = bench.broker.publish, [], asyncio.Event()

        async def confirmed_when_all_are_there(publications):
            waiting.append(len(publications))
            if len(waiting) == 3:
                all_there.set()
            await asyncio.wait_for(all_there.wait(), 60)
            await publish(publications)
            if publications[0].body == deliveries[0].body:
                raise LinkGaveUp(after_s=0, detail="no confirm")

        monkeypatch.setattr(bench.broker, "publish", confirmed_when_all_are_there)
        with pytest.raises(LinkGaveUp):
            await (bench.intake.forward_again(0.0) if again else bench.intake.handle(deliveries))
        assert waiting == [2, 2, 2]
        assert set(bench.forwarded()) == {d.body for d in deliveries}

    asyncio.run(scenario())


def test_a_group_without_a_queue_keeps_its_results_in_the_store(bench):
    async def scenario():
        bench.group = GroupRecord(uuid.uuid4(), OWNER, has_queue=False)
        await bench.intake.handle(await bench.tasks(1))
        assert bench.forwarded() == []
        assert await bench.store.unfinished_tasks() == []

    asyncio.run(scenario())


def test_failing_all_that_waits(bench):
    async def scenario():
        await bench.tasks(450)
        assert await bench.intake.fail_unfinished(bench.endpoint_id, "Code", "words") == 450
        results = [codec.unpack(body, Result) for body in bench.forwarded()]
        assert {(r.data, r.error_details.code, r.error_details.user_message) for r in results} == {
            ("words", "Code", "words")
        }
        (record,) = await bench.store.tasks([results[0].task_id])
        assert record.stage is TaskStage.FAILED

    asyncio.run(scenario())


def test_a_failure_is_a_proper_result_message():
    task_id = uuid.uuid4()
    result = codec.unpack(failure_body(task_id, "Code", "words"), Result)
    assert result.task_id == task_id
    assert result.is_error


def test_the_result_of_a_lone_task_is_forwarded_while_it_is_stored(bench):
    async def scenario():
        intake, delivery = await bench.lone()
        finish_tasks = bench.store.finish_tasks

        async def finish_when_forwarded(endings):
            while not bench.forwarded():
                await asyncio.sleep(0)
            return await finish_tasks(endings)

        bench.store.finish_tasks = finish_when_forwarded
        await asyncio.wait_for(intake.handle([delivery]), DEADLINE_S)
        assert await bench.store.unfinished_tasks() == []
        await intake.handle([delivery])
        assert bench.forwarded() == [delivery.body]

    asyncio.run(scenario())


@pytest.mark.parametrize("part", ["store", "broker"])
def test_the_result_of_a_lone_task_comes_again_when_one_of_both_fails(bench, part):
    async def scenario():
        intake, delivery = await bench.lone()
        finish_tasks = bench.store.finish_tasks

        async def fail(_endings):
            raise StoreUnavailable(detail="gone")

        if part == "store":
            bench.store.finish_tasks = fail
        bench.broker.down = part == "broker"
        with pytest.raises((ServiceError, LinkError)):
            await intake.handle([delivery])
        bench.store.finish_tasks, bench.broker.down = finish_tasks, False
        before = len(bench.forwarded())
        await intake.handle([bench.delivery(delivery.body, redelivered=True)])
        assert len(bench.forwarded()) == before + 1
        assert await bench.store.unfinished_tasks() == []

    asyncio.run(scenario())


def test_a_foreign_endpoint_s_result_of_a_lone_task_is_not_forwarded(bench):
    async def scenario():
        intake, delivery = await bench.lone()
        foreign = Delivery(names.results_key(uuid.uuid4()), delivery.body, {}, False)
        await intake.handle([foreign])
        assert bench.forwarded() == []
        assert len(await bench.store.unfinished_tasks()) == 1

    asyncio.run(scenario())


def test_the_result_of_a_lone_task_that_was_ended_is_not_forwarded(bench):
    async def scenario():
        intake, delivery = await bench.lone()
        task_id = codec.unpack(delivery.body, Result).task_id
        await intake.fail(bench.endpoint_id, [task_id], "TaskCancelled", "cancelled")
        await intake.handle([delivery])
        (body,) = bench.forwarded()
        assert codec.unpack(body, Result).error_details.code == "TaskCancelled"

    asyncio.run(scenario())


def test_a_late_failure_of_a_lone_task_is_not_forwarded(bench):
    """As an endpoint gives for a result that it takes for lost, while another process of the service has stored it."""

    async def scenario():
        intake, delivery = await bench.lone()
        await bench.new_intake().handle([delivery])
        task_id = codec.unpack(delivery.body, Result).task_id
        await intake.handle([bench.delivery(failure_body(task_id, "TaskLost", "lost"))])
        assert bench.forwarded() == [delivery.body]

    asyncio.run(scenario())


def test_only_some_lone_tasks_are_remembered(bench):
    async def scenario():
        intake, first = await bench.lone()
        for _ in range(300):
            intake.expect(uuid.uuid4(), bench.endpoint_id, bench.group)
        assert len(intake._lone) == 256
        await intake.handle([first])
        assert bench.forwarded() == [first.body]

    asyncio.run(scenario())
