"""The progress view over a real DataFlowKernel."""

from __future__ import annotations

import io
import re
import threading
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import parsl
import pytest
from parsl import Config, join_app, python_app
from parsl.dataflow.futures import AppFuture
from parsl.dataflow.states import States
from parsl.executors import ThreadPoolExecutor

from parsl_globus.executor.progress import Count, Tally, line, progress


@pytest.fixture(params=[True, False], ids=["forgets", "keeps"])
def dfk(request: Any, tmp_path: Any) -> Any:
    """With Parsl's default, which forgets ended tasks, and with one that keeps them."""
    config = Config(
        executors=[ThreadPoolExecutor(label=label, max_threads=1) for label in ("near", "far")],
        run_dir=str(tmp_path),
        strategy="none",
        initialize_logging=False,
        garbage_collect=request.param,
    )
    with parsl.load(config) as kernel:
        yield kernel


@python_app(executors=["near"])
def hold(event: Any) -> None:
    event.wait(30)


@python_app(executors=["far"])
def after(_before: Any) -> Any:
    return 1


@python_app(executors=["far"])
def fail(_before: Any) -> None:
    raise LookupError


@join_app
def joined(event: Any) -> Any:
    return hold(event)


class Lines(io.StringIO):
    """A stream that tells when a line says something."""

    def __init__(self) -> None:
        super().__init__()
        self._said = threading.Condition()

    def write(self, text: Any) -> Any:
        with self._said:
            self._said.notify_all()
            return super().write(text)

    def wait_for(self, text: Any) -> None:
        with self._said:
            assert self._said.wait_for(lambda: text in self.getvalue(), timeout=10), self.getvalue()


def test_every_state_is_told_by_executor(dfk: Any) -> None:
    event, stream = threading.Event(), Lines()
    with progress(interval_s=0.05, stream=stream):
        held = hold(event)
        futures = [after(held), after(held), fail(held)]
        stream.wait_for("near: 0 wait, 1 sent, 0 done, 0 failed | far: 3 wait, 0 sent, 0 done, 0 failed\n")
        event.set()
        for future in futures:
            future.exception()
    last = stream.getvalue().splitlines()[-1]
    assert last.endswith("near: 0 wait, 0 sent, 1 done, 0 failed | far: 0 wait, 0 sent, 2 done, 1 failed")
    assert re.match(r" +\d+ s  near", last)


def test_a_join_app_has_its_own_name(dfk: Any) -> None:
    event, stream = threading.Event(), Lines()
    with progress(interval_s=0.05, stream=stream, dfk=dfk):
        future = joined(event)
        stream.wait_for("near: 0 wait, 1 sent, 0 done, 0 failed")
        stream.wait_for("joined: 0 wait, 1 sent, 0 done, 0 failed")
        event.set()
        future.result()
    assert stream.getvalue().endswith("joined: 0 wait, 0 sent, 1 done, 0 failed\n")


def test_thread_ends_and_error_of_the_body_passes(dfk: Any) -> None:
    with pytest.raises(LookupError):
        with progress(stream=io.StringIO()):
            raise LookupError
    assert "parsl-globus-progress" not in {thread.name for thread in threading.enumerate()}


def test_a_closed_stream_ends_the_view_only(dfk: Any, caplog: Any) -> None:
    stream = io.StringIO()
    with progress(interval_s=0.01, stream=stream):
        stream.close()
        assert after(None).result() == 1
    assert "No more progress lines" in caplog.text


def task(tally_dfk: Any, task_id: Any, depends: Any = (), status: Any = States.pending) -> Any:
    record: Any = {"id": task_id, "executor": "near", "func_name": "f", "status": status, "depends": list(depends)}
    record["dfk"] = tally_dfk
    record["app_fu"] = AppFuture(record)
    return record


@pytest.fixture
def kernel() -> Any:
    """The public tables of a DataFlowKernel, where a test decides what ended between two looks."""
    return SimpleNamespace(task_count=0, tasks={}, executors={"near": None})


def test_a_task_that_ended_before_it_was_seen_is_found_through_the_one_that_needs_it(kernel: Any) -> None:
    first = task(kernel, 0)
    second = task(kernel, 1, [first["app_fu"], Future()])
    first["app_fu"].set_result(None)
    kernel.task_count, kernel.tasks = 2, {1: second}
    tally = Tally(kernel)
    tally.look()
    assert tally.counts() == {"near": Count(waits=1, done=1)}
    assert tally.unseen == 0


def test_a_task_that_nobody_saw_is_said_to_be_unseen(kernel: Any) -> None:
    tally = Tally(kernel)
    kernel.task_count = 1
    tally.look()
    assert tally.unseen == 0  # it may be about to be entered
    tally.look()
    assert tally.unseen == 1
    assert "seen: 1" in line(tally.counts(), 3.2, tally.unseen)


def test_a_task_that_is_entered_late_is_not_missed(kernel: Any) -> None:
    tally = Tally(kernel)
    kernel.task_count = 1
    tally.look()
    kernel.tasks[0] = task(kernel, 0, status=States.launched)
    tally.look()
    tally.look()
    assert tally.counts() == {"near": Count(sent=1)}
    assert tally.unseen == 0
