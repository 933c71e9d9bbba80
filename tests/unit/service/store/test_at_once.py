"""Small changes of a SQLite store are made in the event loop itself, which never waits for them."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import uuid
from pathlib import Path

import pytest
import sqlalchemy as sa

from parsl_globus.service.store import sql, sqlite
from parsl_globus.service.store.base import Ending, GroupRecord, NewTask, SubmissionRecord, UserEndpointRecord
from parsl_globus.wire.states import TaskStage

OWNER = uuid.uuid4()
GROUP = GroupRecord(uuid.uuid4(), OWNER, has_queue=True, created_s=100.0)
USER_ENDPOINT = UserEndpointRecord(uuid.uuid4(), uuid.uuid4(), OWNER, {}, {})
LONG = "x" * 100_000
DEADLINE_S = 20


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store.db"


@pytest.fixture
def seen(monkeypatch):
    """Names of the threads in which changes were made."""
    names = []
    for name in ("add_submission", "finish"):
        original = getattr(sql.changes, name)

        def noting(*args, original=original):
            names.append(threading.current_thread().name)
            return original(*args)

        monkeypatch.setattr(sql.changes, name, noting)
    return names


def run(path: Path, scenario, **settings) -> None:
    async def main():
        store = sqlite.sqlite_store(path, **settings)
        await store.open()
        try:
            await store.put_user_endpoint(USER_ENDPOINT)
            await scenario(store)
        finally:
            await store.close()

    asyncio.run(main())


async def submit(store, *payloads: str) -> list[NewTask]:
    tasks = [NewTask(uuid.uuid4(), uuid.uuid4(), payload) for payload in payloads]
    record = SubmissionRecord(
        submission_id=uuid.uuid4(),
        owner_id=OWNER,
        group=GROUP,
        user_endpoint_id=USER_ENDPOINT.endpoint_id,
        key=None,
        resource_specification="{}",
        result_serializers=(),
        reply="{}",
        submitted_s=100.0,
    )
    await store.add_submission(record, tasks)
    return tasks


async def finish(store, tasks: list[NewTask], body: bytes = b"\x01result") -> None:
    endpoint_id = USER_ENDPOINT.endpoint_id
    done = [Ending(task.task_id, endpoint_id, TaskStage.SUCCESS, 200.0, body) for task in tasks]
    assert all(await store.finish_tasks(done))


def test_few_tasks_go_at_once_and_many_or_large_ones_by_a_thread(path, seen):
    async def scenario(store):
        await submit(store, "a")  # the first one may find that the log begins anew, which waits for the disk
        assert by_thread(seen) == [True]
        few = await submit(store, "a", "b")
        await finish(store, few)
        assert by_thread(seen) == [False, False]
        large = await submit(store, LONG)
        many = await submit(store, *["a"] * 50)
        await finish(store, many)
        assert by_thread(seen) == [True, True, True]
        one = await submit(store, "a")
        other = await submit(store, "a")
        assert by_thread(seen) == [True, False]
        await finish(store, one, LONG.encode())
        await finish(store, large)  # its arguments go
        await finish(store, other)
        assert by_thread(seen) == [True, True, True]
        await finish(store, await submit(store, "a"))
        assert by_thread(seen) == [False, False]

    run(path, scenario)


def by_thread(seen: list[str]) -> list[bool]:
    """Whether they were, of those since the last question."""
    answer = [name.startswith("store-write") for name in seen]
    assert answer == [name != threading.current_thread().name for name in seen]
    seen.clear()
    return answer


def test_with_a_wait_for_the_disk_all_go_by_a_thread(path, seen):
    async def scenario(store):
        for _ in range(3):
            await finish(store, await submit(store, "a"))
        assert by_thread(seen) == [True] * 6

    run(path, scenario, full_sync=True)


def test_while_another_process_writes_the_loop_goes_on_and_the_change_waits(path, seen):
    async def scenario(store):
        await submit(store, "first")
        seen.clear()
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        submitting = asyncio.ensure_future(submit(store, "a"))
        for _ in range(5):
            await asyncio.sleep(0)  # the loop is not held up by it
        assert not submitting.done()
        # While it waits, others wait behind it, in order.
        following = asyncio.ensure_future(submit(store, "b"))
        await asyncio.sleep(0)
        assert not seen
        other.execute("COMMIT")
        other.close()
        tasks = [*await asyncio.wait_for(submitting, DEADLINE_S), *await asyncio.wait_for(following, DEADLINE_S)]
        assert by_thread(seen) == [True, True]
        assert [waiting.task for waiting in await store.unfinished_tasks()][1:] == tasks
        await submit(store, "c")
        assert by_thread(seen) == [False]

    run(path, scenario)


def test_the_log_of_many_small_changes_is_moved_into_the_file(path, monkeypatch):
    monkeypatch.setattr(sqlite, "_CHECKPOINT_PAGES", 50)
    monkeypatch.setattr(sql, "_AT_ONCE", 10)
    log = path.with_name(f"{path.name}-wal")

    async def scenario(store):
        sizes = []
        for _ in range(200):
            await finish(store, await submit(store, "a"))
            sizes.append(log.stat().st_size)
        # By eleven submissions of at most twenty pages, and as many endings, beyond its bound.
        assert max(sizes) < (50 + 11 * 40) * 4200
        assert path.stat().st_size > 100_000

    run(path, scenario)


def test_a_change_after_the_close_has_begun_does_not_use_what_is_being_closed(path, seen):
    async def scenario(store):
        await submit(store, "a")
        await submit(store, "b")
        assert by_thread(seen) == [True, False]
        closing = asyncio.ensure_future(store.close())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="after shutdown"):
            while True:  # the threads may still take some
                await submit(store, "c")
        await closing
        assert all(by_thread(seen))

    run(path, scenario)


def test_a_commit_that_fails_leaves_no_transaction_open(path):
    database = sqlite.SqliteDatabase(path)
    database.open()
    try:
        with database.writer.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE kinds (kind INTEGER PRIMARY KEY)")
            connection.exec_driver_sql(
                "CREATE TABLE things (kind INTEGER REFERENCES kinds DEFERRABLE INITIALLY DEFERRED)"
            )
        with database.writer.begin() as connection:
            driver = connection.connection.driver_connection
        driver.execute("PRAGMA foreign_keys = ON")
        with pytest.raises(sa.exc.IntegrityError), database.writer.begin() as connection:
            connection.exec_driver_sql("INSERT INTO things VALUES (1)")
        with database.writer.begin() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM things").scalar_one() == 0
    finally:
        database.close()
