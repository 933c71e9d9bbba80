"""Changes of several statements, each inside one transaction of its caller.

Several processes may make them at once. So rows are locked in one order everywhere: tasks by id, groups by id, then
user endpoints by id; and whoever waits sees what the other one has done. `single` has the most frequent two of them as
one statement each.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from parsl_globus.service.store import rows
from parsl_globus.service.store.base import (
    Ended,
    Ending,
    EndpointGone,
    GroupRecord,
    GroupTaken,
    NewTask,
    Purged,
    SubmissionRecord,
)
from parsl_globus.service.store.judge import judge
from parsl_globus.service.store.prepared import Prepared
from parsl_globus.service.store.tables import GROUPS, LEASES, SETTINGS, SUBMISSIONS, TASKS, TOKENS, USER_ENDPOINTS
from parsl_globus.wire.states import TaskStage

_X = TypeVar("_X")

#: Values in one `IN (...)`: SQLite before 3.32 takes no more than 999 in a statement.
_IN_LIMIT = 900
#: Submissions or groups looked through in one step of a purge.
_PURGE_PAGE = 200


def chunks(values: Sequence[_X]) -> Iterator[Sequence[_X]]:
    """Parts of `values` that fit into a statement."""
    for start in range(0, len(values), _IN_LIMIT):
        yield values[start : start + _IN_LIMIT]


def select_in(
    connection: sa.Connection, query: sa.Select[Any], column: sa.ColumnElement[Any], values: Sequence[Any]
) -> Iterator[sa.Row[Any]]:
    """The rows of `query` whose `column` is one of `values`."""
    for chunk in chunks(values):
        yield from connection.execute(query.where(column.in_(chunk)))


def insert(connection: sa.Connection, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    """An insert that may say what happens on a conflict, which both databases write alike; its row count counts."""
    new = postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)
    return new.execution_options(preserve_rowcount=True)


def upsert(connection: sa.Connection, table: sa.Table, values: Sequence[dict[str, Any]]) -> None:
    """Insert rows, or change those of the same key; columns that `values` don't name stay."""
    if not values:
        return
    (key,) = table.primary_key.columns
    statement = insert(connection, table)
    changed = {name: statement.excluded[name] for name in values[0] if name != key.name}
    connection.execute(
        statement.on_conflict_do_update(index_elements=[key], set_=changed),
        sorted(values, key=lambda value: str(value[key.name])),
    )


# ---- submissions ----------------------------------------------------------------------------------------------

_GROUP_UPDATE = Prepared(
    sa.update(GROUPS)
    .where(GROUPS.c.group_id == sa.bindparam("b_group_id"), GROUPS.c.owner_id == sa.bindparam("b_owner_id"))
    .values(
        used_s=sa.bindparam("b_used_s"),
        has_queue=GROUPS.c.has_queue | sa.bindparam("b_has_queue", type_=sa.Boolean),
    )
)
_SUBMISSION_INSERT = Prepared(
    sa.insert(SUBMISSIONS), [column.key for column in SUBMISSIONS.c if column is not SUBMISSIONS.c.number]
)
_TASKS_INSERT = Prepared(sa.insert(TASKS), ["task_id", "submission", "function_id", "payload", "stage"])
_SUBMITTED_UPDATE = Prepared(
    sa.update(USER_ENDPOINTS)
    .where(USER_ENDPOINTS.c.endpoint_id == sa.bindparam("b_endpoint_id"))
    .values(submitted=USER_ENDPOINTS.c.submitted + sa.bindparam("b_count"))
)
#: For `Store.submission_reply`; takes `b_owner_id` and `b_key`.
REPLY_QUERY = sa.select(SUBMISSIONS.c.reply).where(
    SUBMISSIONS.c.owner_id == sa.bindparam("b_owner_id"), SUBMISSIONS.c.key == sa.bindparam("b_key")
)


def add_submission(connection: sa.Connection, submission: SubmissionRecord, tasks: Sequence[NewTask]) -> None:
    """See `Store.add_submission`; a key that is taken is an `IntegrityError`."""
    _put_group(connection, submission.group, submission.submitted_s)
    # Before the submission, as in `single`: an insert waits for one of the same key.
    counted = {"b_endpoint_id": submission.user_endpoint_id, "b_count": len(tasks)}
    if _SUBMITTED_UPDATE.change(connection, counted) == 0:
        raise EndpointGone(endpoint_id=submission.user_endpoint_id)
    number = _SUBMISSION_INSERT.insert(connection, rows.of_submission(submission))
    _insert_tasks(connection, number, tasks)


def _put_group(connection: sa.Connection, group: GroupRecord, now_s: float) -> None:
    known = {
        "b_group_id": group.group_id,
        "b_owner_id": group.owner_id,
        "b_used_s": now_s,
        "b_has_queue": group.has_queue,
    }
    if _GROUP_UPDATE.change(connection, known):
        return
    # It is new, unless another process makes it right now, or another identity has.
    statement = insert(connection, GROUPS)
    new = statement.excluded
    statement = statement.on_conflict_do_update(
        index_elements=[GROUPS.c.group_id],
        set_={"used_s": new.used_s, "has_queue": GROUPS.c.has_queue | new.has_queue},
        where=GROUPS.c.owner_id == new.owner_id,
    )
    if connection.execute(statement, {**vars(group), "used_s": now_s}).rowcount == 0:
        raise GroupTaken(group_id=group.group_id)


