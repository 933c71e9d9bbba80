"""What every store promises (`Store`), over all of them."""

from __future__ import annotations

import asyncio
import inspect
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest

from parsl_globus.service.store.base import (
    ClientRecord,
    DuplicateSubmission,
    Ending,
    EndpointGone,
    EndpointRecord,
    FunctionRecord,
    GroupRecord,
    GroupTaken,
    IdentityRecord,
    NewTask,
    ReportRecord,
    Store,
    SubmissionRecord,
    TaskCounts,
    TokenRecord,
    UserEndpointRecord,
)
from parsl_globus.service.store.memory import MemoryStore
from parsl_globus.service.store.postgres import postgres_store
from parsl_globus.service.store.sqlite import sqlite_store
from parsl_globus.wire.states import TaskStage


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def new_store(request, tmp_path) -> Callable[[], Store]:
    """Makes objects of one kind of store, all over the same records."""
    if request.param == "memory":
        memory = MemoryStore()
        return lambda: memory
    if request.param == "sqlite":
        return lambda: sqlite_store(tmp_path / "store.db")
    url = request.getfixturevalue("database_url")
    return lambda: postgres_store(url)


@pytest.fixture
def run(new_store):
    """Runs `scenario(store)`, or `scenario(first, second)` with two objects as two processes have them."""

    def run_scenario(scenario):
        async def main():
            async with AsyncExitStack() as stack:
                count = len(inspect.signature(scenario).parameters)
                await scenario(*[await stack.enter_async_context(_opened(new_store())) for _ in range(count)])

        asyncio.run(main())

    return run_scenario


@asynccontextmanager
async def _opened(store: Store) -> AsyncIterator[Store]:
    await store.open()
    try:
        yield store
    finally:
        await store.close()


OWNER, OTHER, MANAGER = uuid.uuid4(), uuid.uuid4(), uuid.uuid4()
GROUP = GroupRecord(uuid.uuid4(), OWNER, has_queue=True, created_s=100.0)
USER_ENDPOINT = UserEndpointRecord(uuid.uuid4(), MANAGER, OWNER, {"nodes": 2}, {"python": "3.11"})


def new_tasks(count: int) -> list[NewTask]:
    function_id = uuid.uuid4()
    return [NewTask(uuid.uuid4(), function_id, f"payload {number} \u00e9\0") for number in range(count)]


async def submit(store: Store, tasks: list[NewTask], **changes) -> SubmissionRecord:
    record = SubmissionRecord(
        submission_id=uuid.uuid4(),
        owner_id=OWNER,
        group=GROUP,
        user_endpoint_id=USER_ENDPOINT.endpoint_id,
        key=None,
        resource_specification='{"num_nodes": 1}',
        result_serializers=("a.b", "c"),
        reply="{}",
        submitted_s=100.0,
    )
    record = replace(record, **changes)
    await store.put_user_endpoint(replace(USER_ENDPOINT, endpoint_id=record.user_endpoint_id))
    await store.add_submission(record, tasks)
    return record


def ending(task: NewTask, *, ok: bool = True, completed_s: float = 200.0, **changes) -> Ending:
    stage = TaskStage.SUCCESS if ok else TaskStage.FAILED
    return replace(Ending(task.task_id, USER_ENDPOINT.endpoint_id, stage, completed_s, b"\x01result"), **changes)


async def purge(store: Store, **when: float) -> list[GroupRecord]:
    """Purge in steps, to the end."""
    gone: list[GroupRecord] = []
    for _ in range(100):
        step = await store.purge(**when, limit=2)
        gone += step.groups
        if not step.more:
            return gone
    raise AssertionError("the purge came to no end")


def test_identities_clients_and_tokens_come_back_as_they_were_kept(run):
    async def scenario(store):
        identity = IdentityRecord(OWNER, "ada@example.invalid")
        client = ClientRecord(uuid.uuid4(), OWNER, "$argon2id$...")
        token = TokenRecord("a" * 64, OWNER, client.client_id, frozenset({"openid", "x"}), 1e9 + 0.5)
        await store.add_identity(identity)
        await store.add_client(client)
        await store.add_tokens([token])
        assert await store.identities([OWNER, OTHER]) == [identity]
        assert await store.client(client.client_id) == client
        assert await store.token(token.token_hash) == token
        assert await store.client(OTHER) is None
        assert await store.token("b" * 64) is None
        renewed = replace(client, secret_hash="another")
        await store.add_client(renewed)
        assert await store.client(client.client_id) == renewed

    run(scenario)


