"""HtexEngine, the only caller of Parsl's HighThroughputExecutor."""

from __future__ import annotations

import logging
import threading
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from parsl.executors.errors import BadStateException, InvalidResourceSpecification
from parsl.executors.high_throughput.errors import ManagerLost, WorkerLost
from parsl.executors.high_throughput.executor import HighThroughputExecutor

from parsl_globus.endpoint.block_poller import BlockPoller
from parsl_globus.endpoint.blocks import BlockRecord, live_jobs
from parsl_globus.endpoint.engine import RUN_TASK, EngineFailure, EngineStatus, EngineTask, WorkerSettings
from parsl_globus.endpoint.failures import BAD_RESOURCE_SPECIFICATION, ENGINE_FAILED, TASK_LOST, WORKER_LOST
from parsl_globus.endpoint.fusing import Durations, function_key, took_ns, trips
from parsl_globus.endpoint.local_blocks import LocalBlocks
from parsl_globus.endpoint.marks import Marks
from parsl_globus.endpoint.outputs import last_output, prune
from parsl_globus.endpoint.pool_log import PoolLog
from parsl_globus.endpoint.trips import LIMIT_S, NOTES_FOLDER, NeverBegan, Trip, Trips
from parsl_globus.wire.fused import pack_bodies

logger = logging.getLogger(__name__)

RUN_FUSED = "parsl_globus.worker.run_fused.run_fused"
RUN_LARGE = "parsl_globus.worker.run_large.run_large"
#: A longer task message goes alone.
FUSED_BODY_BYTES = 64 * 1024
#: How long a stop waits for a look at the blocks that is going on, in seconds.
_LAST_LOOK_S = 10.0
#: Parsl remembers all blocks there ever were; a report tells so many, the newest.
BLOCKS_REPORTED = 100


