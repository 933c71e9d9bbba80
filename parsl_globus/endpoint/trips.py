"""Trips of several tasks that are under way: their results, those of one that takes too long, those of lost workers."""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from parsl_globus.endpoint.engine import EngineFailure, EngineTask
from parsl_globus.endpoint.failures import TASK_LOST
from parsl_globus.endpoint.marks import Marks
from parsl_globus.wire.fused import FusedResult, split_results

logger = logging.getLogger(__name__)

#: Beside the folder of the marks.
NOTES_FOLDER = "fused"
#: After so long a worker begins no further task of a trip.
LIMIT_S = 0.1
#: How often trips under way are looked at, while there are any, in seconds. When none of a trip's tasks has ended
#: since the look before, the others wait no longer for the one that runs.
LOOK_S = 0.1


class NeverBegan(Exception):
    """A task of a trip that no worker has begun, or will."""


@dataclass(eq=False)
class Trip:
    """Tasks that go to one worker.

    Attributes:
        tasks: In the order in which they run.
        futures: Of each.
        path: Where the worker notes their results.
        noted_bytes: How much was noted when this was looked at last; `None` before the worker had begun.
        divided: Whether nothing of it waits for the task that runs.
    """

    tasks: Sequence[EngineTask]
    futures: Mapping[uuid.UUID, Future[bytes]]
    path: Path
    noted_bytes: int | None = field(default=None)
    divided: bool = field(default=False)

    @property
    def left(self) -> int:
        """How many of its tasks have not ended, nor been taken back."""
        return sum(not future.done() for future in self.futures.values())


class Trips:
    """All trips of one engine.

    Args:
        folder: For the workers' notes; made if missing.
        marks: Where workers tell that a task has begun.
        end: Ends a task's future, if that is not done; with its result or why there is none.
        note: Told how long a task took, and the size of its result.
        held_up: Told of a task that others of its trip have waited for.
    """

    def __init__(
        self,
        folder: Path,
        marks: Marks,
        end: Callable[[Future[bytes], bytes | None, BaseException | None], None],
        note: Callable[[EngineTask, int, int], None],
        held_up: Callable[[EngineTask], None],
    ) -> None:
        self._folder = folder
        self._marks = marks
        self._end = end
        self._note = note
        self._held_up = held_up
        # Of what becomes of a task: between its being taken back and that being told, its worker may come home with it.
        self._deciding = threading.Lock()
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

    def over(
        self, trip: Trip, results: bytes | None, error: Callable[[EngineTask], BaseException] | None = None
    ) -> None:
        """The trip came back, or it was lost.

        Args:
            trip: Which.
            results: What the worker gave.
            error: Why there is nothing, for one of its tasks. Then the worker's notes tell what had ended, and marks
                what had begun.
        """
        with self._changed:
            self._under_way.pop(trip, None)
        with self._deciding:
            done = self._deliver(trip, results if results is not None else _read(trip.path))
            left = [task for task in trip.tasks if task.task_id not in done]
            for index, task in enumerate(left):
                self._end(trip.futures[task.task_id], None, self._why_not(task, index == 0, error))
        trip.path.unlink(missing_ok=True)

    def _why_not(
        self, task: EngineTask, is_first: bool, error: Callable[[EngineTask], BaseException] | None
    ) -> BaseException:
        if error is None:
            return NeverBegan()
        why = error(task)
        if getattr(why, "lost", False):
            return why  # the intake looks at the mark
        if self._marks.take_back(task.task_id, task.attempt):
            return NeverBegan()
        # It may have ended: what the trip failed of is the fault of the one that ran.
        return why if is_first else EngineFailure(TASK_LOST, "The task had begun; its result is lost.", lost=True)

    def deliver_noted(self) -> None:
        """Deliver what has ended of the trips under way, as far as workers have noted it."""
        with self._changed:
            trips = list(self._under_way)
        with self._deciding:
            for trip in trips:
                self._deliver(trip, _read(trip.path))

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
            self._note(task, result.took_ns, len(result.body))
            self._end(future, result.body, None)

    # ---- on the thread ------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._under_way)
                if self._changed.wait_for(lambda: self._stopped, LOOK_S):
                    return
                trips = [trip for trip in self._under_way if not trip.divided]
            try:
                self._look(trips)
            except Exception:
                # The folder can't be read for a moment, for example; trips come home in any case.
                logger.exception("Trips of short tasks can't be looked at")

    def _look(self, trips: Sequence[Trip]) -> None:
        with os.scandir(self._folder) as entries:
            begun = {entry.name for entry in entries}
        for trip in trips:
            noted_bytes = _noted_bytes(trip.path) if trip.path.name in begun else None
            if noted_bytes is not None and noted_bytes == trip.noted_bytes:
                self._divide(trip)
            trip.noted_bytes = noted_bytes

    def _divide(self, trip: Trip) -> None:
        """One of its tasks takes long: the others needn't wait for it."""
        taken_back = 0
        with self._deciding:
            done = self._deliver(trip, _read(trip.path))
            left = [task for task in trip.tasks if task.task_id not in done and not trip.futures[task.task_id].done()]
            for index, task in enumerate(left):
                if index == 0:
                    self._held_up(task)  # the one that runs, by all that is known
                elif self._marks.take_back(task.task_id, task.attempt):
                    self._end(trip.futures[task.task_id], None, NeverBegan())
                    taken_back += 1
            trip.divided = len(left) - taken_back <= 1
        if taken_back:
            logger.info("%d tasks wait no longer for task %s, which takes long", taken_back, left[0].task_id)


class LeftNotes:
    """What workers of an earlier agent have noted, which had perhaps other settings or another engine.

    Args:
        folder: Where; it needn't be there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: list[Path] = []

    def read(self) -> dict[uuid.UUID, bytes]:
        """Results by task, also of tasks that were answered since."""
        self._paths = list(self._folder.iterdir()) if self._folder.is_dir() else []
        return {result.task_id: result.body for path in self._paths for result in split_results(_read(path))}

    def forget(self) -> None:
        """What was read is on disk elsewhere, or of no use."""
        for path in self._paths:
            path.unlink(missing_ok=True)


def _noted_bytes(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None  # no worker has begun the trip, or it is over


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # no task of it has ended, or it can't be told