def test_endpoints_come_back_and_are_replaced_and_deleted(run):
    async def scenario(store):
        second = EndpointRecord(
            MANAGER, OWNER, "polaris", None, True, False, (uuid.uuid4(),), (OTHER,), {"a": [1]}, 5.0
        )
        first = EndpointRecord(uuid.uuid4(), OWNER, "aurora")
        await store.put_endpoint(second)
        await store.put_endpoint(first)
        assert await store.endpoint(MANAGER) == second
        assert await store.endpoints() == [first, second]
        changed = replace(second, display_name="Polaris", allowed_functions=None)
        await store.put_endpoint(changed)
        assert await store.endpoint(MANAGER) == changed
        await store.put_user_endpoint(USER_ENDPOINT)
        assert await store.user_endpoints(MANAGER) == [USER_ENDPOINT]
        assert await store.user_endpoints(OTHER) == []
        assert await store.delete_endpoint(MANAGER)
        assert not await store.delete_endpoint(MANAGER)
        assert await store.endpoints() == [first]
        assert await store.user_endpoints() == []

    run(scenario)


def test_a_user_endpoint_keeps_its_counts_when_its_runtime_changes(run):
    async def scenario(store):
        await submit(store, new_tasks(3))
        changed = replace(USER_ENDPOINT, user_runtime={"python": "3.12"})
        await store.put_user_endpoint(changed)
        assert await store.user_endpoints() == [changed]
        assert await store.counts() == {USER_ENDPOINT.endpoint_id: TaskCounts(submitted=3)}

    run(scenario)


def test_only_the_last_report_is_kept(run):
    async def scenario(store):
        await store.put_reports([ReportRecord(MANAGER, 1.0, {"a": 1}), ReportRecord(MANAGER, 2.0, {"a": 2})])
        await store.put_reports([ReportRecord(OTHER, 3.0, {"heartbeat_period": 0})])
        await store.put_reports([])
        reports = {report.endpoint_id: report for report in await store.reports()}
        assert reports[MANAGER] == ReportRecord(MANAGER, 2.0, {"a": 2})
        assert reports[OTHER].state == {"heartbeat_period": 0}

    run(scenario)


def test_a_deleted_function_stays_readable_for_tasks_that_were_accepted(run):
    async def scenario(store):
        function = FunctionRecord(uuid.uuid4(), OWNER, "f", "271\n01\n...", True, "text", "3.11.7", "4.19.0")
        await store.add_function(function)
        assert await store.functions([function.function_id, OTHER]) == {function.function_id: function}
        assert await store.delete_function(function.function_id)
        assert not await store.delete_function(function.function_id)
        assert await store.functions([function.function_id]) == {function.function_id: replace(function, deleted=True)}

    run(scenario)


def test_tasks_are_kept_in_order_and_unfinished_until_they_end(run):
    async def scenario(store):
        tasks = new_tasks(5)
        await submit(store, tasks)
        assert await store.group(GROUP.group_id) == GROUP
        assert await store.group_tasks(GROUP.group_id) == [task.task_id for task in tasks]
        first = await store.unfinished_tasks(limit=3)
        rest = await store.unfinished_tasks(after=first[-1].sequence)
        assert [waiting.task for waiting in first + rest] == tasks
        assert first[0].resource_specification == '{"num_nodes": 1}'
        assert first[0].result_serializers == ("a.b", "c")
        (record,) = await store.tasks([tasks[0].task_id, uuid.uuid4()])
        assert (record.owner_id, record.group_id, record.stage) == (OWNER, GROUP.group_id, TaskStage.PUBLISHED)
        assert (record.completed_s, record.body) == (None, None)

    run(scenario)


