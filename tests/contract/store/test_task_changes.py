"""What every store promises about storing and ending tasks in batches (`Store`), over all of them."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest
from test_store import GROUP, OTHER, OWNER, USER_ENDPOINT, ending, new_store, new_tasks, run, submit  # noqa: F401

from parsl_globus.service.store.base import DuplicateSubmission, EndpointGone, EndpointRecord, GroupTaken, TaskCounts
from parsl_globus.wire.states import TaskStage

HERE, ELSEWHERE = USER_ENDPOINT.endpoint_id, uuid.uuid4()
OTHERS_GROUP = replace(GROUP, group_id=uuid.uuid4())
LONG = "x" * 1_000_000


async def count(store, endpoint_id: uuid.UUID = HERE) -> TaskCounts:
    return (await store.counts())[endpoint_id]


@pytest.mark.parametrize("size", [1, 3, 300])
def test_each_submission_of_a_group_keeps_the_order_of_its_tasks(run, size):  # noqa: F811
    async def scenario(store):
        batches = [new_tasks(size) for _ in range(4)]
        for batch in batches:
            await submit(store, batch)
        tasks = [task for batch in batches for task in batch]
        waiting = await store.unfinished_tasks(limit=2000)
        assert [one.task for one in waiting] == tasks
        assert [one.sequence for one in waiting] == sorted({one.sequence for one in waiting})
        assert await store.group_tasks(GROUP.group_id) == [task.task_id for task in tasks]
        assert await count(store) == TaskCounts(submitted=4 * size)

    run(scenario)


def test_a_submission_may_have_no_tasks(run):  # noqa: F811
    async def scenario(store):
        await submit(store, new_tasks(1))
        await submit(store, [], key="k", reply='{"none": 1}')
        assert await store.submission_reply(OWNER, "k") == '{"none": 1}'
        with pytest.raises(DuplicateSubmission):
            await submit(store, [], key="k")
        assert await count(store) == TaskCounts(submitted=1)

    run(scenario)


def test_all_of_a_submission_comes_back_when_its_group_is_known(run):  # noqa: F811
    async def scenario(store):
        await submit(store, [])
        record = await submit(
            store,
            tasks := new_tasks(2),
            key="k",
            resource_specification='{"é": "\\\\ %s %(key)s"}',
            result_serializers=("x.y",),
            reply="{'{}'}",
            sender="a",
        )
        waiting = await store.unfinished_tasks(HERE, submission_id=record.submission_id)
        assert [one.task for one in waiting] == tasks
        assert {(one.resource_specification, one.result_serializers) for one in waiting} == {
            (record.resource_specification, ("x.y",))
        }
        assert await store.submission_reply(OWNER, "k") == record.reply
        assert await store.adopt_unsent("b", "process:", 200.0) == [record.submission_id]
        (known,) = await store.tasks([tasks[0].task_id])
        assert (known.owner_id, known.group_id, known.user_endpoint_id) == (OWNER, GROUP.group_id, HERE)

    run(scenario)


def test_a_key_that_is_taken_adds_nothing(run):  # noqa: F811
    async def scenario(store):
        await submit(store, [])
        await submit(store, first := new_tasks(2), key="k")
        with pytest.raises(DuplicateSubmission):
            await submit(store, new_tasks(3), key="k", group=replace(GROUP, has_queue=False), submitted_s=9000.0)
        assert [one.task for one in await store.unfinished_tasks()] == first
        assert await count(store) == TaskCounts(submitted=2)
        await store.finish_tasks([ending(task) for task in first])
        assert await store.groups_in_use(8000.0) == []

    run(scenario)


def test_what_is_refused_leaves_nothing_behind(run):  # noqa: F811
    async def scenario(store):
        manager = EndpointRecord(USER_ENDPOINT.manager_id, OWNER, "polaris")
        quiet = replace(GROUP, has_queue=False)
        await store.put_endpoint(manager)
        record = await submit(store, tasks := new_tasks(1), group=quiet)
        foreign = replace(record, submission_id=uuid.uuid4(), key="k", owner_id=OTHER, submitted_s=9000.0)
        with pytest.raises(GroupTaken):
            await store.add_submission(replace(foreign, group=replace(GROUP, owner_id=OTHER)), new_tasks(2))
        assert await count(store) == TaskCounts(submitted=1)
        await store.finish_tasks([ending(task) for task in tasks])
        await store.delete_endpoint(manager.endpoint_id)
        late = replace(record, submission_id=uuid.uuid4(), key="k", group=GROUP, submitted_s=9000.0)
        with pytest.raises(EndpointGone):
            await store.add_submission(late, new_tasks(2))
        assert await store.submission_reply(OWNER, "k") is None
        assert await store.submission_reply(OTHER, "k") is None
        assert await store.unfinished_tasks() == []
        assert await store.group_tasks(GROUP.group_id) == [tasks[0].task_id]
        assert await store.group(GROUP.group_id) == quiet
        assert await store.groups_in_use(8000.0) == []

    run(scenario)


def test_a_batch_of_several_groups_and_endpoints(run):  # noqa: F811
    async def scenario(store):
        a, b, c, d = new_tasks(4)
        await submit(store, [a, b])
        await submit(store, [c], user_endpoint_id=ELSEWHERE)
        await submit(store, [d], user_endpoint_id=ELSEWHERE, group=OTHERS_GROUP)
        (first,) = await store.finish_tasks([ending(b, completed_s=150.0)])
        assert first.new
        outcome = await store.finish_tasks(
            [
                ending(d, user_endpoint_id=ELSEWHERE, ok=False, completed_s=350.0, body=b"d"),
                ending(b, ok=False, completed_s=300.0, body=b"late"),
                ending(a, completed_s=250.0, body=b"a"),
                ending(new_tasks(1)[0]),
                ending(c, completed_s=400.0, body=b"of another endpoint"),
            ]
        )
        assert [ended and (ended.task_id, ended.new, ended.completed_s, ended.group) for ended in outcome] == [
            (d.task_id, True, 350.0, OTHERS_GROUP),
            (b.task_id, False, 150.0, GROUP),
            (a.task_id, True, 250.0, GROUP),
            None,
            None,
        ]
        assert [one.task for one in await store.unfinished_tasks()] == [c]
        by_id = {one.task_id: one for one in await store.tasks([task.task_id for task in (a, b, c, d)])}
        assert [(by_id[t.task_id].stage, by_id[t.task_id].body) for t in (a, b, c, d)] == [
            (TaskStage.SUCCESS, b"a"),
            (TaskStage.SUCCESS, b"\x01result"),
            (TaskStage.PUBLISHED, None),
            (TaskStage.FAILED, b"d"),
        ]
        assert await count(store) == TaskCounts(submitted=2, done=2)
        assert await count(store, ELSEWHERE) == TaskCounts(submitted=2, failed=1)
        assert await store.finish_tasks([ending(c, user_endpoint_id=ELSEWHERE)])
        assert await store.groups_in_use(300.0) == [OTHERS_GROUP]

    run(scenario)


def test_a_batch_with_one_task_twice(run):  # noqa: F811
    async def scenario(store):
        a, b = new_tasks(2)
        await submit(store, [a, b])
        outcome = await store.finish_tasks(
            [
                ending(a, user_endpoint_id=ELSEWHERE, completed_s=1.0),
                ending(b, completed_s=210.0),
                ending(a, ok=False, completed_s=220.0),
                ending(a, completed_s=230.0),
                ending(b, completed_s=210.0),
            ]
        )
        assert [ended and (ended.new, ended.completed_s) for ended in outcome] == [
            None,
            (True, 210.0),
            (True, 220.0),
            (False, 220.0),
            (False, 210.0),
        ]
        assert await count(store) == TaskCounts(submitted=2, done=1, failed=1)

    run(scenario)


def test_an_ending_that_comes_again_is_not_new_though_it_is_the_same(run):  # noqa: F811
    async def scenario(store):
        tasks = new_tasks(2)
        await submit(store, tasks)
        endings = [ending(task) for task in tasks]
        assert [ended.new for ended in await store.finish_tasks(endings)] == [True, True]
        assert [ended.new for ended in await store.finish_tasks(endings)] == [False, False]
        assert await count(store) == TaskCounts(submitted=2, done=2)
        assert await store.finish_tasks([]) == []

    run(scenario)


def test_long_and_empty_ones_come_back_as_they_were(run):  # noqa: F811
    async def scenario(store):
        await submit(store, [])
        (task,) = new_tasks(1)
        tasks = [replace(task, task_id=uuid.uuid4(), payload=payload) for payload in (LONG, "", "\0\n\\x41 é")]
        await submit(store, tasks[:1])
        await submit(store, tasks[1:])
        assert [one.task for one in await store.unfinished_tasks()] == tasks
        bodies = [b"", LONG.encode(), b"\\x41\0\xff"]
        endings = [ending(task, body=body) for task, body in zip(tasks, bodies, strict=True)]
        for batch in (endings[:1], endings[1:2], endings[2:]):
            assert [ended.new for ended in await store.finish_tasks(batch)] == [True]
        by_id = {one.task_id: one.body for one in await store.tasks([task.task_id for task in tasks])}
        assert [by_id[task.task_id] for task in tasks] == bodies

    run(scenario)
