"""Storing and ending tasks in one statement each, on PostgreSQL, where others do so at the same time."""

from __future__ import annotations

import asyncio
import random
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest
import sqlalchemy as sa
from tcp_proxy import TcpProxy

from parsl_globus.service.store import changes, single
from parsl_globus.service.store.base import (
    DuplicateSubmission,
    Ending,
    GroupRecord,
    NewTask,
    SubmissionRecord,
    TaskCounts,
    UserEndpointRecord,
)
from parsl_globus.service.store.postgres import PostgresDatabase, postgres_store
from parsl_globus.service.store.statements import LoneStatements, Statements
from parsl_globus.wire.states import TaskStage

OWNER = uuid.uuid4()
GROUPS = [GroupRecord(uuid.uuid4(), OWNER, has_queue=True, created_s=100.0) for _ in range(3)]
ENDPOINTS = [UserEndpointRecord(uuid.uuid4(), uuid.uuid4(), OWNER, {}, {}) for _ in range(3)]
HERE = ENDPOINTS[0].endpoint_id
DEADLINE_S = 60


def new_tasks(count: int) -> list[NewTask]:
    return [NewTask(uuid.uuid4(), uuid.uuid4(), "payload") for _ in range(count)]


def submission(**given) -> SubmissionRecord:
    record = SubmissionRecord(
        submission_id=uuid.uuid4(),
        owner_id=OWNER,
        group=GROUPS[0],
        user_endpoint_id=HERE,
        key=None,
        resource_specification="{}",
        result_serializers=(),
        reply="{}",
        submitted_s=100.0,
    )
    return replace(record, **given)


def ending(task: NewTask, completed_s: float = 200.0, endpoint_id: uuid.UUID = HERE, ok: bool = True) -> Ending:
    return Ending(task.task_id, endpoint_id, TaskStage.SUCCESS if ok else TaskStage.FAILED, completed_s, b"\x01")


@pytest.fixture
def database(database_url):
    database = PostgresDatabase(database_url)
    yield database
    database.close()


async def prepared(url: str):
    """A store with the endpoints and the groups."""
    store = postgres_store(url)
    await store.open()
    for endpoint in ENDPOINTS:
        await store.put_user_endpoint(endpoint)
    for group in GROUPS:
        await store.add_submission(submission(group=group), [])
    return store


def run(url: str, scenario, *more) -> None:
    async def main():
        store = await prepared(url)
        try:
            await scenario(store, *more)
        finally:
            await store.close()

    asyncio.run(asyncio.wait_for(main(), 5 * DEADLINE_S))


def test_what_is_as_it_mostly_is_takes_one_statement(database_url, monkeypatch):
    async def scenario(store):
        def unused(*_args):
            raise AssertionError("the usual way")

        monkeypatch.setattr(changes, "add_submission", unused)
        monkeypatch.setattr(changes, "finish", unused)
        for size in (1, 4, 300):
            tasks = new_tasks(size)
            await store.add_submission(submission(), tasks)
            assert all(ended.new for ended in await store.finish_tasks([ending(task) for task in tasks]))
        assert (await store.counts())[HERE] == TaskCounts(submitted=305, done=305)
        # Large ones, an empty one and a group that is new go the other way.
        for group, tasks in ((GROUPS[0], [NewTask(uuid.uuid4(), uuid.uuid4(), "x" * 10**6)]), (GROUPS[0], [])):
            with pytest.raises(AssertionError):
                await store.add_submission(submission(group=group), tasks)
        with pytest.raises(AssertionError):
            await store.add_submission(submission(group=replace(GROUPS[0], group_id=uuid.uuid4())), new_tasks(1))

    run(database_url, scenario)


def test_one_plan_is_kept_whatever_the_size(database_url, database):
    async def scenario(_store):
        with database.single.begin() as connection:
            for number in range(30):
                tasks = new_tasks((1, 40)[number % 2])
                assert connection.run(single.add_submission(submission(), tasks))
                assert len(connection.run(single.finish([ending(task) for task in tasks], False))) == len(tasks)
            query = (
                "SELECT custom_plans, generic_plans FROM pg_prepared_statements WHERE statement ~ 'WITH (used|known)'"
            )
            plans = connection.connection.exec_driver_sql(query).all()
        # The driver prepares a statement when it has run it five times, and the server plans it anew five times.
        assert [tuple(plan) for plan in plans] == [(5, 20)] * 2

    run(database_url, scenario)