def test_tasks_whose_endpoint_is_gone_are_found(run):
    async def scenario(store):
        await store.put_endpoint(EndpointRecord(MANAGER, OWNER, "polaris"))
        await submit(store, new_tasks(2))
        assert await store.stray_endpoints() == []
        await submit(store, ended := new_tasks(2))
        await store.delete_endpoint(MANAGER)
        await store.finish_tasks([ending(task) for task in ended])
        assert await store.stray_endpoints() == [USER_ENDPOINT.endpoint_id]
        await store.put_user_endpoint(USER_ENDPOINT)  # by a process that has not heard of it
        assert await store.stray_endpoints() == [USER_ENDPOINT.endpoint_id]
        await store.put_endpoint(EndpointRecord(MANAGER, OWNER, "polaris"))
        assert await store.stray_endpoints() == []

    run(scenario)


def test_unfinished_tasks_of_one_user_endpoint(run):
    async def scenario(store):
        elsewhere = uuid.uuid4()
        tasks, others = new_tasks(2), new_tasks(2)
        await submit(store, tasks)
        await submit(store, others, user_endpoint_id=elsewhere)
        assert [w.task for w in await store.unfinished_tasks(elsewhere)] == others
        assert {w.user_endpoint_id for w in await store.unfinished_tasks()} == {USER_ENDPOINT.endpoint_id, elsewhere}

    run(scenario)


def test_a_task_ends_once_and_stays_as_it_ended(run):
    async def scenario(store):
        first, second, third = tasks = new_tasks(3)
        await submit(store, tasks)
        outcome = await store.finish_tasks(
            [ending(first), ending(first, ok=False, body=b"late"), ending(second, ok=False, completed_s=201.0)]
        )
        assert [ended.new for ended in outcome] == [True, False, True]
        assert outcome[0].group == GROUP
        (again,) = await store.finish_tasks([ending(first, ok=False, completed_s=300.0, body=b"later")])
        assert (again.new, again.completed_s) == (False, 200.0)
        by_id = {record.task_id: record for record in await store.tasks([task.task_id for task in tasks])}
        assert (by_id[first.task_id].stage, by_id[first.task_id].body) == (TaskStage.SUCCESS, b"\x01result")
        assert by_id[second.task_id].completed_s == 201.0
        assert [w.task for w in await store.unfinished_tasks()] == [third]
        assert (await store.counts())[USER_ENDPOINT.endpoint_id] == TaskCounts(submitted=3, done=1, failed=1)

    run(scenario)


def test_nobody_ends_a_task_of_another_endpoint_or_an_unknown_one(run):
    async def scenario(store):
        tasks = new_tasks(1)
        await submit(store, tasks)
        foreign = ending(tasks[0], user_endpoint_id=uuid.uuid4())
        assert await store.finish_tasks([foreign, ending(new_tasks(1)[0])]) == [None, None]
        assert len(await store.unfinished_tasks()) == 1
        assert await store.finish_tasks([]) == []

    run(scenario)


def test_more_tasks_at_once_than_a_statement_takes_values(run):
    async def scenario(store):
        tasks = new_tasks(2500)
        await submit(store, tasks)
        assert all(ended.new for ended in await store.finish_tasks([ending(task) for task in tasks]))
        assert len(await store.tasks([task.task_id for task in tasks], with_body=False)) == 2500
        assert await store.unfinished_tasks() == []

    run(scenario)


def test_a_key_is_taken_once_per_owner(run):
    async def scenario(store):
        await submit(store, new_tasks(2), key="k", reply='{"first": 1}')
        with pytest.raises(DuplicateSubmission):
            await submit(store, new_tasks(2), key="k", reply='{"second": 2}')
        assert await store.submission_reply(OWNER, "k") == '{"first": 1}'
        assert await store.submission_reply(OTHER, "k") is None
        assert (await store.counts())[USER_ENDPOINT.endpoint_id].submitted == 2
        assert len(await store.unfinished_tasks()) == 2
        await submit(store, new_tasks(1), key="k", owner_id=OTHER, group=replace(GROUP, group_id=uuid.uuid4()))
        await submit(store, new_tasks(1))
        await submit(store, new_tasks(1))

    run(scenario)


def test_a_group_gets_its_queue_later_and_never_loses_it(run):
    async def scenario(store):
        without = replace(GROUP, has_queue=False)
        await submit(store, new_tasks(1), group=without)
        assert await store.group(GROUP.group_id) == without
        await submit(store, new_tasks(1), group=GROUP)
        await submit(store, new_tasks(1), group=without)
        assert (await store.group(GROUP.group_id)).has_queue

    run(scenario)


