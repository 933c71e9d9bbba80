"""Where a task runs: its working folder, what its environment says about it, and for how long."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from parsl_globus.errors import TaskTimedOut

_made: set[str] = set()


def enter(run_dir: str, task_id: str, *, own_folder: bool) -> None:
    """Make the task's folder the current one and tell the task about itself.

    Args:
        run_dir: Absolute path of the endpoint's folder for tasks; made if missing.
        task_id: Told to the app as `GC_TASK_UUID`.
        own_folder: Give the task a folder of its own below `run_dir`, told as `GC_TASK_SANDBOX_DIR`.

    Raises:
        OSError: The folder can't be made or entered.
    """
    os.environ["GC_TASK_UUID"] = task_id
    if own_folder:
        folder = str(Path(run_dir) / task_id)
        os.environ["GC_TASK_SANDBOX_DIR"] = folder
        os.makedirs(folder, exist_ok=True)
    else:
        folder = run_dir
        os.environ.pop("GC_TASK_SANDBOX_DIR", None)
        if folder not in _made:
            os.makedirs(folder, exist_ok=True)
            _made.add(folder)
    os.chdir(folder)  # the task before may have gone elsewhere


@contextmanager
def time_limit(limit_s: float) -> Iterator[None]:
    """Raise `TaskTimedOut` in the body when it takes longer than `limit_s` seconds; 0 means no limit.

    In a process's main thread, as in HTEX's workers, a signal interrupts even a sleep. Elsewhere the exception comes
    at the next Python instruction, as with Parsl's own `walltime`.
    """
    if limit_s <= 0:
        yield
    elif threading.current_thread() is threading.main_thread():
        with _alarm(limit_s):
            yield
    else:
        timer = threading.Timer(limit_s, _raise_in, (threading.get_ident(),))
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


@contextmanager
def _alarm(limit_s: float) -> Iterator[None]:
    def ring(_number: int, _frame: FrameType | None) -> None:
        raise TaskTimedOut(limit_s=limit_s)

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _raise_in(thread_id: int) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), ctypes.py_object(TaskTimedOut))
