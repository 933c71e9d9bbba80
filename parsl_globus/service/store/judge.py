"""What becomes of tasks that are said to have ended: the same for every way of storing it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parsl_globus.service.store import rows
from parsl_globus.service.store.base import Ended, Ending, GroupRecord


@dataclass(frozen=True)
class Judgement:
    """See `judge`.

    Attributes:
        outcome: What `Store.finish_tasks` returns.
        taken: The endings that are to be stored, each with its task's row.
    """

    outcome: list[Ended | None]
    taken: list[tuple[Any, Ending]]


def judge(known: Mapping[uuid.UUID, Any], endings: Sequence[Ending], again: bool) -> Judgement:
    """Tell which endings count.

    Args:
        known: The rows of the tasks as they were before, each with its submission's user endpoint and its group.
        endings: What is said of them.
        again: This may have been stored before, with the answer lost: what is there already may be this.
    """
    groups: dict[uuid.UUID, GroupRecord] = {}
    first: dict[uuid.UUID, float] = {}
    taken: list[tuple[Any, Ending]] = []
    outcome: list[Ended | None] = []
    for ending in endings:
        row = known.get(ending.task_id)
        if row is None or row.user_endpoint_id != ending.user_endpoint_id:
            outcome.append(None)
            continue
        group = groups.get(row.group_id)
        if group is None:
            group = groups[row.group_id] = rows.to_group(row)
        ended_s = first.get(ending.task_id, row.completed_s)
        if ended_s is not None:
            own = again and ending.task_id not in first and ended_s == ending.completed_s
            first[ending.task_id] = ended_s
            outcome.append(Ended(ending.task_id, new=own, group=group, completed_s=ended_s))
            continue
        first[ending.task_id] = ending.completed_s
        taken.append((row, ending))
        outcome.append(Ended(ending.task_id, new=True, group=group, completed_s=ending.completed_s))
    return Judgement(outcome, taken)