def test_results_of_a_time_come_back_for_groups_with_a_queue(run):
    async def scenario(store):
        tasks, silent = new_tasks(3), new_tasks(1)
        await submit(store, tasks)
        await submit(store, silent, group=GroupRecord(uuid.uuid4(), OWNER, has_queue=False, created_s=1.0))
        times = (150.0, 250.0, 260.0)
        await store.finish_tasks([ending(t, completed_s=s) for t, s in zip(tasks, times, strict=True)])
        await store.finish_tasks([ending(silent[0], completed_s=250.0)])
        page = await store.results_since(200.0, limit=1)
        rest = await store.results_since(200.0, after=page[-1].sequence)
        assert [(r.completed_s, r.group, r.body) for r in page + rest] == [
            (250.0, GROUP, b"\x01result"),
            (260.0, GROUP, b"\x01result"),
        ]

    run(scenario)


def test_a_group_is_in_use_while_it_waits_or_was_used(run):
    async def scenario(store):
        tasks = new_tasks(1)
        await submit(store, tasks)
        assert await store.groups_in_use(1e6) == [GROUP]
        await store.finish_tasks([ending(tasks[0], completed_s=200.0)])
        assert await store.groups_in_use(1e6) == []
        assert await store.groups_in_use(200.0) == [GROUP]

    run(scenario)


def test_purging_forgets_what_ended_and_nothing_else(run):
    async def scenario(store):
        old, fresh, waiting = new_tasks(1), new_tasks(1), new_tasks(1)
        kept = replace(GROUP, group_id=uuid.uuid4())
        await store.add_tokens([TokenRecord("a" * 64, OWNER, OTHER, frozenset(), 10.0)])
        await store.add_tokens([TokenRecord("b" * 64, OWNER, OTHER, frozenset(), 5000.0)])
        await submit(store, old, key="old")
        await submit(store, fresh, group=kept)
        await submit(store, waiting, group=kept)
        await store.finish_tasks([ending(old[0], completed_s=200.0), ending(fresh[0], completed_s=900.0)])
        assert await purge(store, before_s=500.0, now_s=1000.0) == [GROUP]
        assert await store.group(GROUP.group_id) is None
        assert await store.submission_reply(OWNER, "old") is None
        assert await store.group_tasks(kept.group_id) == [fresh[0].task_id, waiting[0].task_id]
        assert await store.token("a" * 64) is None
        assert await store.token("b" * 64) is not None
        assert await purge(store, before_s=500.0, now_s=1000.0) == []

    run(scenario)


def test_calls_that_overlap_see_complete_effects(run):
    async def scenario(store):
        batches = [new_tasks(20) for _ in range(10)]
        await submit(store, [])
        await asyncio.gather(*(submit(store, batch) for batch in batches))
        endings = [[ending(task) for task in batch] for batch in batches]
        outcomes = await asyncio.gather(*(store.finish_tasks(part) for part in endings + endings))
        assert sum(ended.new for outcome in outcomes for ended in outcome) == 200
        assert (await store.counts())[USER_ENDPOINT.endpoint_id] == TaskCounts(submitted=200, done=200)

    run(scenario)


def test_closing_twice_is_harmless(run):
    async def scenario(store):
        await store.close()

    run(scenario)


def test_a_purge_goes_in_steps_and_leaves_what_has_not_ended(run):
    async def scenario(store):
        tasks = new_tasks(7)
        await submit(store, tasks)
        await submit(store, new_tasks(1), submitted_s=600.0)
        await store.finish_tasks([ending(task) for task in tasks[:5]])
        step = await store.purge(500.0, 1000.0, limit=3)
        assert (step.groups, step.more) == ([], True)
        assert len(await store.tasks([task.task_id for task in tasks])) == 4
        assert await purge(store, before_s=500.0, now_s=1000.0) == []
        assert {record.task_id for record in await store.tasks([task.task_id for task in tasks])} == {
            task.task_id for task in tasks[5:]
        }

    run(scenario)


