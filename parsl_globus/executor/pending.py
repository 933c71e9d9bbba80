"""Tasks the service has taken, each with the future that waits for its result."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

_R = TypeVar("_R")


class Pending(Generic[_R]):
    """Maps task ids to futures, and keeps results that overtake the reply to their submission. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._futures: dict[uuid.UUID, Future[Any]] = {}
        self._early: dict[uuid.UUID, _R] = {}
        self._expecting = False

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """While a submission is under way: results of unknown tasks may be its tasks', so they are kept."""
        with self._lock:
            self._expecting = True
        try:
            yield
        finally:
            with self._lock:
                self._expecting = False
                self._early.clear()

    def add(self, futures: Mapping[uuid.UUID, Future[Any]]) -> list[tuple[Future[Any], _R]]:
        """Take in the tasks of a submission that was answered.

        Returns:
            Those whose result is here already, with it; they are not pending any more.
        """
        with self._lock:
            ready = [
                (future, self._early.pop(task_id)) for task_id, future in futures.items() if task_id in self._early
            ]
            done = {id(future) for future, _ in ready}
            self._futures.update({task_id: future for task_id, future in futures.items() if id(future) not in done})
            return ready

    def match(self, results: Iterable[tuple[uuid.UUID, _R]]) -> list[tuple[Future[Any], _R]]:
        """Match results with the futures that wait for them.

        Returns:
            The futures to complete, each once: a result that comes a second time matches nothing.
        """
        matched = []
        with self._lock:
            for task_id, result in results:
                future = self._futures.pop(task_id, None)
                if future is not None:
                    matched.append((future, result))
                elif self._expecting:
                    self._early[task_id] = result
        return matched

    def ids(self) -> list[uuid.UUID]:
        """The tasks that wait for a result."""
        with self._lock:
            return list(self._futures)

    def drain(self) -> list[Future[Any]]:
        """Give up all; the caller owes each future an answer."""
        with self._lock:
            futures = list(self._futures.values())
            self._futures.clear()
            return futures

    def __len__(self) -> int:
        with self._lock:
            return len(self._futures)
