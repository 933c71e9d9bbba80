"""Trips of several tasks that are under way: their results, those of one that takes too long, those of lost workers."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from parsl_globus.endpoint.marks import Marks
from parsl_globus.wire.fused import FusedResult, split_results

if TYPE_CHECKING:
    from parsl_globus.endpoint.engine import EngineTask

logger = logging.getLogger(__name__)

#: After so long a worker begins no further task of a trip.
LIMIT_S = 0.05
#: How often trips under way are looked at, while there are any, in seconds. A task of one that was seen to have begun
#: before waits no longer for the others of it.
LOOK_S = 0.1
#: Trips begin about in the order in which they were handed over: after so many that haven't, the others haven't either.
_NOT_BEGUN = 16


class NeverBegan(Exception):
    """A task of a trip that no worker has begun, or will."""


@dataclass(eq=False)
class Trip:
    """Tasks that go to one worker.

    Attributes:
        tasks: In the order in which they run.
        futures: Of each.
        path: Where the worker notes their results.
    """

    tasks: Sequence[EngineTask]
    futures: Mapping[uuid.UUID, Future[bytes]]
    path: Path
    begun: bool = field(default=False)


class Trips:
    """All trips of one engine.

    Args:
        folder: For the workers' notes; made if missing.
        marks: Where workers tell that a task has begun.
        end: Ends a task's future, if that is not done; with its result or why there is none.
        note: Told how long a task took.
    """

    def __init__(
        self,
        folder: Path,
        marks: Marks,
        end: Callable[[Future[bytes], bytes | None, BaseException | None], None],
        note: Callable[[EngineTask, int], None],
    ) -> None:
        self._folder = folder
        self._marks = marks
        self._end = end
        self._note = note
        self._changed = threading.Condition()
        self._under_way: dict[Trip, None] = {}
        self._stopped = False
        self._thread = threading.Thread(target=self._watch, name="trips", daemon=True)
        folder.mkdir(exist_ok=True, mode=0o700)

    def start(self) -> None:
        """Start looking after them."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(5)

    def begin(self, tasks: Sequence[EngineTask], futures: Mapping[uuid.UUID, Future[bytes]]) -> Trip:
        """A trip that is about to be handed over."""
        trip = Trip(tasks, futures, self._folder / uuid.uuid4().hex)
        with self._changed:
            self._under_way[trip] = None
            self._changed.notify_all()
        return trip

    def over(self, trip: Trip, results: bytes | None, error: BaseException | None) -> None:
        """The trip came back, or it was lost.

        Args:
            trip: Which.
            results: What the worker gave.
            error: Why there is nothing; then the worker's notes tell what had ended, and the next one failed of it.
        """
        with self._changed:
            self._under_way.pop(trip, None)
        done = self._deliver(trip, results if results is not None else _read(trip.path))
        left = [task for task in trip.tasks if task.task_id not in done]
        for index, task in enumerate(left):
            failed = error is not None and (index == 0 or getattr(error, "lost", False))
            self._end(trip.futures[task.task_id], None, error if failed else NeverBegan())
        trip.path.unlink(missing_ok=True)

    def recover(self) -> dict[uuid.UUID, bytes]:
        """Results that workers of an earlier agent noted, by task; they are forgotten by that."""
        found = {}
        for path in self._folder.iterdir():
            found.update({result.task_id: result.body for result in split_results(_read(path))})
            path.unlink(missing_ok=True)
        return found

    def _deliver(self, trip: Trip, results: bytes) -> set[uuid.UUID]:
        tasks = {task.task_id: task for task in trip.tasks}
        done: set[uuid.UUID] = set()
        for result in split_results(results):
            if result.task_id in tasks:
                done.add(result.task_id)
                self._one(tasks[result.task_id], trip, result)
        return done

    def _one(self, task: EngineTask, trip: Trip, result: FusedResult) -> None:
        future = trip.futures[task.task_id]
        if not future.done():
            self._note(task, result.took_ns)
            self._end(future, result.body, None)

    # ---- on the thread ------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._under_way)
                if self._changed.wait_for(lambda: self._stopped, LOOK_S):
                    return
                trips = list(self._under_way)
            not_begun = 0
            for trip in trips:
                if trip.begun:
                    self._divide(trip)
                elif trip.path.exists():
                    trip.begun = True
                else:
                    not_begun += 1
                    if not_begun == _NOT_BEGUN:
                        break

    def _divide(self, trip: Trip) -> None:
        """One of its tasks takes long: the others needn't wait for it."""
        done = self._deliver(trip, _read(trip.path))
        left = [task for task in trip.tasks if task.task_id not in done and not trip.futures[task.task_id].done()]
        for index, task in enumerate(left):
            if index == 0:
                self._note(task, int(LOOK_S * 1e9))  # the one that runs, by all that is known
            elif self._marks.take_back(task.task_id, task.attempt):
                logger.info("Task %s waits no longer for one before it that takes long", task.task_id)
                self._end(trip.futures[task.task_id], None, NeverBegan())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # no task of it has ended, or it can't be told
