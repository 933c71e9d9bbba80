"""What each task goes through twice, storing and ending, as one statement each: for PostgreSQL.

A transaction of several statements is as many round trips, and two more to begin and to commit it. Here the server does
both by itself. `changes` does the same the usual way, and whatever these statements leave to it.

Rows are locked in the order that `changes` tells: each part of a statement takes its rows from the one before, and is
done when the next one, which sorts or counts them, begins.

How the server goes about it must not depend on what it knows of the tables, which is old when they grow fast:

* A plan for certain values takes longer to make than to follow. Behind a `SELECT` the planner can't see how long an
  array is, so it finds such plans no better, and keeps one for all.
* What is joined `LATERAL` with a lock in it is looked up for one row after another, by an index. Joined otherwise,
  small tables are read as a whole, and go on being so for a minute when they are small no more.

Arrays go in the binary format (`%(name)b`): as text, bytes cost ten times as much.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from parsl_globus.service.store import rows
from parsl_globus.service.store.base import Ended, Ending, NewTask, SubmissionRecord
from parsl_globus.service.store.judge import judge
from parsl_globus.service.store.statements import Single
from parsl_globus.service.store.tables import TASKS
from parsl_globus.wire.states import TaskStage

#: Up to so many bytes, and so many more for each task or ending: PostgreSQL copies arrays several times, and soon to
#: files, which costs more than what is spared.
_FIT_BYTES, _FIT_EACH_BYTES = 128 * 1024, 16 * 1024

# The group first, and nothing at all where the endpoint is gone. Numbers are given to tasks as they come out sorted.
_ADD = f"""
WITH used AS (
    UPDATE task_groups SET used_s = %(submitted_s)s, has_queue = has_queue OR %(has_queue)s
    WHERE group_id = %(group_id)s AND owner_id = %(group_owner_id)s
        AND EXISTS (SELECT FROM user_endpoints WHERE endpoint_id = %(user_endpoint_id)s)
    RETURNING group_id
), counted AS (
    UPDATE user_endpoints SET submitted = submitted + cardinality(%(task_ids)b::uuid[])
    WHERE endpoint_id = %(user_endpoint_id)s AND EXISTS (SELECT FROM used)
    RETURNING endpoint_id
), added AS (
    INSERT INTO submissions (
        submission_id, owner_id, group_id, user_endpoint_id, key, resource_specification, result_serializers, reply,
        submitted_s, sender
    )
    SELECT
        %(submission_id)s, %(owner_id)s, %(group_id)s, %(user_endpoint_id)s, %(key)s, %(resource_specification)s,
        %(result_serializers)s, %(reply)s, %(submitted_s)s, %(sender)s
    FROM counted
    RETURNING number
), tasks_added AS (
    INSERT INTO tasks (task_id, submission, function_id, payload, stage)
    SELECT new.task_id, added.number, new.function_id, new.payload, '{TaskStage.PUBLISHED.value}'
    FROM added, unnest(
        (SELECT %(task_ids)b::uuid[]), (SELECT %(function_ids)b::uuid[]), (SELECT %(payloads)b::bytea[])
    ) WITH ORDINALITY AS new (task_id, function_id, payload, place)
    ORDER BY new.place
)
SELECT number FROM added
"""

# `known` are the tasks as they were, locked one after another in the order given: one that another process is ending is
# looked at again when that is done.
_FINISH = f"""
WITH known AS (
    SELECT *
    FROM unnest(
        (SELECT %(task_ids)b::uuid[]), (SELECT %(endpoint_ids)b::uuid[]), (SELECT %(stages)b::text[]),
        (SELECT %(times)b::float8[]), (SELECT %(bodies)b::bytea[])
    ) AS new (task_id, endpoint_id, stage, ended_s, body)
    CROSS JOIN LATERAL (
        SELECT
            tasks.sequence, tasks.completed_s, submissions.user_endpoint_id,
            task_groups.group_id, task_groups.owner_id, task_groups.has_queue, task_groups.created_s
        FROM tasks
        JOIN submissions ON submissions.number = tasks.submission
        JOIN task_groups ON task_groups.group_id = submissions.group_id
        WHERE tasks.task_id = new.task_id
        FOR UPDATE OF tasks
    ) AS old
), ended AS (
    UPDATE tasks SET stage = known.stage, completed_s = known.ended_s, body = known.body, payload = NULL
    FROM known
    WHERE tasks.sequence = known.sequence AND known.completed_s IS NULL AND known.user_endpoint_id = known.endpoint_id
    RETURNING known.group_id, known.endpoint_id, known.stage, known.ended_s
), used AS (
    SELECT group_id, max(ended_s) AS used_s FROM ended GROUP BY group_id
), used_locked AS (
    SELECT group_id, used.used_s FROM task_groups JOIN used USING (group_id)
    ORDER BY group_id FOR NO KEY UPDATE OF task_groups
), touched AS (
    UPDATE task_groups SET used_s = used_locked.used_s
    FROM used_locked WHERE task_groups.group_id = used_locked.group_id
    RETURNING used_locked.group_id
), counts AS (
    SELECT
        endpoint_id,
        count(*) FILTER (WHERE stage = '{TaskStage.SUCCESS.value}') AS done,
        count(*) FILTER (WHERE stage <> '{TaskStage.SUCCESS.value}') AS failed
    FROM ended WHERE (SELECT count(*) FROM touched) > 0
    GROUP BY endpoint_id
), counts_locked AS (
    SELECT endpoint_id, counts.done, counts.failed FROM user_endpoints JOIN counts USING (endpoint_id)
    ORDER BY endpoint_id FOR NO KEY UPDATE OF user_endpoints
), counted AS (
    UPDATE user_endpoints
    SET done = user_endpoints.done + counts_locked.done, failed = user_endpoints.failed + counts_locked.failed
    FROM counts_locked WHERE user_endpoints.endpoint_id = counts_locked.endpoint_id
)
SELECT task_id, completed_s, user_endpoint_id, group_id, owner_id, has_queue, created_s FROM known
"""


def _binding() -> Callable[[str], Any]:
    dialect: sa.Dialect = postgresql.psycopg.dialect()  # type: ignore[no-untyped-call]
    bind = TASKS.c.payload.type.dialect_impl(dialect).bind_processor(dialect)
    assert bind is not None  # text becomes bytes
    return bind


_stored = _binding()


class _Known(NamedTuple):
    """A row of it."""

    task_id: uuid.UUID
    completed_s: float | None
    user_endpoint_id: uuid.UUID
    group_id: uuid.UUID
    owner_id: uuid.UUID
    has_queue: bool
    created_s: float


def fits(sizes_bytes: Sequence[int]) -> bool:
    """Whether tasks or endings of these sizes are to go this way: there must be one at least."""
    return len(sizes_bytes) > 0 and sum(sizes_bytes) <= _FIT_BYTES + _FIT_EACH_BYTES * len(sizes_bytes)


def add_submission(submission: SubmissionRecord, tasks: Sequence[NewTask]) -> Single[bool]:
    """See `Store.add_submission`; a key that is taken is an `IntegrityError`.

    Args:
        submission: As there.
        tasks: At least one.

    Returns:
        The change; it has no outcome when not all is as it mostly is: `changes.add_submission` does it then, or tells
        why it can't be done.
    """
    values: dict[str, Any] = {
        **rows.of_submission(submission),
        "group_owner_id": submission.group.owner_id,
        "has_queue": submission.group.has_queue,
        "task_ids": [task.task_id for task in tasks],
        "function_ids": [task.function_id for task in tasks],
        "payloads": [_stored(task.payload) for task in tasks],
    }
    return Single(_ADD, values, lambda found: True if found else None)


def finish(endings: Sequence[Ending], again: bool) -> Single[list[Ended | None]]:
    """See `Store.finish_tasks` and `changes.finish`.

    Args:
        endings: At least one, and each of another task.
        again: As there.
    """
    in_order = sorted(endings, key=lambda ending: ending.task_id)
    values: dict[str, Any] = {
        "task_ids": [ending.task_id for ending in in_order],
        "endpoint_ids": [ending.user_endpoint_id for ending in in_order],
        "stages": [ending.stage.value for ending in in_order],
        "times": [float(ending.completed_s) for ending in in_order],
        "bodies": [ending.body for ending in in_order],
    }

    def outcome(found: list[tuple[Any, ...]]) -> list[Ended | None]:
        known = map(_Known._make, found)
        return judge({row.task_id: row for row in known}, endings, again).outcome

    return Single(_FINISH, values, outcome)
