"""What runs tasks: the interface of engines."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from parsl_globus.endpoint.failures import BAD_RESOURCE_SPECIFICATION
from parsl_globus.endpoint.marks import mark_name

#: Engines name our worker function by its import path; the agent itself never imports it.
RUN_TASK = "parsl_globus.worker.run.run_task"


@dataclass(frozen=True)
class EngineTask:
    """A task for an engine.

    Attributes:
        body: The packed task message.
        resource_specification: The task's own, empty for none.
        result_serializers: Strategies that the caller asks for, in order of preference.
        attempt: How often it was handed over, this time included.
        function: The id of its function.
        sender_python: Minor version of the Python that its function comes from, for example "3.12", if that is known.
        body_file: Where the body is as well, if it is long; workers that reach any of the endpoint's files reach this.
    """

    task_id: uuid.UUID
    body: bytes = field(repr=False)
    resource_specification: Mapping[str, Any] = field(default_factory=dict)
    result_serializers: Sequence[str] | None = None
    attempt: int = 1
    function: str = ""
    sender_python: str | None = None
    body_file: Path | None = None


class EngineFailure(Exception):
    """Why a task has no result from a worker.

    Attributes:
        code: As in the result that the caller gets.
        lost: Whether the system lost the task, so that the configuration may have it run again.
        begun: Whether it may have begun; if not, it never will, and runs again whatever the configuration says.
    """

    def __init__(self, code: str, text: str, *, lost: bool, begun: bool = True) -> None:
        super().__init__(text)
        self.code = code
        self.lost = lost
        self.begun = begun


@dataclass(frozen=True)
class EngineStatus:
    """What an engine does, under the names of the status report (PROTOCOL.md section 5).

    Attributes:
        pending_tasks: Those of the outstanding tasks that no worker pool has, as far as that can be told.
        outstanding_tasks: All that have not ended, each of those that share a trip included.
        blocks: Job id and state of each block by its id, which is ours; Parsl's monitoring of a workflow shows it.
            `None` where there are no blocks.
    """

    managers: int = 0
    active_managers: int = 0
    total_workers: int = 0
    idle_workers: int = 0
    pending_tasks: int = 0
    outstanding_tasks: int = 0
    total_tasks: int = 0
    scaling_enabled: bool = False
    max_blocks: int = 1
    min_blocks: int = 1
    nodes_per_block: int = 1
    engine_type: str = ""
    provider_type: str | None = None
    queue: str | None = None
    account: str | None = None
    node_info: Mapping[str, Any] = field(default_factory=dict)
    blocks: Mapping[str, Any] | None = None


class Engine(Protocol):
    """Runs tasks somewhere.

    Every submitted task's future ends: with the packed result message of a worker, or with `EngineFailure`. No order
    is promised. `submit` must be called from one thread at a time; futures end on any thread.
    """

    def start(self) -> None:
        """Get ready to take tasks.

        Raises:
            Exception: Whatever the engine's parts raise; nothing is left running then.
        """

    def submit(self, task: EngineTask) -> Future[bytes]:
        """Run `task`; never raises."""

    def submit_all(self, tasks: Sequence[EngineTask]) -> list[Future[bytes]]:
        """Run `tasks`, as `submit` does; there may be a cheaper way for many."""

    def status(self) -> EngineStatus:
        """What it does now."""

    def failed(self) -> str | None:
        """Why it can't run anything any more, or `None` as long as it can."""

    def shutdown(self) -> None:
        """End all that it started. Tasks that have not ended fail with `EngineFailure`."""


@dataclass(frozen=True)
class WorkerSettings:
    """What each call of the worker function is given.

    Attributes:
        endpoint_id: Told in results.
        run_dir: Folder in which tasks run.
        marks_dir: Folder of the files that say that a task has begun, or `None` where workers can't reach it.
    """

    endpoint_id: str
    run_dir: str
    marks_dir: str | None = None
    run_in_sandbox: bool = False
    task_deserializers: Sequence[str] | None = None

    def call(self, task: EngineTask) -> tuple[tuple[str, str], dict[str, Any]]:
        """Arguments and keyword arguments of `run_task`, after the body."""
        keywords: dict[str, Any] = {"run_dir": self.run_dir}
        if self.marks_dir is not None:
            keywords["mark"] = f"{self.marks_dir}/{mark_name(task.task_id, task.attempt)}"
        if self.run_in_sandbox:
            keywords["run_in_sandbox"] = True
        if self.task_deserializers is not None:
            keywords["task_deserializers"] = list(self.task_deserializers)
        if task.result_serializers:
            keywords["result_serializers"] = list(task.result_serializers)
        if task.sender_python is not None:
            keywords["sender_python"] = task.sender_python
        return (str(task.task_id), self.endpoint_id), keywords


def refuse_specification(task: EngineTask, engine: str) -> EngineFailure | None:
    """Why an engine that has no nodes to give can't run `task`, or `None` if the task asks for none."""
    if not task.resource_specification:
        return None
    keys = ", ".join(sorted(map(str, task.resource_specification)))
    text = f"This endpoint runs {engine}, which takes no resource specification (it has: {keys})."
    return EngineFailure(
        BAD_RESOURCE_SPECIFICATION, f"{text} For MPI tasks, its engine must be GlobusMPIEngine.", lost=False
    )
