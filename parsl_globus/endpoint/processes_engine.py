"""ProcessPoolEngine: runs tasks in worker processes on this machine, without Parsl in between."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from parsl_globus.endpoint.engine import (
    RUN_TASK,
    EngineFailure,
    EngineStatus,
    EngineTask,
    WorkerSettings,
    refuse_specification,
)
from parsl_globus.endpoint.failures import ENGINE_FAILED, TASK_LOST, WORKER_LOST
from parsl_globus.endpoint.outputs import last_output, prune
from parsl_globus.endpoint.pool_process import ERROR, PoolProcess, ProcessDied

logger = logging.getLogger(__name__)

#: So many processes in a row that end before they are ready mean that none will ever be.
FAILED_STARTS_IN_A_ROW = 3


@dataclass
class _Job:
    task: EngineTask
    future: Future[bytes]


class ProcessPoolEngine:
    """See `Engine`. A worker process that dies takes its own task along and is replaced; what waits is not touched.

    Args:
        worker: For the worker function.
        max_workers: How many processes, started as they are needed; `None` takes one per core.
        max_tasks_per_child: A process is replaced after so many tasks; `None` never.
        run_task: Import path of the worker function.
    """

    def __init__(
        self,
        *,
        worker: WorkerSettings,
        max_workers: int | None = None,
        max_tasks_per_child: int | None = None,
        run_task: str = RUN_TASK,
    ) -> None:
        self._worker = worker
        self._max_workers = max_workers or len(os.sched_getaffinity(0))
        self._max_tasks_per_child = max_tasks_per_child
        self._run_task = run_task
        self._changed = threading.Condition()  # guards all that follows
        self._waiting: deque[_Job] = deque()
        self._outstanding: set[Future[bytes]] = set()
        self._processes: set[PoolProcess] = set()
        self._threads = 0
        self._idle = 0  # threads without a task, those whose process starts included
        self._total_tasks = 0
        self._failed_starts = 0
        self._failure: str | None = None
        self._stopped = False

    def start(self) -> None:
        """Start the first process, so that the first task doesn't wait for it."""
        prune(self._worker.marks_dir)
        with self._changed:
            self._add_thread()

    def submit(self, task: EngineTask) -> Future[bytes]:
        """Run `task` in a process; see `Engine`."""
        job = _Job(task, Future())
        refusal = refuse_specification(task, "ProcessPoolEngine")
        with self._changed:
            if self._stopped and refusal is None:
                refusal = EngineFailure(TASK_LOST, "The endpoint was stopped before the task ran.", lost=True)
            if refusal is None:
                self._total_tasks += 1
                self._outstanding.add(job.future)
                self._waiting.append(job)
                if self._idle >= len(self._waiting) or self._threads >= self._max_workers:
                    self._changed.notify()
                else:
                    self._add_thread()
        if refusal is not None:
            job.future.set_exception(refusal)
        return job.future

    def submit_all(self, tasks: Sequence[EngineTask]) -> list[Future[bytes]]:
        """See `Engine`."""
        return [self.submit(task) for task in tasks]

    def status(self) -> EngineStatus:
        """Count what is in the pool."""
        with self._changed:
            outstanding, pending = len(self._outstanding), len(self._waiting)
        return EngineStatus(
            managers=1,
            active_managers=1,
            total_workers=self._max_workers,
            idle_workers=max(0, self._max_workers - outstanding),
            pending_tasks=pending,
            outstanding_tasks=outstanding,
            total_tasks=self._total_tasks,
            engine_type="ProcessPoolEngine",
        )

    def failed(self) -> str | None:
        """Worker processes end before they are ready, again and again."""
        return self._failure

    def shutdown(self) -> None:
        """End all processes, what they run included."""
        with self._changed:
            self._stopped = True
            self._waiting.clear()
            left, processes = list(self._outstanding), list(self._processes)
            self._changed.notify_all()
        for future in left:
            text = "The endpoint was stopped while it had the task."
            self._end(future, EngineFailure(TASK_LOST, text, lost=True))
        for process in processes:
            process.kill()
        with self._changed:
            self._changed.wait_for(lambda: self._threads == 0, timeout=5)

    # ---- one thread per process ---------------------------------------------------------------------------------

    def _add_thread(self) -> None:
        self._threads += 1
        self._idle += 1
        threading.Thread(target=self._serve, name=f"worker-{self._threads}", daemon=True).start()

    def _serve(self) -> None:
        process: PoolProcess | None = None
        tasks = 0
        try:
            while not self._stopped and self._failure is None:
                if process is None:
                    process, tasks = self._new_process(), 0
                    continue
                job = self._next()
                if job is None:
                    break
                if not self._run(process, job):
                    self._drop(process)
                    process = None
                    continue
                tasks += 1
                if tasks == self._max_tasks_per_child:
                    self._drop(process)
                    process = None
        except Exception as exc:
            # The outermost loop of this thread: the agent ends, and answers for what the engine has.
            logger.exception("A thread of the pool ends")
            self._failure = f"A thread of the pool ended: {exc}"
        finally:
            if process is not None:
                self._drop(process)
            with self._changed:
                self._threads -= 1
                self._idle -= 1
                self._changed.notify_all()

    def _new_process(self) -> PoolProcess | None:
        process = None
        try:
            process = PoolProcess(self._run_task)
            with self._changed:
                self._processes.add(process)
                if self._stopped:  # it came too late to be ended by the shutdown
                    process.kill()
            process.wait_ready()
        except (OSError, ProcessDied) as exc:
            if process is not None:
                self._drop(process)
            self._note_failed_start(exc)
            return None
        with self._changed:
            self._failed_starts = 0
        return process

    def _note_failed_start(self, why: Exception) -> None:
        with self._changed:
            if self._stopped:
                return
            self._failed_starts += 1
            logger.error("A worker process did not start: %s", why)
            if self._failed_starts >= FAILED_STARTS_IN_A_ROW:
                self._failure = f"{why} before it was ready, {self._failed_starts} times in a row."
                self._changed.notify_all()

    def _next(self) -> _Job | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopped or self._failure is not None)
            if not self._waiting or self._stopped:
                return None
            self._idle -= 1
            return self._waiting.popleft()

    def _run(self, process: PoolProcess, job: _Job) -> bool:
        """Have the process run the task.

        Returns:
            Whether the process still lives.
        """
        try:
            kind, answer = process.run(job.task.body, self._worker.call(job.task))
        except ProcessDied as exc:
            text = f"{exc} while it had the task. It may have run out of memory."
            text += last_output(self._worker.marks_dir, job.task.task_id)
            self._end(job.future, EngineFailure(WORKER_LOST, text, lost=True))
            return False
        finally:
            with self._changed:
                self._idle += 1
        if kind == ERROR:
            self._end(job.future, EngineFailure(ENGINE_FAILED, answer.decode(), lost=False))
        else:
            self._end(job.future, answer)
        return True

    def _drop(self, process: PoolProcess) -> None:
        with self._changed:
            self._processes.discard(process)
        process.close()

    def _end(self, future: Future[bytes], outcome: bytes | EngineFailure) -> None:
        with self._changed:
            if future not in self._outstanding:
                return  # the shutdown has ended it, or this thread has
            self._outstanding.discard(future)
        if not future.set_running_or_notify_cancel():
            return
        if isinstance(outcome, EngineFailure):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