@pytest.mark.parametrize("committed", [True, False])
def test_a_task_that_another_one_is_ending_is_waited_for(database_url, database, committed):
    async def scenario(store):
        one, other = tasks = new_tasks(2)
        await store.add_submission(submission(), tasks)
        with database.writer.connect() as connection:
            transaction = connection.begin()
            assert changes.finish(connection, [ending(one, 190.0, ok=False)], False)[0].new
            waiting = asyncio.ensure_future(store.finish_tasks([ending(other), ending(one)]))
            await until_one_waits(database)
            assert not waiting.done()
            (transaction.commit if committed else transaction.rollback)()
        outcome = await asyncio.wait_for(waiting, DEADLINE_S)
        assert [(ended.new, ended.completed_s) for ended in outcome] == [
            (True, 200.0),
            (False, 190.0) if committed else (True, 200.0),
        ]
        counts = (await store.counts())[HERE]
        assert (counts.done, counts.failed) == ((1, 1) if committed else (2, 0))
        (known,) = await store.tasks([one.task_id])
        assert known.stage is (TaskStage.FAILED if committed else TaskStage.SUCCESS)

    run(database_url, scenario)


async def until_one_waits(database: PostgresDatabase) -> None:
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    end_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < end_s:
        with database.reader.begin() as connection:
            if connection.execute(sa.text(query)).scalar_one():
                return
        await asyncio.sleep(0.02)
    raise AssertionError("nobody waits")


@pytest.mark.parametrize("held", ["tasks", "task_groups", "user_endpoints"])
def test_rows_are_locked_in_one_order(database_url, database, held):
    order = {
        "tasks": ("task_id", sorted(uuid.uuid4() for _ in range(9))),
        "task_groups": ("group_id", sorted(group.group_id for group in GROUPS)),
        "user_endpoints": ("endpoint_id", sorted(endpoint.endpoint_id for endpoint in ENDPOINTS)),
    }

    def lock(connection: sa.Connection, table: str, ids: list[uuid.UUID]) -> None:
        query = f"SELECT 1 FROM {table} WHERE {order[table][0]} = ANY (:ids) FOR UPDATE NOWAIT"
        connection.execute(sa.text(query), {"ids": ids})

    def is_free(table: str, ids: list[uuid.UUID]) -> bool:
        with database.writer.connect() as connection:
            try:
                lock(connection, table, ids)
            except sa.exc.OperationalError:
                return False
            return True

    async def scenario(store):
        places = [(group, endpoint.endpoint_id) for group in reversed(GROUPS) for endpoint in reversed(ENDPOINTS)]
        endings = []
        for (group, endpoint_id), task_id in zip(places, reversed(order["tasks"][1]), strict=True):
            task = NewTask(task_id, uuid.uuid4(), "payload")
            await store.add_submission(submission(group=group, user_endpoint_id=endpoint_id), [task])
            endings.append(ending(task, endpoint_id=endpoint_id))
        with database.writer.begin() as connection:
            lock(connection, held, order[held][1][:1])
            waiting = asyncio.ensure_future(store.finish_tasks(endings))
            await until_one_waits(database)
            free = {table: [is_free(table, [one]) for one in ids] for table, (_, ids) in order.items()}
        place = list(order).index(held)
        for number, (table, (_, ids)) in enumerate(order.items()):
            expected = [False] * len(ids) if number < place else [True] * len(ids)
            if number == place:
                expected[0] = False
            assert free[table] == expected, table
        assert all(ended.new for ended in await asyncio.wait_for(waiting, DEADLINE_S))

    run(database_url, scenario)


def test_a_group_that_goes_meanwhile_is_made_again(database_url, database):
    async def scenario(store):
        gone = replace(GROUPS[0], group_id=uuid.uuid4(), created_s=1.0)
        await store.add_submission(submission(group=gone, submitted_s=1.0), [])
        with database.writer.begin() as connection:
            connection.execute(sa.text("DELETE FROM task_groups WHERE group_id = :id"), {"id": gone.group_id})
            waiting = asyncio.ensure_future(store.add_submission(submission(group=gone), new_tasks(2)))
            await until_one_waits(database)
        await asyncio.wait_for(waiting, DEADLINE_S)
        assert await store.group(gone.group_id) == gone
        assert len(await store.unfinished_tasks()) == 2
        assert (await store.counts())[HERE] == TaskCounts(submitted=2)

    run(database_url, scenario)


