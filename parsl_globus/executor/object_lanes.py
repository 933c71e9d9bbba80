"""Threads that do one job after another, each of which answers for itself whatever happens."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from parsl_globus.errors import ParslGlobusError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Job:
    """What a lane does.

    Attributes:
        run: Does it. What it raises is logged and given to `give_up`.
        give_up: Called instead of `run`, or while it goes on, at the lane's end. Must not raise.
    """

    run: Callable[[], None]
    give_up: Callable[[BaseException], None]


class Lane:
    """Does jobs in the order in which they come. Thread-safe.

    Args:
        name: Of the threads.
        threads: How many jobs are done at once.
    """

    def __init__(self, name: str, threads: int) -> None:
        self._wake = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._running: set[Job] = set()
        self._ending: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._loop, name=f"{name}-{number}", daemon=True) for number in range(threads)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def put(self, job: Job) -> None:
        """Have a job done; it is given up at once after `stop`."""
        with self._wake:
            ending = self._ending
            if ending is None:
                self._waiting.append(job)
                self._wake.notify_all()  # others wait for its end
        if ending is not None:
            job.give_up(ending)

    def __len__(self) -> int:
        """How many jobs are not done."""
        with self._wake:
            return len(self._waiting) + len(self._running)

    def drain(self, timeout_s: float) -> bool:
        """Wait until nothing is left to do; whether that came."""
        with self._wake:
            return self._wake.wait_for(lambda: not self._waiting and not self._running, timeout_s)

    def stop(self, error: ParslGlobusError, timeout_s: float) -> None:
        """Take no more, and give up what has not ended.

        Args:
            error: Told to the jobs that are given up.
            timeout_s: How long to wait for the threads, whose jobs may have something to tidy up, in seconds.
        """
        with self._wake:
            self._ending = error
            left = [*self._running, *self._waiting]
            self._waiting.clear()
            self._wake.notify_all()
        for job in left:
            job.give_up(error)
        until = time.monotonic() + timeout_s
        for thread in self._threads:
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))

    def _loop(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._waiting or self._ending is not None)
                if self._ending is not None:
                    return
                job = self._waiting.popleft()
                self._running.add(job)
            try:
                job.run()
            except BaseException as exc:
                # Nobody else answers for this job, and others come after it.
                logger.exception("A job of a lane failed")
                job.give_up(exc)
            finally:
                with self._wake:
                    self._running.discard(job)
                    self._wake.notify_all()
                del job  # it has values at hand that may be large