def _insert_tasks(connection: sa.Connection, submission: int, tasks: Sequence[NewTask]) -> None:
    if not tasks:
        return
    stage = TaskStage.PUBLISHED.value
    _TASKS_INSERT.change_all(
        connection,
        [
            {
                "task_id": task.task_id,
                "submission": submission,
                "function_id": task.function_id,
                "payload": task.payload,
                "stage": stage,
            }
            for task in tasks
        ],
    )


def mark_sent(connection: sa.Connection, sender: str, submission_ids: Sequence[uuid.UUID]) -> None:
    """See `Store.mark_sent`."""
    for chunk in chunks(submission_ids):
        here = (SUBMISSIONS.c.sender == sender) & SUBMISSIONS.c.submission_id.in_(chunk)
        connection.execute(sa.update(SUBMISSIONS).where(here).values(sender=None))


def adopt_unsent(
    connection: sa.Connection, sender: str, senders: str, now_s: float, limit: int, tried: Collection[uuid.UUID]
) -> list[uuid.UUID]:
    """See `Store.adopt_unsent`; `tried` are those that it may have adopted before, with the answer lost."""
    names = connection.execute(sa.select(LEASES.c.name).where(LEASES.c.until_s > now_s)).scalars()
    alive = [name.removeprefix(senders) for name in names if name.startswith(senders)]
    again = (SUBMISSIONS.c.sender == sender) & SUBMISSIONS.c.submission_id.in_(list(tried))
    query = (
        sa.select(SUBMISSIONS.c.number, SUBMISSIONS.c.submission_id)
        .where(SUBMISSIONS.c.sender.is_not(None), SUBMISSIONS.c.sender.not_in([*alive, sender]) | again)
        .order_by(SUBMISSIONS.c.number)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    found = connection.execute(query).all()
    for chunk in chunks([row.number for row in found]):
        connection.execute(sa.update(SUBMISSIONS).where(SUBMISSIONS.c.number.in_(chunk)).values(sender=sender))
    return [row.submission_id for row in found]


# ---- endings --------------------------------------------------------------------------------------------------

# Locked until the end of the transaction: another process with the same result waits, and then sees that it has ended.
_FINISH_QUERY = (
    sa.select(
        TASKS.c.sequence,
        TASKS.c.task_id,
        TASKS.c.stage,
        TASKS.c.completed_s,
        SUBMISSIONS.c.user_endpoint_id,
        *rows.GROUP_COLUMNS,
    )
    .join(SUBMISSIONS, SUBMISSIONS.c.number == TASKS.c.submission)
    .join(GROUPS, GROUPS.c.group_id == SUBMISSIONS.c.group_id)
)
_FINISH_LOCK = (
    _FINISH_QUERY.where(TASKS.c.task_id.in_(sa.bindparam("b_task_ids", expanding=True)))
    .order_by(TASKS.c.task_id)
    .with_for_update(of=TASKS)
)
_FINISH_ONE = Prepared(_FINISH_QUERY.where(TASKS.c.task_id == sa.bindparam("b_task_id")))
_GROUP_TOUCH = Prepared(
    sa.update(GROUPS).where(GROUPS.c.group_id == sa.bindparam("b_group_id")).values(used_s=sa.bindparam("b_used_s"))
)
_COUNT_UPDATES = {
    name: Prepared(
        sa.update(USER_ENDPOINTS)
        .where(USER_ENDPOINTS.c.endpoint_id == sa.bindparam("b_endpoint_id"))
        .values({name: USER_ENDPOINTS.c[name] + sa.bindparam("b_count")})
    )
    for name in ("done", "failed")
}
# The payload goes: nobody needs it any more, and it is most of a task's size.
_FINISH_UPDATE = Prepared(
    sa.update(TASKS)
    .where(TASKS.c.sequence == sa.bindparam("b_sequence"), TASKS.c.completed_s.is_(None))
    .values(
        stage=sa.bindparam("b_stage"),
        completed_s=sa.bindparam("b_completed_s"),
        body=sa.bindparam("b_body"),
        payload=sa.null(),
    )
)


def finish(connection: sa.Connection, endings: Sequence[Ending], again: bool) -> list[Ended | None]:
    """See `Store.finish_tasks`; `again`: this may have been done before, with the answer lost."""
    judgement = judge(_lock_tasks(connection, endings), endings, again)
    if judgement.taken:
        _store_endings(connection, judgement.taken)
    return judgement.outcome


def _store_endings(connection: sa.Connection, taken: Sequence[tuple[Any, Ending]]) -> None:
    used: dict[uuid.UUID, float] = {}
    updates: list[dict[str, Any]] = []
    counted: Counter[tuple[uuid.UUID, TaskStage]] = Counter()
    for row, ending in taken:
        counted[(ending.user_endpoint_id, ending.stage)] += 1
        used[row.group_id] = max(ending.completed_s, used.get(row.group_id, 0.0))
        updates.append(
            {
                "b_sequence": row.sequence,
                "b_stage": ending.stage.value,
                "b_completed_s": ending.completed_s,
                "b_body": ending.body,
            }
        )
    _FINISH_UPDATE.change_all(connection, updates)
    _touch_groups(connection, used)
    _count_endings(connection, counted)


def _lock_tasks(connection: sa.Connection, endings: Sequence[Ending]) -> dict[uuid.UUID, sa.Row[Any]]:
    if connection.dialect.name == "sqlite":
        # A writer is alone there; the order would only cost time.
        ids = {ending.task_id for ending in endings}
        return {task_id: row for task_id in ids for row in _FINISH_ONE.rows(connection, {"b_task_id": task_id})}
    in_order = sorted(ending.task_id for ending in endings)
    return {
        row.task_id: row
        for chunk in chunks(in_order)
        for row in connection.execute(_FINISH_LOCK, {"b_task_ids": list(chunk)})
    }


def _touch_groups(connection: sa.Connection, used: Mapping[uuid.UUID, float]) -> None:
    values = [{"b_group_id": group_id, "b_used_s": used[group_id]} for group_id in sorted(used)]
    _GROUP_TOUCH.change_all(connection, values)


def _count_endings(connection: sa.Connection, counted: Counter[tuple[uuid.UUID, TaskStage]]) -> None:
    for (endpoint_id, stage), count in sorted(counted.items()):
        update = _COUNT_UPDATES["done" if stage is TaskStage.SUCCESS else "failed"]
        update.change(connection, {"b_endpoint_id": endpoint_id, "b_count": count})


# ---- what is old ----------------------------------------------------------------------------------------------


def purge(connection: sa.Connection, before_s: float, now_s: float, limit: int) -> Purged:
    """See `Store.purge`."""
    connection.execute(sa.delete(TOKENS).where(TOKENS.c.expires_s <= now_s))
    # Of processes that were killed; a living one renews its own.
    connection.execute(sa.delete(LEASES).where(LEASES.c.until_s < before_s))
    query = sa.select(TASKS.c.sequence, TASKS.c.submission).where(TASKS.c.completed_s < before_s).limit(limit)
    tasks = connection.execute(query).all()
    for chunk in chunks([row.sequence for row in tasks]):
        connection.execute(sa.delete(TASKS).where(TASKS.c.sequence.in_(chunk)))
    empty = ~sa.exists().where(TASKS.c.submission == SUBMISSIONS.c.number)
    old = SUBMISSIONS.c.submitted_s < before_s
    for chunk in chunks(sorted({row.submission for row in tasks})):
        connection.execute(sa.delete(SUBMISSIONS).where(SUBMISSIONS.c.number.in_(chunk), old, empty))
    if tasks:
        return Purged([], more=True)
    # What is left are submissions that never had tasks.
    left = connection.execute(sa.select(SUBMISSIONS.c.number).where(old, empty).limit(_PURGE_PAGE)).scalars().all()
    if left:
        connection.execute(sa.delete(SUBMISSIONS).where(SUBMISSIONS.c.number.in_(left)))
        return Purged([], more=True)
    return _purge_groups(connection, before_s)


def _purge_groups(connection: sa.Connection, before_s: float) -> Purged:
    used = sa.exists().where(SUBMISSIONS.c.group_id == GROUPS.c.group_id)
    query = (
        sa.select(*rows.GROUP_COLUMNS)
        .where(GROUPS.c.created_s < before_s, GROUPS.c.used_s < before_s, ~used)
        .limit(_PURGE_PAGE)
        .with_for_update(skip_locked=True)  # One that is locked is being used.
    )
    gone = [rows.to_group(row) for row in connection.execute(query)]
    for chunk in chunks([group.group_id for group in gone]):
        connection.execute(sa.delete(GROUPS).where(GROUPS.c.group_id.in_(chunk)))
    return Purged(gone, more=len(gone) == _PURGE_PAGE)


# ---- what processes share -------------------------------------------------------------------------------------


#: The setting that `Store.endpoints_version` reads.
ENDPOINTS_VERSION = "endpoints_version"


def set_endpoints_version(connection: sa.Connection) -> None:
    """Have other processes read the endpoints again."""
    upsert(connection, SETTINGS, [{"name": ENDPOINTS_VERSION, "value": uuid.uuid4().hex}])


def lease(connection: sa.Connection, name: str, holder: str, now_s: float, life_s: float) -> bool:
    """See `Store.lease`."""
    statement = insert(connection, LEASES)
    new = statement.excluded
    statement = statement.on_conflict_do_update(
        index_elements=[LEASES.c.name],
        set_={"holder": new.holder, "until_s": new.until_s},
        where=(LEASES.c.holder == new.holder) | (LEASES.c.until_s <= now_s),
    )
    values = {"name": name, "holder": holder, "until_s": now_s + life_s}
    return connection.execute(statement, values).rowcount > 0
