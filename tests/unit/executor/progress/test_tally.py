"""What is known of tasks that come and go between two looks."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from parsl.dataflow.futures import AppFuture
from parsl.dataflow.states import States

from parsl_globus.executor.progress.tally import UNSEEN, Count, Tally


def task(dfk: Any, task_id: Any, depends: Any = (), status: Any = States.pending) -> Any:
    record: Any = {"id": task_id, "executor": "near", "func_name": "f", "status": status, "depends": list(depends)}
    record["dfk"] = dfk
    record["app_fu"] = AppFuture(record)
    return record


@pytest.fixture
def kernel() -> Any:
    """The public tables of a DataFlowKernel, where a test decides what ended between two looks."""
    return SimpleNamespace(
        task_count=0, tasks={}, task_state_counts=Counter(), executors={"near": None, "_parsl_internal": None}
    )


def test_a_task_that_ended_before_it_was_seen_is_found_through_the_one_that_needs_it(kernel: Any) -> None:
    tally = Tally(kernel)
    first = task(kernel, 0)
    second = task(kernel, 1, [first["app_fu"], Future()])
    first["app_fu"].set_result(None)
    kernel.task_count, kernel.tasks = 2, {1: second}
    tally.look()
    assert tally.counts() == {"near": Count(held=1, done=1)}
    assert tally.unseen == 0


def test_a_task_that_nobody_saw_was_the_only_executors(kernel: Any) -> None:
    tally = Tally(kernel)
    kernel.task_count = 2
    kernel.task_state_counts.update({States.failed: 1, States.exec_done: 1})
    tally.look()
    assert tally.unseen == 0  # it may be about to be entered
    tally.look()
    assert tally.unseen == 2
    assert tally.counts() == {"near": Count(done=1, failed=1)}


def test_with_several_executors_nobody_knows_whose_it_was(kernel: Any) -> None:
    kernel.executors["far"] = None
    tally = Tally(kernel)
    kernel.task_count = 3
    kernel.task_state_counts.update({States.dep_fail: 1, States.memo_done: 2})
    tally.look()
    tally.look()
    assert tally.counts() == {"near": Count(), "far": Count(), UNSEEN: Count(done=2, failed=1)}


def test_a_task_that_is_entered_late_is_not_missed(kernel: Any) -> None:
    tally = Tally(kernel)
    kernel.task_count = 1
    tally.look()
    kernel.tasks[0] = task(kernel, 0, status=States.launched)
    tally.look()
    tally.look()
    assert tally.counts() == {"near": Count(sent=1)}
    assert tally.unseen == 0


def test_a_task_whose_files_are_staged_for_long_is_not_done_and_is_seen_when_it_comes(kernel: Any) -> None:
    tally = Tally(kernel)
    kernel.task_count = 1
    for _look in range(3):
        tally.look()
        assert tally.counts() == {"near": Count()}
    kernel.tasks[0] = task(kernel, 0)
    tally.look()
    assert tally.counts() == {"near": Count(held=1)}
    kernel.task_state_counts[States.exec_done] += 1
    kernel.tasks.pop(0)["app_fu"].set_result(None)
    tally.look()
    assert tally.counts() == {"near": Count(done=1)}
    assert tally.unseen == 0


def test_what_ended_before_the_view_began_is_not_its_business(kernel: Any) -> None:
    old, failed, waits = (task(kernel, number) for number in range(3))
    old["app_fu"].set_result(None)
    failed["app_fu"].set_exception(LookupError())
    kernel.task_count, kernel.tasks = 3, {0: old, 1: failed, 2: waits}
    kernel.task_state_counts.update({States.exec_done: 1, States.failed: 1})
    tally = Tally(kernel)
    tally.look()
    assert tally.counts() == {"near": Count(held=1)}
    waits["app_fu"].set_result(None)
    assert tally.counts() == {"near": Count(done=1)}
    assert tally.unseen == 0
