"""ThreadPoolEngine: runs tasks in threads of the user endpoint's own process, for trying things out."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any

from parsl_globus.endpoint.engine import (
    RUN_TASK,
    EngineFailure,
    EngineStatus,
    EngineTask,
    WorkerSettings,
    refuse_specification,
)
from parsl_globus.endpoint.failures import ENGINE_FAILED, TASK_LOST


class ThreadPoolEngine:
    """See `Engine`. Tasks share the process's working folder and can't be ended.

    Args:
        worker: For the worker function.
        max_workers: How many threads; `None` takes Python's default.
        thread_name_prefix: Of the threads.
        run_task: Import path of the worker function.
    """

    def __init__(
        self,
        *,
        worker: WorkerSettings,
        max_workers: int | None = None,
        thread_name_prefix: str = "task",
        run_task: str = RUN_TASK,
    ) -> None:
        self._worker = worker
        self._pool = ThreadPoolExecutor(max_workers, thread_name_prefix)
        self._max_workers = max_workers or 0
        self._run_task = run_task
        self._function: Any = None
        self._lock = threading.Lock()
        self._outstanding: set[Future[bytes]] = set()
        self._total_tasks = 0

    def start(self) -> None:
        """Import the worker function, by name: this room doesn't know the worker's."""
        module, _, name = self._run_task.rpartition(".")
        self._function = getattr(importlib.import_module(module), name)

    def submit(self, task: EngineTask) -> Future[bytes]:
        """Run `task` in a thread; see `Engine`."""
        outer: Future[bytes] = Future()
        refusal = refuse_specification(task, "ThreadPoolEngine")
        if refusal is not None:
            outer.set_exception(refusal)
            return outer
        arguments, keywords = self._worker.call(task)
        with self._lock:
            self._outstanding.add(outer)
            self._total_tasks += 1
        try:
            inner = self._pool.submit(self._function, task.body, *arguments, **keywords)
        except RuntimeError:  # the pool is shut down
            self._end(outer, None, EngineFailure(TASK_LOST, "The endpoint was stopped before the task ran.", lost=True))
        else:
            inner.add_done_callback(lambda done: self._inner_done(outer, done))
        return outer

    def submit_all(self, tasks: Sequence[EngineTask]) -> list[Future[bytes]]:
        """See `Engine`."""
        return [self.submit(task) for task in tasks]

    def status(self) -> EngineStatus:
        """Count what is in the pool."""
        with self._lock:
            outstanding = len(self._outstanding)
        workers = self._max_workers
        return EngineStatus(
            managers=1,
            active_managers=1,
            total_workers=workers,
            idle_workers=max(0, workers - outstanding),
            pending_tasks=max(0, outstanding - workers),
            outstanding_tasks=outstanding,
            total_tasks=self._total_tasks,
            engine_type="ThreadPoolEngine",
        )

    def failed(self) -> str | None:
        """Threads can't fail as a whole."""
        return None

    def shutdown(self) -> None:
        """Drop what has not begun; threads that run a task can't be ended, but are not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            left = list(self._outstanding)
        for future in left:
            text = "The endpoint was stopped while it had the task."
            self._end(future, None, EngineFailure(TASK_LOST, text, lost=True))

    def _inner_done(self, outer: Future[bytes], inner: Future[Any]) -> None:
        if inner.cancelled():
            error: BaseException | None = EngineFailure(TASK_LOST, str(CancelledError("stopped")), lost=True)
        else:
            error = inner.exception()
        self._end(outer, None if error is not None else inner.result(), error)

    def _end(self, outer: Future[bytes], result: Any, error: BaseException | None) -> None:
        with self._lock:
            if outer.running() or outer.done():
                return
            self._outstanding.discard(outer)
            outer.set_running_or_notify_cancel()
        if isinstance(error, EngineFailure):
            outer.set_exception(error)
        elif error is not None or not isinstance(result, bytes):
            text = f"{type(error).__name__}: {error}" if error is not None else f"It gave a {type(result).__name__}."
            outer.set_exception(EngineFailure(ENGINE_FAILED, text, lost=False))
        else:
            outer.set_result(result)