def test_what_is_asked_for_by_id_comes_alone(run):
    async def scenario(store):
        other = replace(USER_ENDPOINT, endpoint_id=uuid.uuid4())
        for user_endpoint in (USER_ENDPOINT, other):
            await store.put_user_endpoint(user_endpoint)
        endpoint = EndpointRecord(MANAGER, OWNER, "polaris")
        await store.put_endpoint(endpoint)
        await store.put_endpoint(EndpointRecord(OTHER, OWNER, "aurora"))
        await store.put_reports([ReportRecord(MANAGER, 1.0, {}), ReportRecord(OTHER, 1.0, {})])
        assert await store.endpoints([MANAGER, uuid.uuid4()]) == [endpoint]
        assert await store.user_endpoints(endpoint_ids=[other.endpoint_id, MANAGER]) == [other]
        assert await store.reports([MANAGER, uuid.uuid4()]) == [ReportRecord(MANAGER, 1.0, {})]
        assert await store.endpoints([]) == await store.user_endpoints(endpoint_ids=[]) == await store.reports([]) == []

    run(scenario)


def test_words_may_hold_any_character(run):
    async def scenario(store):
        function = FunctionRecord(uuid.uuid4(), OWNER, "f\0", "code\0 \u00e9 \U0001f600", description="a\0b")
        await store.add_function(function)
        (kept,) = (await store.functions([function.function_id])).values()
        assert kept.code == function.code
        await store.put_endpoint(EndpointRecord(MANAGER, OWNER, "a\0", metadata={"x": "\0"}))
        assert (await store.endpoint(MANAGER)).metadata == {"x": "\0"}

    run(scenario)


def test_functions_that_live(run):
    async def scenario(store):
        first, second = (FunctionRecord(uuid.uuid4(), OWNER, "f", "code") for _ in range(2))
        for function in (first, second):
            await store.add_function(function)
        await store.delete_function(first.function_id)
        asked = [first.function_id, second.function_id, uuid.uuid4()]
        assert await store.live_functions(asked) == {second.function_id}

    run(scenario)


def test_nothing_is_accepted_for_a_user_endpoint_that_is_gone(run):
    async def scenario(store):
        await store.put_endpoint(EndpointRecord(MANAGER, OWNER, "polaris"))
        record = await submit(store, new_tasks(1))
        await store.delete_endpoint(MANAGER)
        late = replace(record, submission_id=uuid.uuid4(), key="k")
        with pytest.raises(EndpointGone):
            await store.add_submission(late, new_tasks(1))
        assert len(await store.unfinished_tasks()) == 1
        assert await store.submission_reply(OWNER, "k") is None

    run(scenario)


def test_nobody_gets_into_the_group_of_another(run):
    async def scenario(store):
        await submit(store, new_tasks(1))
        with pytest.raises(GroupTaken):
            await submit(store, new_tasks(1), owner_id=OTHER, group=replace(GROUP, owner_id=OTHER))
        assert len(await store.group_tasks(GROUP.group_id)) == 1

    run(scenario)


# ---- several processes ----------------------------------------------------------------------------------------


def test_of_two_processes_one_sends_the_start_command(run):
    async def scenario(first, second):
        await first.put_user_endpoint(USER_ENDPOINT)
        here = USER_ENDPOINT.endpoint_id
        claims = [store.claim_start(here, 100.0, 95.0) for store in (first, second, first, second)]
        assert sorted(await asyncio.gather(*claims)) == [False, False, False, True]
        assert not await second.claim_start(here, 101.0, 96.0)
        assert await second.claim_start(here, 106.0, 101.0)
        await first.put_user_endpoint(replace(USER_ENDPOINT, user_runtime={}))
        assert not await first.claim_start(here, 106.0, 101.0)
        await first.forget_starts([here, OTHER])
        assert await second.claim_start(here, 106.0, 101.0)
        await first.forget_starts()
        assert await second.claim_start(here, 106.0, 101.0)
        assert not await first.claim_start(uuid.uuid4(), 106.0, 101.0)

    run(scenario)


