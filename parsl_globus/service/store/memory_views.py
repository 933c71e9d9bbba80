"""The page's questions to a store in memory."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from parsl_globus.service.store.failures import failure_of, looks_failed
from parsl_globus.service.store.views import HEAD_BYTES, LatencyRow, MinuteRow, TaskDetail, TaskQuery, TaskRow
from parsl_globus.wire.states import TaskStage

if TYPE_CHECKING:
    from parsl_globus.service.store.base import FunctionRecord
    from parsl_globus.service.store.memory import _Task


class MemoryViews:
    """See `ViewStore`; mixed into `MemoryStore`."""

    _tasks: dict[uuid.UUID, _Task]
    _functions: dict[uuid.UUID, FunctionRecord]

    async def task_rows(self, query: TaskQuery, limit: int) -> list[TaskRow]:
        return list(self._rows(query))[:limit]

    async def failure_rows(self, query: TaskQuery, text: str, limit: int) -> list[TaskRow]:
        wanted = text.casefold()
        found = []
        for row in self._rows(query):
            body = self._tasks[row.task_id].body
            if body is not None and looks_failed(row.stage, row.head):
                failure = failure_of(body)
                if failure is not None and failure.has(wanted):
                    found.append(row)
        return found[:limit]

    def _rows(self, query: TaskQuery) -> Iterator[TaskRow]:
        for task in reversed(self._tasks.values()):
            row = self._row(task)
            if (
                query.owner_id in (None, row.owner_id)
                and row.stage in query.shown.stages
                and (query.task_ids is None or query.task_ids[0] <= row.task_id <= query.task_ids[1])
                and (query.user_endpoint_ids is None or row.user_endpoint_id in query.user_endpoint_ids)
                and (query.function_name is None or query.function_name.casefold() in row.function_name.casefold())
                and (query.before is None or row.sequence < query.before)
            ):
                yield row

    def _row(self, task: _Task) -> TaskRow:
        function = self._functions.get(task.new.function_id)
        return TaskRow(
            sequence=task.sequence,
            task_id=task.new.task_id,
            owner_id=task.submission.owner_id,
            user_endpoint_id=task.submission.user_endpoint_id,
            function_id=task.new.function_id,
            function_name=function.name if function is not None else "",
            stage=task.stage,
            submitted_s=task.submission.submitted_s,
            completed_s=task.completed_s,
            head=(task.body or b"")[:HEAD_BYTES],
        )

    async def task_detail(self, task_id: uuid.UUID) -> TaskDetail | None:
        task = self._tasks.get(task_id)
        if task is None:
            return None
        return TaskDetail(
            self._row(task),
            task.submission.group.group_id,
            task.submission.resource_specification,
            None if task.stage.final else len(task.new.payload),
            task.body,
        )

    def _ended(self, since_s: float, until_s: float) -> list[tuple[float, _Task]]:
        ended = [(task.completed_s, task) for task in self._tasks.values() if task.completed_s is not None]
        return sorted((pair for pair in ended if since_s <= pair[0] < until_s), key=lambda pair: pair[0])

    async def ended_by_minute(self, since_s: float, until_s: float) -> list[MinuteRow]:
        counted: Counter[tuple[int, uuid.UUID, bool]] = Counter(
            (int(ended_s // 60), task.submission.user_endpoint_id, task.stage is TaskStage.FAILED)
            for ended_s, task in self._ended(since_s, until_s)
        )
        return [MinuteRow(*key, count) for key, count in counted.items()]

    async def latencies(self, since_s: float, until_s: float, limit: int) -> list[LatencyRow]:
        return [
            LatencyRow(int(ended_s // 60), task.submission.user_endpoint_id, ended_s - task.submission.submitted_s)
            for ended_s, task in self._ended(since_s, until_s)[:limit]
        ]

    async def ping(self) -> None:
        return