class HtexEngine:
    """Runs tasks by Parsl's HighThroughputExecutor and its own poller for blocks.

    Attributes:
        engine_type: Its name in configurations and status reports.

    Args:
        executor: As built from the configuration, not started.
        run_dir: Folder for its logs, certificates and submit scripts.
        worker: For the worker function.
        poller: Keyword arguments of Parsl's `JobStatusPoller`.
        run_task: Import path of the worker function.
        fuse: Whether short tasks may go to a worker together.
    """

    engine_type = "GlobusComputeEngine"

    def __init__(
        self,
        executor: HighThroughputExecutor,
        *,
        run_dir: Path,
        worker: WorkerSettings,
        poller: Mapping[str, Any],
        run_task: str = RUN_TASK,
        fuse: bool = True,
    ) -> None:
        self._executor = executor
        self._run_dir = run_dir
        self._worker = worker
        self._poller_arguments = dict(poller)
        self._run_task = run_task
        self._blocks = BlockRecord(run_dir / "blocks.json", executor.provider)
        self._local_blocks = LocalBlocks(executor.provider)
        self._poller: BlockPoller | None = None
        self._lock = threading.Lock()  # of what follows
        self._outstanding: set[Future[bytes]] = set()
        self._total_tasks = 0
        self._stopped = False
        self._durations = Durations()
        self._trips: Trips | None = None
        #: By what HTEX gave for it. For Parsl, a trip is one task.
        self._trip_of: weakref.WeakKeyDictionary[Future[Any], Trip] = weakref.WeakKeyDictionary()
        marks = Path(worker.marks_dir) if worker.marks_dir is not None else None
        if fuse and marks is not None:
            self._trips = Trips(
                marks.parent / NOTES_FOLDER, Marks(marks), self._end, self._note_duration, self._held_up
            )

    def start(self) -> None:
        """Start interchange and poller; the first blocks are asked for at once."""
        provider: Any = self._executor.provider
        scripts = self._run_dir / "submit_scripts"
        scripts.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._blocks.cancel_left()
        prune(self._worker.marks_dir)
        if self._worker.marks_dir is not None and self._executor.encrypted:
            # Pools read it from the run folder, where they have their keys as well.
            self._executor.log_config = PoolLog(debug=self._executor.worker_debug)
        self._executor.run_dir = str(self._run_dir)
        self._executor.run_id = str(self._worker.endpoint_id)
        provider.script_dir = str(scripts)
        if self._trips is not None:
            self._trips.start()
        start: Callable[[], None] = self._executor.start
        start()
        self._poller = BlockPoller(**self._poller_arguments)
        self._poller.add_executors([self._executor])
        # The poller's timer ticks when it starts, and then after a whole period; waiting for that would make the first
        # task of a cold endpoint seconds late.
        self._poller.poll()
        self._note_blocks()

    def submit(self, task: EngineTask) -> Future[bytes]:
        """Give `task` to HTEX; see `Engine`."""
        outer: Future[bytes] = Future()
        arguments, keywords = self._worker.call(task)
        context: dict[str, Any] = {"task_executor": {"f": self._run_task, "a": arguments, "k": keywords}}
        try:
            specification = self._specification(task)
            if specification:
                context["resource_spec"] = specification
            self._executor.validate_resource_spec(specification)
            with self._lock:
                if self._stopped:
                    raise EngineFailure(TASK_LOST, "The endpoint was stopped before the task ran.", lost=True)
                self._outstanding.add(outer)
                self._total_tasks += 1
        except Exception as exc:  # noqa: BLE001 - whatever HTEX raises is this task's failure, and only this one's
            self._end(outer, None, exc)
        else:
            self._hand_over(outer, context, task)
        return outer

    def submit_all(self, tasks: Sequence[EngineTask]) -> list[Future[bytes]]:
        """Give `tasks` to HTEX, those that are known to be short several at once; see `Engine`."""
        if self._trips is None or len(tasks) < 2:
            return [self.submit(task) for task in tasks]
        futures: dict[uuid.UUID, Future[bytes]] = {}
        for trip in trips([(task, self._short_ns(task)) for task in tasks], len(self._outstanding)):
            if len(trip) == 1:
                futures[trip[0].task_id] = self.submit(trip[0])
            else:
                futures.update(self._submit_trip(self._trips, trip))
        return [futures[task.task_id] for task in tasks]

    def status(self) -> EngineStatus:
        """Ask the interchange, and sum up."""
        provider: Any = self._executor.provider
        managers = self._executor.connected_managers()
        with self._lock:
            outstanding = len(self._outstanding)
        nodes: dict[str, list[dict[str, Any]]] = {}
        for manager in managers:
            job_id = str(self._executor.blocks_to_job_id.get(manager["block_id"]))
            keys = ("worker_count", "idle_duration", "parsl_version", "python_version")
            nodes.setdefault(job_id, []).append({key: manager[key] for key in keys})
        return EngineStatus(
            managers=len(managers),
            active_managers=sum(1 for manager in managers if manager["active"]),
            total_workers=sum(manager["worker_count"] for manager in managers),
            idle_workers=sum(max(0, manager["worker_count"] - manager["tasks"]) for manager in managers),
            pending_tasks=max(0, outstanding - self._first_tasks(sum(manager["tasks"] for manager in managers))),
            outstanding_tasks=outstanding,
            total_tasks=self._total_tasks,
            scaling_enabled=provider.max_blocks > 0,
            max_blocks=provider.max_blocks,
            min_blocks=provider.min_blocks,
            nodes_per_block=provider.nodes_per_block,
            engine_type=self.engine_type,
            provider_type=type(provider).__name__,
            queue=_first(provider, "queue", "partition"),
            account=_first(provider, "account", "allocation", "project"),
            node_info=nodes,
            blocks=self._block_states(),
        )

    def _first_tasks(self, calls: int) -> int:
        """How many tasks have not ended of the oldest calls: the interchange hands them over in their order."""
        first = list(self._executor.tasks.values())[:calls]
        return sum(self._trip_of[call].left if call in self._trip_of else 1 for call in first)

    def _block_states(self) -> dict[str, dict[str, str | None]]:
        states = list(self._executor.status_facade.items())[-BLOCKS_REPORTED:]
        job_ids = self._executor.blocks_to_job_id
        return {
            block_id: {"job_id": str(job_ids[block_id]) if block_id in job_ids else None, "status": state.status_name}
            for block_id, state in states
        }

    def failed(self) -> str | None:
        """HTEX's bad state: it gave up on its blocks, or lost its interchange; or there will be no block any more."""
        self._note_blocks()
        if self._executor.bad_state_is_set:
            return str(self._executor.executor_exception)
        return self._dead_interchange() or self._no_block_to_come()

    def _no_block_to_come(self) -> str | None:
        if self._poller is None or self._poller_arguments.get("strategy") not in (None, "none"):
            return None
        if not self._outstanding or live_jobs(self._executor):
            return None
        return "All blocks have ended, and with the strategy 'none' no others come for the tasks that wait."

    @property
    def lost_interchange(self) -> bool:
        """Whether HTEX's interchange has ended, or was killed. What is submitted then waits for `shutdown`."""
        return self._dead_interchange() is not None

    def shutdown(self) -> None:
        """Fail what has not ended, cancel all blocks, end the interchange."""
        with self._lock:
            if self._stopped:
                return
            dead, ill = self._dead_interchange(), self.failed() is not None
            self._stopped = True
        if self._trips is not None:
            self._trips.deliver_noted()
        with self._lock:
            left = list(self._outstanding)
        for future in left:
            text = "The endpoint was stopped while it had the task."
            self._end(future, None, EngineFailure(TASK_LOST, text, lost=True))
        provider: Any = self._executor.provider
        if ill:
            # Parsl's poller doesn't cancel the blocks of an executor in bad state, and asks an interchange that is
            # gone for ever.
            if self._poller is not None:
                self._poller.leave(_LAST_LOOK_S if dead is None else 0)
            provider.cancel(list(self._executor.blocks_to_job_id.values()))
        elif self._poller is not None:
            self._poller.close()
        self._blocks.forget()
        if self._trips is not None:
            self._trips.stop()
        if dead is None:
            # Without an interchange, threads may hang in Parsl's sockets, which must not be closed under them. They
            # end with the process.
            self._executor.shutdown()

    def _short_ns(self, task: EngineTask) -> float | None:
        """How long a task takes, if it may share a trip."""
        if task.resource_specification or task.attempt > 1 or len(task.body) > FUSED_BODY_BYTES:
            return None
        return self._durations.short_ns(function_key(task.function, task.body))

    def _note_duration(self, task: EngineTask, duration_ns: int, result_bytes: int) -> None:
        self._durations.note(function_key(task.function, task.body), duration_ns, result_bytes)

    def _held_up(self, task: EngineTask) -> None:
        self._durations.forget(function_key(task.function, task.body))

    def _submit_trip(self, under_way: Trips, tasks: Sequence[EngineTask]) -> dict[uuid.UUID, Future[bytes]]:
        futures: dict[uuid.UUID, Future[bytes]] = {task.task_id: Future() for task in tasks}
        with self._lock:
            self._outstanding.update(futures.values())
            self._total_tasks += len(tasks)
            stopped = self._stopped
        trip = under_way.begin(tasks, futures)
        if stopped:
            under_way.over(trip, None, lambda _task: EngineFailure(TASK_LOST, "The endpoint was stopped.", lost=True))
            return futures
        calls = [self._worker.call(task) for task in tasks]
        keywords = {"run_task": self._run_task, "results": str(trip.path), "limit_s": LIMIT_S}
        context = {"task_executor": {"f": RUN_FUSED, "a": (calls,), "k": keywords}}
        bodies = pack_bodies([task.body for task in tasks])
        call = self._give(context, bodies, partial(self._trip_done, under_way, trip))
        if call is not None:
            self._trip_of[call] = trip
        return futures

    def _trip_done(self, under_way: Trips, trip: Trip, inner: Future[Any]) -> None:
        error = inner.exception()
        result = None if error is not None else inner.result()
        if error is None and isinstance(result, bytes):
            under_way.over(trip, result)
            return

        def why(task: EngineTask) -> BaseException:
            if isinstance(error, (WorkerLost, ManagerLost)):
                return _worker_lost(error, last_output(self._worker.marks_dir, task.task_id))
            return error if error is not None else _no_bytes(result)

        under_way.over(trip, None, why)

    def _specification(self, task: EngineTask) -> dict[str, Any]:
        """The task's specification as HTEX shall have it."""
        return dict(task.resource_specification)

    def _hand_over(self, outer: Future[bytes], context: dict[str, Any], task: EngineTask) -> None:
        """Give a task to HTEX. One thread at a time."""
        body = task.body
        if task.body_file is not None and self._worker.marks_dir is not None:
            call = context["task_executor"]
            call["k"] = {**call["k"], "run_task": call["f"], "path": str(task.body_file)}
            call["f"], body = RUN_LARGE, b""
        self._give(context, body, lambda done: self._inner_done(outer, done, task))

    def _give(self, context: dict[str, Any], body: bytes, done: Callable[[Future[Any]], None]) -> Future[Any] | None:
        if self.lost_interchange:
            # Ended by `shutdown`, which comes soon: if it failed now, it would be handed over again and again.
            return None
        inner: Future[Any]
        try:
            # Not under the lock: should the interchange die right now, this blocks for ever.
            inner = self._executor.submit_payload(context, body)
        except Exception as exc:  # noqa: BLE001 - as in `submit`
            inner = Future()
            inner.set_exception(exc)
        inner.add_done_callback(done)
        return inner

    def _note_blocks(self) -> None:
        if not self._stopped:
            self._blocks.note(live_jobs(self._executor))
            self._local_blocks.end_left()

    def _dead_interchange(self) -> str | None:
        process = self._executor.interchange_proc
        if process is None or self._stopped or process.poll() is None:
            return None
        return f"Parsl's interchange ended with exit code {process.returncode}; see interchange.log."

    def _inner_done(self, outer: Future[bytes], inner: Future[Any], task: EngineTask) -> None:
        error = inner.exception()
        if isinstance(error, (WorkerLost, ManagerLost)):
            error = _worker_lost(error, last_output(self._worker.marks_dir, task.task_id))
        result = None if error is not None else inner.result()
        if isinstance(result, bytes) and self._trips is not None:
            duration_ns = took_ns(result)
            if duration_ns is not None:
                self._note_duration(task, duration_ns, len(result))
        self._end(outer, result, error)

    def _end(self, outer: Future[bytes], result: Any, error: BaseException | None) -> None:
        with self._lock:
            # HTEX's result thread and a shutdown may both want to end it; the first one does.
            if outer.running() or outer.done():
                return
            self._outstanding.discard(outer)
            outer.set_running_or_notify_cancel()
        if error is not None:
            outer.set_exception(_classify(error))
        elif isinstance(result, bytes):
            outer.set_result(result)
        else:
            outer.set_exception(_no_bytes(result))


def _no_bytes(result: Any) -> EngineFailure:
    text = f"The worker gave a {type(result).__name__} instead of a result message."
    return EngineFailure(ENGINE_FAILED, text, lost=False)


def _worker_lost(error: Exception, output: str) -> EngineFailure:
    text = f"{error}. It may have run out of memory, or its block ended.{output}"
    return EngineFailure(WORKER_LOST, text, lost=True)


def _classify(error: BaseException) -> EngineFailure:
    """What HTEX says, as what the caller gets."""
    if isinstance(error, EngineFailure):
        return error
    if isinstance(error, NeverBegan):
        return EngineFailure(TASK_LOST, "No worker has begun the task.", lost=True, begun=False)
    if isinstance(error, InvalidResourceSpecification):
        return EngineFailure(BAD_RESOURCE_SPECIFICATION, str(error), lost=False)
    if isinstance(error, BadStateException):
        return EngineFailure(ENGINE_FAILED, f"The endpoint's blocks failed: {error}", lost=False)
    return EngineFailure(ENGINE_FAILED, f"{type(error).__name__}: {error}", lost=False)


def _first(provider: Any, *names: str) -> str | None:
    return next((str(value) for name in names if (value := getattr(provider, name, None))), None)
