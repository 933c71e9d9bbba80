"""What the page asks of a store: rows to look at, never more of them than fit on a page, and how a last hour went."""

from __future__ import annotations

import enum
import uuid
from dataclasses import dataclass, field
from typing import Protocol

from parsl_globus.wire.states import TaskStage

#: How much of a result message a row carries: enough to tell a value from an exception that an app raised.
HEAD_BYTES = 400
#: What a result message has near its beginning when `GlobusComputeExecutor`'s runner says that the app failed; our
#: workers write its record without spaces, public ones with some.
RUNNER_FAILURES = tuple(
    f'\\"kind\\":{space}\\"{rest}'.encode()
    for space in ("", " ")
    for rest in (
        *(f'{kind}\\"' for kind in ("raised", "broken", "mismatch")),
        f'value\\",{space}\\"raised\\":',
    )
)
#: A search looks at so many of the newest ended tasks, and at failures of no more than so many bytes.
SEARCH_TASKS = 20_000
SEARCH_BYTES = 64 * 1024 * 1024


class Shown(str, enum.Enum):
    """Which tasks are listed."""

    ALL = "all"
    WAITING = "waiting"
    DONE = "done"
    FAILED = "failed"

    @property
    def stages(self) -> tuple[TaskStage, ...]:
        """The stages that count as this."""
        if self is Shown.WAITING:
            return (TaskStage.RECEIVED, TaskStage.PUBLISHED)
        if self is Shown.DONE:
            return (TaskStage.SUCCESS,)
        return (TaskStage.FAILED,) if self is Shown.FAILED else tuple(TaskStage)


@dataclass(frozen=True)
class TaskQuery:
    """Which tasks are wanted.

    Attributes:
        owner_id: Whose; `None` for everybody's.
        shown: In which state.
        task_ids: The only ones, as the first and the last of a range of ids; `None` for any.
        user_endpoint_ids: Sent to one of these; `None` for any.
        function_name: A part of the function's name, whatever its case; `None` for any.
        before: Only tasks whose sequence is below this, for the next page.
    """

    owner_id: uuid.UUID | None
    shown: Shown = Shown.ALL
    task_ids: tuple[uuid.UUID, uuid.UUID] | None = None
    user_endpoint_ids: frozenset[uuid.UUID] | None = None
    function_name: str | None = None
    before: int | None = None


@dataclass(frozen=True)
class TaskRow:
    """A task in a list.

    Attributes:
        sequence: Its place in the order of submission.
        task_id: Its id.
        owner_id: Whose it is.
        user_endpoint_id: Where it went.
        function_id: What it runs.
        function_name: Its function's name; empty when that is not known any more.
        stage: Where it stands.
        submitted_s: When it was accepted.
        completed_s: When it ended, or `None`.
        head: The beginning of its result message.
    """

    sequence: int
    task_id: uuid.UUID
    owner_id: uuid.UUID
    user_endpoint_id: uuid.UUID
    function_id: uuid.UUID
    function_name: str
    stage: TaskStage
    submitted_s: float
    completed_s: float | None
    head: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class TaskDetail:
    """One task with all that is known of it.

    Attributes:
        row: As in lists.
        group_id: Its task group.
        resource_specification: JSON text.
        payload_chars: How long its packed arguments are; `None` once it has ended, as they are gone then.
        body: Its result message, or `None`.
    """

    row: TaskRow
    group_id: uuid.UUID
    resource_specification: str
    payload_chars: int | None
    body: bytes | None = field(repr=False)


@dataclass(frozen=True)
class MinuteRow:
    """What ended in one minute at one user endpoint.

    Attributes:
        minute: Minutes since the epoch.
        user_endpoint_id: Where.
        failed: Whether with an error.
        count: How many.
    """

    minute: int
    user_endpoint_id: uuid.UUID
    failed: bool
    count: int


@dataclass(frozen=True)
class LatencyRow:
    """How long one task took.

    Attributes:
        minute: In which it ended, since the epoch.
        user_endpoint_id: Where.
        latency_s: From its acceptance to its end.
    """

    minute: int
    user_endpoint_id: uuid.UUID
    latency_s: float


class ViewStore(Protocol):
    """The part of a store behind the page. Slow questions must not hold up the others."""

    async def task_rows(self, query: TaskQuery, limit: int) -> list[TaskRow]:
        """The newest tasks that fit, newest first.

        With a function's name, or where failures are searched, only the newest `SEARCH_TASKS` are looked at.
        """

    async def failure_rows(self, query: TaskQuery, text: str, limit: int) -> list[TaskRow]:
        """The newest failed tasks that fit and whose error has `text`, whatever its case; see `task_rows`.

        Tasks whose app raised count as failed here, though they ended with a result, which tells the exception.
        """

    async def task_detail(self, task_id: uuid.UUID) -> TaskDetail | None:
        """Look up one task."""

    async def ended_by_minute(self, since_s: float, until_s: float) -> list[MinuteRow]:
        """How many tasks ended from `since_s` until before `until_s`."""

    async def latencies(self, since_s: float, until_s: float, limit: int) -> list[LatencyRow]:
        """How long the first `limit` tasks took that ended from `since_s` until before `until_s`."""

    async def ping(self) -> None:
        """Return when the store answers."""