def test_both_ways_at_once_end_each_task_once_and_never_stop_each_other(database_url, database):
    """Four threads add their parts of the next batch, and end their parts of this one, and then all of it."""
    threads, rounds = 4, 12
    batches = [[(new_tasks(1)[0], g, e) for g in GROUPS for e in ENDPOINTS] * 4 for _ in range(rounds)]
    batches = [[(replace(task, task_id=uuid.uuid4()), g, e) for task, g, e in batch] for batch in batches]
    start = threading.Barrier(threads)
    new = [0] * threads

    def add(number: int, task: NewTask, group: GroupRecord, endpoint: UserEndpointRecord) -> None:
        record = submission(group=group, user_endpoint_id=endpoint.endpoint_id, key=str(task.task_id))
        if number == 0:
            with database.writer.begin() as connection:
                changes.add_submission(connection, record, [task])
        else:
            with database.single.begin() as connection:
                assert connection.run(single.add_submission(record, [task]))

    def finish(number: int, endings: list[Ending]) -> None:
        if number < 2:
            with database.writer.begin() as connection:
                outcome = changes.finish(connection, endings, False)
        else:
            with database.single.begin() as connection:
                outcome = connection.run(single.finish(endings, False))
        new[number] += sum(ended.new for ended in outcome)

    def work(number: int) -> None:
        try:
            work_in_turns(number)
        except BaseException:
            start.abort()
            raise

    def work_in_turns(number: int) -> None:
        # A deadlock would be raised here: nothing is done again.
        shuffled = random.Random(number)
        for now, later in zip([[], *batches], [*batches, []], strict=True):
            endings = [ending(task, 200.0 + number, endpoint.endpoint_id) for task, _, endpoint in now]
            shuffled.shuffle(endings)
            steps = [partial(add, number, *one) for one in later[number::threads]]
            if endings:
                # By their tasks' places in the batch; groups and endpoints repeat after nine.
                own = {task.task_id for task, _, _ in now[number::threads]}
                steps.append(partial(finish, number, [one for one in endings if one.task_id in own]))
                steps.append(partial(finish, number, endings))
            shuffled.shuffle(steps)
            start.wait(DEADLINE_S)
            for step in steps:
                step()

    def work_all() -> None:
        with ThreadPoolExecutor(threads) as pool:
            outcomes = [pool.submit(work, number) for number in range(threads)]
        errors = [error for one in outcomes if (error := one.exception()) is not None]
        assert [error for error in errors if not isinstance(error, threading.BrokenBarrierError)] == []
        assert errors == []

    async def scenario(store):
        await asyncio.get_running_loop().run_in_executor(None, work_all)
        total = sum(len(batch) for batch in batches)
        counts = (await store.counts()).values()
        assert (sum(count.submitted for count in counts), sum(count.done for count in counts)) == (total, total)
        assert sum(new) == total
        assert await store.unfinished_tasks() == []

    run(database_url, scenario)


def test_what_was_done_though_the_answer_was_lost_is_told_as_done(postgres, database_url):
    async def scenario(store, proxy):
        async def losing(call):
            before = proxy.accepted
            proxy.lose_answer(b"unnest(")
            outcome = await call
            assert proxy.accepted > before, "the connection was broken"
            return outcome

        keyed, plain = submission(key="k"), submission()
        first, second, third = new_tasks(3)
        await losing(store.add_submission(keyed, [first]))
        with pytest.raises(DuplicateSubmission):
            await losing(store.add_submission(replace(keyed, submission_id=uuid.uuid4()), [third]))
        await losing(store.add_submission(plain, [second]))
        assert [one.task for one in await store.unfinished_tasks()] == [first, second]
        outcome = await losing(store.finish_tasks([ending(second, 21.0), ending(first, 20.0, ok=False)]))
        assert [(ended.new, ended.completed_s) for ended in outcome] == [(True, 21.0), (True, 20.0)]
        (again,) = await losing(store.finish_tasks([ending(first, 30.0)]))
        assert (again.new, again.completed_s) == (False, 20.0)
        assert (await store.counts())[HERE] == TaskCounts(submitted=2, done=1, failed=1)

    with TcpProxy(postgres.port) as proxy:
        run(database_url.replace(f":{postgres.port}/", f":{proxy.port}/"), scenario, proxy)


def test_small_changes_go_without_a_thread_one_at_a_time(database_url, monkeypatch):
    ways: list[str] = []
    for kind in (LoneStatements, Statements):
        run_it = kind.run

        def noted(self, change, kind=kind, run_it=run_it):
            ways.append(kind.__name__)
            return run_it(self, change)

        monkeypatch.setattr(kind, "run", noted)

    async def scenario(store):
        tasks = new_tasks(3)
        await store.add_submission(submission(), tasks)
        assert ways == ["LoneStatements"]
        ways.clear()
        await asyncio.gather(*(store.finish_tasks([ending(task)]) for task in tasks))
        assert sorted(ways) == ["LoneStatements", "Statements", "Statements"]
        ways.clear()
        many = new_tasks(40)
        await store.add_submission(submission(), many)
        assert ways == ["Statements"]
        assert (await store.counts())[HERE] == TaskCounts(submitted=43, done=3)

    run(database_url, scenario)
