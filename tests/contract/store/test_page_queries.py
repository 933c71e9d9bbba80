"""What every store promises the page (`ViewStore`), over all of them."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace

import pytest
from test_store import GROUP, OTHER, OWNER, USER_ENDPOINT, ending, new_store, new_tasks, run, submit  # noqa: F401

from parsl_globus.service.store.base import FunctionRecord, GroupRecord
from parsl_globus.service.store.views import MinuteRow, Shown, TaskQuery
from parsl_globus.wire import codec
from parsl_globus.wire.messages import Result, ResultErrorDetails

MINE = TaskQuery(OWNER)
OTHERS_ENDPOINT = uuid.uuid4()


def failed_body(task, text: str) -> bytes:
    details = ResultErrorDetails(code="RemoteExecutionError", user_message="It failed.")
    return codec.pack(Result(task_id=task.task_id, data=text, error_details=details))


def raised_body(task, text: str) -> bytes:
    record = json.dumps({"kind": "raised", "data": None, "text": text}, separators=(",", ":"))
    return codec.pack(Result(task_id=task.task_id, data="11\n" + record))


async def somebody_elses(store, count: int = 2):
    tasks = new_tasks(count)
    group = GroupRecord(uuid.uuid4(), OTHER, has_queue=True, created_s=100.0)
    await submit(store, tasks, owner_id=OTHER, group=group, user_endpoint_id=OTHERS_ENDPOINT)
    return tasks


def ids(rows):
    return [row.task_id for row in rows]


def test_the_newest_tasks_come_first_and_are_ones_own(run):  # noqa: F811
    async def scenario(store):
        first, second = new_tasks(3), new_tasks(2)
        await submit(store, first)
        await somebody_elses(store)
        await submit(store, second, submission_id=uuid.uuid4(), submitted_s=150.0)
        rows = await store.task_rows(MINE, 10)
        assert ids(rows) == [task.task_id for task in reversed(first + second)]
        assert (rows[0].submitted_s, rows[0].owner_id, rows[0].user_endpoint_id) == (
            150.0,
            OWNER,
            USER_ENDPOINT.endpoint_id,
        )
        assert ids(await store.task_rows(MINE, 2)) == ids(rows)[:2]
        assert ids(await store.task_rows(replace(MINE, before=rows[1].sequence), 10)) == ids(rows)[2:]
        assert len(await store.task_rows(TaskQuery(None), 10)) == 7

    run(scenario)


def test_tasks_by_state(run):  # noqa: F811
    async def scenario(store):
        done, failed, waiting = tasks = new_tasks(3)
        await submit(store, tasks)
        await store.finish_tasks([ending(done), ending(failed, ok=False)])
        for shown, task in ((Shown.DONE, done), (Shown.FAILED, failed), (Shown.WAITING, waiting)):
            for owner_id in (OWNER, None):
                assert ids(await store.task_rows(TaskQuery(owner_id, shown), 10)) == [task.task_id]

    run(scenario)


def test_tasks_are_found_by_id_endpoint_and_function(run):  # noqa: F811
    async def scenario(store):
        tasks = new_tasks(2)
        await submit(store, tasks)
        await somebody_elses(store)
        await store.add_function(FunctionRecord(tasks[0].function_id, OWNER, "Simulate_50%", "code"))
        (first, _) = tasks
        low = uuid.UUID(first.task_id.hex[:10].ljust(32, "0"))
        high = uuid.UUID(first.task_id.hex[:10].ljust(32, "f"))
        assert ids(await store.task_rows(replace(MINE, task_ids=(low, high)), 10)) == [first.task_id]
        here = frozenset([USER_ENDPOINT.endpoint_id])
        assert len(await store.task_rows(TaskQuery(None, user_endpoint_ids=here), 10)) == 2
        named = await store.task_rows(replace(MINE, function_name="late_50%"), 10)
        assert [row.function_name for row in named] == ["Simulate_50%"] * 2
        assert await store.task_rows(replace(MINE, function_name="late%50"), 10) == []

    run(scenario)


@pytest.mark.parametrize("body", [failed_body, raised_body], ids=["failed", "raised"])
def test_a_failure_is_found_by_its_text(run, body):  # noqa: F811
    async def scenario(store):
        hit, miss, done = tasks = new_tasks(3)
        await submit(store, tasks)
        ok = body is raised_body
        await store.finish_tasks(
            [
                ending(hit, ok=ok, body=body(hit, "File \"a.py\"\nKeyError: 'Größe'")),
                ending(miss, ok=ok, body=body(miss, "ZeroDivisionError: division by zero")),
                ending(done, body=codec.pack(Result(task_id=done.task_id, data="00\nkeyerror"))),
            ]
        )
        for text in ("keyerror: '", "größe", 'FILE "A.PY"\nKey'):
            assert ids(await store.failure_rows(MINE, text, 10)) == [hit.task_id], text
        # The message's own words are in every one of them.
        assert await store.failure_rows(MINE, "task_id", 10) == []
        assert await store.failure_rows(TaskQuery(OTHER), "keyerror", 10) == []
        assert ids(await store.failure_rows(MINE, "error", 1)) == [miss.task_id]

    run(scenario)


def test_one_task_with_all_that_is_known(run):  # noqa: F811
    async def scenario(store):
        task, waiting = tasks = new_tasks(2)
        await submit(store, tasks)
        await store.finish_tasks([ending(task)])
        detail = await store.task_detail(task.task_id)
        assert (detail.row.completed_s, detail.body, detail.payload_chars) == (200.0, b"\x01result", None)
        assert (detail.group_id, detail.resource_specification) == (GROUP.group_id, '{"num_nodes": 1}')
        assert detail.row.head == b"\x01result"
        assert (await store.task_detail(waiting.task_id)).payload_chars > 0
        assert await store.task_detail(uuid.uuid4()) is None

    run(scenario)


def test_how_the_last_minutes_went(run):  # noqa: F811
    async def scenario(store):
        early, late, bad, out = tasks = new_tasks(4)
        await submit(store, tasks)
        await store.finish_tasks(
            [
                ending(early, completed_s=119.9),
                ending(late, completed_s=179.0),
                ending(bad, ok=False, completed_s=179.9),
                ending(out, completed_s=240.0),
            ]
        )
        here = USER_ENDPOINT.endpoint_id
        rows = await store.ended_by_minute(60.0, 240.0)
        assert sorted(rows, key=lambda row: (row.minute, row.failed)) == [
            MinuteRow(1, here, False, 1),
            MinuteRow(2, here, False, 1),
            MinuteRow(2, here, True, 1),
        ]
        latencies = await store.latencies(120.0, 180.0, 10)
        assert [(row.minute, row.user_endpoint_id) for row in latencies] == [(2, here)] * 2
        assert [row.latency_s for row in latencies] == pytest.approx([79.0, 79.9])
        assert len(await store.latencies(60.0, 240.0, 2)) == 2
        await store.ping()

    run(scenario)
