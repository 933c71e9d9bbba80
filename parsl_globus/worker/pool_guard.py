"""Keeps HTEX's worker pool going when one of its workers is killed while it holds a lock that all of them share.

A thread in the pool's own process. An idle worker holds the lock of the queue of tasks while it waits, so that a kill
of it nearly always takes the lock along: the pool then looks alive and begins nothing any more. The other locks are
held for an instant only; but whoever dies in it leaves a pool that can't be mended, and which ends.

This is the one module that knows the inside of Parsl's pool and of Python's queues: `manager` of the pool's script, its
`pending_task_queue`, `pending_result_queue`, `ready_worker_count` and `_tasks_in_progress`; of a queue, `_rlock` and
`_wlock`. A test with a real pool fails when they move; the thread then says so in the pool's log and ends.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

# Below Parsl's, so that it gets into the pool's own log.
logger = logging.getLogger("parsl.parsl_globus.pool_guard")

#: What Parsl calls its workers; the other child of a pool keeps what they share.
_WORKER = "HTEX-Worker-"
_KEEPER_DIED = "the process died that keeps what the workers share"
#: How often the thread looks, in seconds: a few attributes.
_TICK_S = 1.0
#: Held for longer than this, in seconds, with work at hand, a lock is its dead holder's: living ones let go at once.
_HELD_S = 5.0
#: A queue whose lock was freed so often and still gives nothing is damaged: somebody died in the middle of a message.
_TIMES = 3


def start() -> None:
    """Guard the pool that this process is about to become."""
    threading.Thread(target=_run, name="pool-guard", daemon=True).start()


def _run() -> None:
    try:
        while (pool := vars(sys.modules["__main__"]).get("manager")) is None:
            time.sleep(_TICK_S)
        guard = PoolGuard(pool)
        while True:
            time.sleep(_TICK_S)
            why = guard.look()
            if why is not None:
                logger.error("The pool ends: %s", why)
                os.kill(os.getpid(), signal.SIGTERM)  # its block ends, another comes; the workers see it and end
    except Exception:
        # The outermost frame of this thread. The pool is no worse off than without it.
        logger.exception("The pool's guard ends")


class PoolGuard:
    """Looks after the locks of one pool.

    Args:
        pool: Parsl's `Manager`.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._tasks: Any = pool.pending_task_queue
        self._results: Any = pool.pending_result_queue
        #: Their names by their ids.
        self._children: dict[int, str] = {}
        #: Since a worker may have died, nobody was seen to get the lock of the queue of tasks; how often it was freed.
        self._doubtful = False
        self._freed = 0

    def look(self) -> str | None:
        """See whether a worker died since, and mend what it left.

        Returns:
            Why the pool can't go on; `None` if it can.
        """
        now = {child.pid: child.name for child in multiprocessing.active_children() if child.pid is not None}
        died = [name for pid, name in self._children.items() if pid not in now]
        if all(name.startswith(_WORKER) for name in now.values()):
            # It may have died before it was ever seen. Parsl then fails, and logs that, as fast as it can.
            return _KEEPER_DIED
        # A worker may have died before it was ever seen: within a second, another stands in its place.
        changed = now.keys() != self._children.keys()
        self._children = now
        if changed:
            if died:
                logger.info("%s died; looking after the locks", ", ".join(died))
            self._doubtful, self._freed = True, 0
            why = self._lost_for_good(died)
            if why is not None:
                return why
        return self._mend() if self._doubtful else None

    def _lost_for_good(self, died: Sequence[str]) -> str | None:
        if not all(name.startswith(_WORKER) for name in died):
            return _KEEPER_DIED
        if not _is_free(self._pool.ready_worker_count.get_lock(), _HELD_S):
            return "a worker died with the lock of the count of those that are ready"
        silent = self._results.empty()
        if not _is_free(self._results._wlock, _HELD_S) and silent and self._results.empty():
            return "a worker died with the lock of the queue of results"
        return None

    def _mend(self) -> str | None:
        waiting = self._tasks.qsize()
        # A living worker holds it for long while there is nothing to take, so that not getting it means nothing then.
        if _is_free(self._tasks._rlock, _HELD_S if waiting else 0.0):
            self._doubtful = False
        elif 0 < waiting <= self._tasks.qsize():  # and nobody has taken any meanwhile
            if self._freed < _TIMES:
                self._freed += 1
                logger.warning("A worker died with the lock of the queue of tasks; it is freed")
                self._tasks._rlock.release()
            elif len(self._pool._tasks_in_progress) == 0:
                return "a worker died while it took a task, and the queue of tasks is damaged"
        return None


def _is_free(lock: Any, within_s: float) -> bool:
    """Whether it can be had in time; if not, its holder may be dead."""
    if not lock.acquire(timeout=within_s):
        return False
    lock.release()
    return True