def test_a_lease_has_one_holder_until_it_expires_or_is_given_back(run):
    async def scenario(first, second):
        taken = await asyncio.gather(first.lease("x", "a", 100.0, 10.0), second.lease("x", "b", 100.0, 10.0))
        assert sorted(taken) == [False, True]
        holder, other = ("a", "b") if taken[0] else ("b", "a")
        assert await second.lease("x", holder, 101.0, 10.0)
        assert not await first.lease("x", other, 110.0, 10.0)
        assert await second.lease("x", other, 111.5, 10.0)
        await first.release("x", holder)
        assert not await first.lease("x", holder, 112.0, 10.0)
        await second.release("x", other)
        assert await first.lease("x", holder, 112.0, 10.0)
        assert await first.lease("y", other, 112.0, 10.0)

    run(scenario)


def test_a_setting_is_what_the_first_one_said(run):
    async def scenario(first, second):
        said = await asyncio.gather(first.setting("key", "a"), second.setting("key", "b"))
        assert said in (["a", "a"], ["b", "b"])
        assert await first.setting("key", "c") == said[0]
        assert await first.setting("other", "d") == "d"

    run(scenario)


def test_one_of_two_equal_submissions_counts(run):
    async def scenario(first, second):
        await submit(first, [])
        same = [submit(store, new_tasks(3), key="k") for store in (first, second)]
        outcome = await asyncio.gather(*same, return_exceptions=True)
        assert sorted(type(o).__name__ for o in outcome) == ["DuplicateSubmission", "SubmissionRecord"]
        assert (await second.counts())[USER_ENDPOINT.endpoint_id].submitted == 3

    run(scenario)


def test_a_result_that_two_processes_got_ends_its_task_once(run):
    async def scenario(first, second):
        batches = [new_tasks(50) for _ in range(6)]
        for batch in batches:
            await submit(first, batch)
        calls = []
        for batch in batches:
            endings = [ending(task) for task in batch]
            calls += [first.finish_tasks(endings), second.finish_tasks(endings[::-1])]
        outcomes = await asyncio.gather(*calls)
        assert sum(ended.new for outcome in outcomes for ended in outcome) == 300
        assert (await second.counts())[USER_ENDPOINT.endpoint_id] == TaskCounts(submitted=300, done=300)

    run(scenario)


def test_submissions_and_endings_of_many_processes_do_not_stop_each_other(run):
    async def scenario(first, second):
        elsewhere = uuid.uuid4()
        await submit(first, [], user_endpoint_id=elsewhere)
        waiting = [(e, new_tasks(20)) for e in (USER_ENDPOINT.endpoint_id, elsewhere) * 4]
        for endpoint_id, batch in waiting:
            await submit(first, batch, user_endpoint_id=endpoint_id)
        mixed = [ending(t, user_endpoint_id=e) for e, batch in waiting for t in batch]
        calls = []
        for number, store in enumerate((first, second) * 8):
            calls.append(store.finish_tasks(mixed[number::16]))
            calls.append(submit(store, new_tasks(5), user_endpoint_id=waiting[number % 8][0]))
        await asyncio.gather(*calls)
        assert sum(count.done for count in (await first.counts()).values()) == 160
        assert len(await second.unfinished_tasks()) == 80

    run(scenario)


def test_what_a_dead_process_had_not_sent_is_adopted_once(run):
    async def scenario(first, second):
        await first.lease("process:a", "a", 100.0, 10.0)
        await first.lease("process:b", "b", 100.0, 1000.0)
        await second.lease("process:c", "c", 100.0, 1000.0)
        sent = await submit(first, new_tasks(1), sender="a")
        unsent = await submit(first, tasks := new_tasks(2), sender="a")
        await submit(first, new_tasks(1))
        await submit(second, new_tasks(1), sender="b")
        await first.mark_sent("a", [sent.submission_id])
        assert await first.adopt_unsent("b", "process:", 105.0) == []
        adopted = await asyncio.gather(
            first.adopt_unsent("b", "process:", 200.0), second.adopt_unsent("c", "process:", 200.0)
        )
        assert sorted(adopted) == [[], [unsent.submission_id]]
        assert [w.task for w in await second.unfinished_tasks(submission_id=unsent.submission_id)] == tasks
        await second.mark_sent("a", [unsent.submission_id])  # by another one: no effect
        await first.mark_sent("b", [unsent.submission_id])
        await first.mark_sent("c", [unsent.submission_id])
        assert await first.adopt_unsent("d", "process:", 200.0) == []

    run(scenario)
