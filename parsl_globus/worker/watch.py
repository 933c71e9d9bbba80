"""Ends a running task when its endpoint asks for it, which it does in the task's mark.

A thread of the worker process reads the mark now and then. Then it raises `TaskCancelledError` in the main thread, by
a signal, so that a sleep or a wait for a subprocess ends as well and `finally` blocks run; what the task has started is
ended too. A task that goes on nevertheless, in compiled code or by catching everything, is ended with its process,
which the engine replaces.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from parsl_globus.worker.claim import is_asked

#: How often the thread looks, in seconds; what ends sooner is never looked at.
_TICK_S = 1.0
#: A task that runs for longer than the first, in seconds, is looked at once in the second: marks are on file systems
#: that all workers share.
_YOUNG_S, _OLD_TICK_S = 30.0, 5.0
#: How long a task has to end once it is told, in seconds, and when it is told once more.
_GRACE_S, _AGAIN_S = 5.0, 2.5
#: Nobody else uses it, other than the signals with a name; schedulers and users' code have plans for those.
_SIGNAL = getattr(signal, "SIGRTMIN", signal.SIGUSR2) + 9


class TaskCancelledError(BaseException):
    """Raised in a task that is to end; no `Exception`, so that no task takes it for one of its own."""


@dataclass(eq=False)
class _Watched:
    mark: str
    #: Clock ticks since the machine started, as in /proc.
    began_ticks: int
    began_s: float
    asked: bool = False


class _Watcher:
    """Made in the main thread, at its first task."""

    def __init__(self) -> None:
        self.current: _Watched | None = None
        self._main_id = threading.get_ident()
        signal.signal(_SIGNAL, self._raise)
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def _raise(self, _number: int, _frame: FrameType | None) -> None:
        current = self.current
        if current is not None and current.asked:  # else the task ended meanwhile
            raise TaskCancelledError

    def _run(self) -> None:
        seen: _Watched | None = None
        looked_s = 0.0
        while True:
            time.sleep(_TICK_S)
            current, now_s = self.current, time.monotonic()
            if current is None or current is not seen:
                seen, looked_s = current, now_s
            elif now_s - current.began_s < _YOUNG_S or now_s - looked_s >= _OLD_TICK_S:
                looked_s = now_s
                if is_asked(current.mark):
                    self._end(current)

    def _end(self, current: _Watched) -> None:
        current.asked = True
        # Now, as orphans are not to be told from other tasks' later.
        started = _started_since(current.began_ticks)
        told_s, times = time.monotonic(), 0
        while self.current is current:
            waited_s = time.monotonic() - told_s
            if times == 0 or (times == 1 and waited_s >= _AGAIN_S):
                times += 1
                signal.pthread_kill(self._main_id, _SIGNAL)
            if waited_s >= _GRACE_S:
                _signal({**started, **_started_since(current.began_ticks)}, signal.SIGKILL)
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.05)
        _signal(started, signal.SIGTERM)
        time.sleep(_TICK_S)
        _signal(started, signal.SIGKILL)


_watcher: _Watcher | None = None


def begin(mark: str | None) -> None:
    """The task with this mark begins. It can be ended until `over`, if it runs in the main thread."""
    global _watcher
    if mark is None or threading.current_thread() is not threading.main_thread():
        return
    if _watcher is None:
        _watcher = _Watcher()
    ticks = int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")) if _HAS_PROC else 0
    _watcher.current = _Watched(mark, ticks, time.monotonic())


def over() -> None:
    """The task has ended; nothing is raised any more once this returns. Harmless without `begin`."""
    if _watcher is not None and threading.current_thread() is threading.main_thread():
        _watcher.current = None


_HAS_PROC = hasattr(time, "CLOCK_BOOTTIME")


def _started_since(ticks: int) -> dict[int, int]:
    """Descendants of this process that are no older: their ids, each with its time of start."""
    children: dict[int, list[tuple[int, int]]] = {}
    for entry in os.scandir("/proc") if _HAS_PROC else ():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) is not None:
            parent, started = fields
            children.setdefault(parent, []).append((int(entry.name), started))
    found: dict[int, int] = {}
    waiting = [os.getpid()]
    while waiting:
        for pid, started in children.get(waiting.pop(), ()):
            waiting.append(pid)
            if started >= ticks:
                found[pid] = started
    return found


def _stat(pid: int) -> tuple[int, int] | None:
    """Parent and time of start of a process; `None` when it has ended."""
    try:
        # "pid (name) state parent ..."; the name may hold anything, even a parenthesis.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[1]), int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


def _signal(processes: dict[int, int], number: int) -> None:
    for pid, started in processes.items():
        fields = _stat(pid)
        if fields is not None and fields[1] == started:  # else it is another one by now
            try:
                os.kill(pid, number)
            except OSError:
                continue  # it has ended meanwhile
