"""What has become of a DataFlowKernel's tasks, by executor, from the tables that it keeps anyway."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

from parsl.dataflow.futures import AppFuture
from parsl.dataflow.states import FINAL_FAILURE_STATES, FINAL_STATES, States

LOOK_INTERVAL_S = 0.02
"""How often new tasks are looked for. The DataFlowKernel forgets a task when it ends, so looking once a frame would
miss the quick ones; a look when nothing is new compares some numbers. Measured: 5 us per task."""

HELD_BACK = frozenset({States.pending, States.fail_retryable})
INTERNAL = "_parsl_internal"
UNSEEN = "(too quick to be seen)"
"""Stands for the executor of tasks that were forgotten before they were looked at."""


@dataclass
class Count:
    """Tasks of one executor by what has become of them.

    Attributes:
        held: Held back, for results of other tasks or before another try.
        sent: With the executor, running ones included.
        done: Ended with a value.
        failed: Ended with an exception.
    """

    held: int = 0
    sent: int = 0
    done: int = 0
    failed: int = 0


class Tally:
    """Follows the tasks of a DataFlowKernel: those that live now, and all that come.

    Each task is seen once, while it is in `dfk.tasks` or when another task that depends on it is, and reports its own
    end through a callback of its future. A task that came and went between two looks is known from the kernel's totals
    only; with one executor it can only have been that one's.

    Args:
        dfk: The kernel. What is read of it is public: `tasks`, `task_count`, `task_state_counts` and `executors`.
    """

    def __init__(self, dfk: Any) -> None:
        self.dfk = dfk
        self._lock = threading.Lock()  # executors end their tasks in threads of their own
        self._live: dict[int, tuple[str, Mapping[str, Any]]] = {}
        self._done: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._doubtful: set[int] = set()
        self._missed: set[int] = set()
        self._ended_seen = 0
        self._ended_before = self._all_in(FINAL_STATES)
        self._failed_before = self._all_in(FINAL_FAILURE_STATES)
        self._next_id: int = dfk.task_count
        for task_id, record in list(dfk.tasks.items()):
            if task_id < self._next_id and not record["app_fu"].done():
                self._enter(record)

    @property
    def unseen(self) -> int:
        """How many tasks ended before they were seen; of those that were missed, some may only be on their way in."""
        return min(len(self._missed), max(0, self._all_in(FINAL_STATES) - self._ended_before - self._ended_seen))

    def look(self) -> None:
        """Takes notice of the tasks that came since the last look."""
        total = self.dfk.task_count
        if total == self._next_id and not self._doubtful and len(self._missed) == self.unseen:
            return
        once_absent = self._doubtful
        self._doubtful = once_absent | set(range(self._next_id, total))
        self._next_id = total
        # Parsl stages a task's files between counting it and entering it, which may take any time.
        for task_id in sorted(self._doubtful | (self._missed & self.dfk.tasks.keys())):
            record = self.dfk.tasks.get(task_id)
            if record is not None:
                self._see(record)
        # What is absent now is gone, or is counted but not yet entered in the table: the next look tells.
        self._missed |= self._doubtful & once_absent
        self._doubtful -= once_absent

    def _see(self, record: Mapping[str, Any]) -> None:
        found = [record]
        while found:
            record = found.pop()
            task_id = record["id"]
            if task_id not in self._doubtful and task_id not in self._missed:
                continue
            self._doubtful.discard(task_id)
            self._missed.discard(task_id)
            self._enter(record)
            found += [future.task_record for future in record["depends"] if self._is_ours(future)]

    def _enter(self, record: Mapping[str, Any]) -> None:
        group = _group(record)
        self._live[record["id"]] = (group, record)
        record["app_fu"].add_done_callback(partial(self._ended, record["id"], group))

    def _is_ours(self, future: Future[Any]) -> bool:
        return isinstance(future, AppFuture) and future.task_record["dfk"] is self.dfk

    def _ended(self, task_id: int, group: str, future: Future[Any]) -> None:
        failed = future.cancelled() or future.exception() is not None
        with self._lock:
            (self._failed if failed else self._done)[group] += 1
            self._ended_seen += 1
            self._live.pop(task_id, None)

    def counts(self) -> dict[str, Count]:
        """The state now, by executor in the order of the configuration, then by join_app, then what nobody saw."""
        counts = {label: Count() for label in self.dfk.executors if label != INTERNAL}
        with self._lock:
            live = list(self._live.values())
            done, failed = dict(self._done), dict(self._failed)
        for group, number in done.items():
            counts.setdefault(group, Count()).done = number
        for group, number in failed.items():
            counts.setdefault(group, Count()).failed = number
        for group, record in live:
            count = counts.setdefault(group, Count())
            if record["status"] in HELD_BACK:
                count.held += 1
            else:
                count.sent += 1
        unseen = self.unseen
        if unseen:
            of = next(iter(counts)) if len(counts) == 1 else UNSEEN
            unseen_failed = min(
                unseen, max(0, self._all_in(FINAL_FAILURE_STATES) - self._failed_before - sum(failed.values()))
            )
            count = counts.setdefault(of, Count())
            count.failed += unseen_failed
            count.done += unseen - unseen_failed
        return counts

    def _all_in(self, states: Iterable[States]) -> int:
        return sum(self.dfk.task_state_counts.get(state, 0) for state in states)


def _group(record: Mapping[str, Any]) -> str:
    """A join_app runs in a thread of Parsl's own and stands for what it sends elsewhere, so it has its own name."""
    label = str(record["executor"])
    return str(record["func_name"]) if label == INTERNAL else label
