"""Trips whose end leaves questions: what has begun and what has not is told by marks, what has ended by notes."""

from __future__ import annotations

import uuid
from concurrent.futures import Future

import pytest

from parsl_globus.endpoint.engine import EngineFailure, EngineTask
from parsl_globus.endpoint.failures import ENGINE_FAILED, TASK_LOST, WORKER_LOST
from parsl_globus.endpoint.marks import Marks
from parsl_globus.endpoint.trips import NeverBegan, Trips
from parsl_globus.wire.fused import FusedResult, pack_result


@pytest.fixture
def marks(tmp_path):
    return Marks(tmp_path / "begun")


@pytest.fixture
def trips(tmp_path, marks):
    def end(future, result, error):
        if not future.done():
            future.set_exception(error) if error is not None else future.set_result(result)

    return Trips(tmp_path / "fused", marks, end, lambda *_: None, lambda _: None)


@pytest.fixture
def tasks():
    return [EngineTask(uuid.uuid4(), b"", function="f") for _ in range(4)]


@pytest.fixture
def futures(tasks):
    return {task.task_id: Future() for task in tasks}


def note(trip, task):
    with trip.path.open("ab") as notes:
        notes.write(pack_result(FusedResult(task.task_id, 1, b"noted")))


def begin(marks, *tasks):
    for task in tasks:
        assert marks.take_back(task.task_id, task.attempt)  # the worker makes the same file


def broken(_task):
    return EngineFailure(ENGINE_FAILED, "the worker raised", lost=False)


def test_what_has_begun_is_not_said_to_have_never_begun(trips, marks, tasks, futures):
    trip = trips.begin(tasks, futures)
    begin(marks, *tasks[:3])
    note(trip, tasks[0])
    trips.over(trip, None, broken)
    noted, ran, begun, waited = (futures[task.task_id] for task in tasks)
    assert noted.result(0) == b"noted"
    assert ran.exception(0).code == ENGINE_FAILED
    assert (begun.exception(0).code, begun.exception(0).lost, begun.exception(0).begun) == (TASK_LOST, True, True)
    assert isinstance(waited.exception(0), NeverBegan)
    assert not marks.take_back(tasks[3].task_id, 1), "it could begin after all"
    assert not trip.path.exists()


def test_a_lost_worker_is_told_for_each_that_is_left(trips, tasks, futures):
    trip = trips.begin(tasks, futures)
    note(trip, tasks[0])
    trips.over(trip, None, lambda task: EngineFailure(WORKER_LOST, str(task.task_id), lost=True))
    assert futures[tasks[0].task_id].result(0) == b"noted"
    for task in tasks[1:]:
        error = futures[task.task_id].exception(0)
        assert (error.code, str(error)) == (WORKER_LOST, str(task.task_id))


def test_what_a_worker_did_not_come_to_never_began(trips, tasks, futures):
    trip = trips.begin(tasks, futures)
    trips.over(trip, pack_result(FusedResult(tasks[0].task_id, 1, b"came")))
    assert futures[tasks[0].task_id].result(0) == b"came"
    assert all(isinstance(futures[task.task_id].exception(0), NeverBegan) for task in tasks[1:])


def test_what_is_noted_is_delivered_before_an_engine_stops(trips, tasks, futures):
    trip = trips.begin(tasks, futures)
    note(trip, tasks[0])
    trips.deliver_noted()
    assert futures[tasks[0].task_id].result(0) == b"noted"
    assert not futures[tasks[1].task_id].done()
