"""Deliveries to results, with a stand-in for the broker and an engine that does as told."""

from __future__ import annotations

import queue
import threading
import time
import uuid
from concurrent.futures import Future
from typing import cast

import pytest
from once import wait_until

from parsl_globus.endpoint import outbox as outbox_module
from parsl_globus.endpoint.engine import Engine, EngineFailure
from parsl_globus.endpoint.intake import MAX_ATTEMPTS, Intake
from parsl_globus.endpoint.outbox import Outbox
from parsl_globus.endpoint.spool import SpooledTask
from parsl_globus.errors import BrokerRefused
from parsl_globus.wire.codec import unpack
from parsl_globus.wire.messages import Result


class ToldEngine:
    """Answers each task by a function."""

    def __init__(self) -> None:
        self.submitted = []
        self.answer = lambda task: b"result of " + task.body

    def submit(self, task):
        self.submitted.append(task)
        future: Future[bytes] = Future()
        answer = self.answer(task)
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
        return future

    def submit_all(self, tasks):
        return [self.submit(task) for task in tasks]


class HeldEngine:
    """Keeps its one task until it loses it."""

    def __init__(self) -> None:
        self._future: Future[bytes] = Future()
        self._submitted = threading.Event()
        self.count = 0

    def submit(self, _task):
        self.count += 1
        self._submitted.set()
        return self._future

    def submit_all(self, tasks):
        return [self.submit(task) for task in tasks]

    def wait_submitted(self):
        assert self._submitted.wait(10)

    def lose(self):
        self._future.set_exception(EngineFailure("TaskLost", "the endpoint was stopped", lost=True))


class Parts:
    def __init__(self, spool, broker, **settings) -> None:
        self.failures: list[str] = []
        self.engine = ToldEngine()
        self.outbox = Outbox(spool, broker.publish, on_spooled=lambda ids: None, on_failure=self.failures.append)
        settings.setdefault("on_failure", self.failures.append)
        self.intake = Intake(spool, cast(Engine, self.engine), self.outbox, **settings)
        self.outbox.start()
        self.intake.start()


@pytest.fixture
def parts(spool, broker):
    made = []

    def make(**settings):
        made.append(Parts(spool, broker, **settings))
        return made[-1]

    yield make
    for one in made:
        one.intake.stop()
        one.outbox.stop()


def test_a_task_is_acknowledged_run_and_answered(parts, broker, spool, delivery):
    running = parts()
    deliveries = [delivery(body=b"%d" % n, resource_specification='{"priority": 1}') for n in range(20)]
    running.intake.take(broker, deliveries)
    broker.wait_for(lambda seen: len(seen.published) == 20)
    assert running.outbox.wait_empty(5)
    assert sorted(broker.published) == sorted(b"result of %d" % n for n in range(20))
    assert broker.acknowledged == deliveries
    assert running.engine.submitted[0].resource_specification == {"priority": 1}
    running.outbox.stop()
    left = spool.recover()
    assert (left.accepted, left.handed_over, left.results) == ([], [], [])


def test_a_redelivered_task_runs_once(parts, broker, delivery):
    running = parts()
    once = delivery()
    running.intake.take(broker, [once, once])
    broker.wait_for(lambda seen: len(seen.published) == 1)
    running.intake.take(broker, [once])
    broker.wait_for(lambda seen: len(seen.acknowledged) == 3)
    assert len(running.engine.submitted) == 1


def test_a_nameless_delivery_is_dropped_and_the_others_go_on(parts, broker, delivery):
    running = parts()
    nameless, named = delivery(task_uuid=None), delivery()
    running.intake.take(broker, [nameless, named])
    broker.wait_for(lambda seen: len(seen.published) == 1)
    assert broker.refused == [nameless]
    assert broker.acknowledged == [named]


@pytest.mark.parametrize(
    "headers",
    [
        {"function_uuid": None},
        {"function_uuid": "x"},
        {"resource_specification": "{"},
        {"resource_specification": "[1]"},
        {"result_serializers": "json"},
    ],
)
def test_a_malformed_task_gets_an_answer(parts, broker, delivery, headers):
    running = parts()
    task_id = uuid.uuid4()
    running.intake.take(broker, [delivery(task_id, **headers)])
    broker.wait_for(lambda seen: len(seen.published) == 1)
    result = unpack(broker.published[0], Result)
    assert (result.task_id, result.error_details.code) == (task_id, "MalformedTask")
    assert running.engine.submitted == []


@pytest.mark.parametrize(
    ("header", "known"),
    [
        ("3.12.1", "3.12"),
        ("3.9", "3.9"),
        ("3.14.0rc1+x", "3.14"),
        (None, None),
        ("unknown", None),
        (3, None),
        ("3", None),
    ],
)
def test_the_python_that_a_function_comes_from_goes_with_its_task(parts, broker, delivery, header, known):
    running = parts()
    running.intake.take(broker, [delivery(python_version=header)])
    broker.wait_for(lambda seen: len(seen.published) == 1)
    assert running.engine.submitted[0].sender_python == known


def test_a_task_of_an_older_agent_s_spool_runs(parts, broker, spool, delivery):
    function = str(uuid.uuid4())
    headers = {"function": function, "resources": None, "serializers": None}
    spool.accept(
        [SpooledTask(uuid.uuid4(), b"old", headers), SpooledTask(uuid.uuid4(), b"new", {**headers, "python": "3.9"})]
    )
    running = parts()
    for task in spool.recover().accepted:
        running.intake.run_again(task)
    broker.wait_for(lambda seen: len(seen.published) == 2)
    assert {task.body: task.sender_python for task in running.engine.submitted} == {b"old": None, b"new": "3.9"}


def test_only_allowed_functions_run(parts, broker, delivery):
    allowed = uuid.uuid4()
    running = parts(allowed_functions=[allowed])
    running.intake.take(broker, [delivery(function_uuid=str(allowed)), delivery()])
    broker.wait_for(lambda seen: len(seen.published) == 2)
    assert len(running.engine.submitted) == 1
    codes = [unpack(body, Result).error_details.code for body in broker.published if body.startswith(b"\x01")]
    assert codes == ["FunctionNotAllowed"]


@pytest.mark.parametrize(("retries", "runs"), [(0, 1), (2, 3)])
def test_a_lost_task_runs_again_as_often_as_allowed(parts, broker, delivery, retries, runs):
    running = parts(max_retries=retries)
    running.engine.answer = lambda task: EngineFailure("WorkerLost", "the worker is gone", lost=True)
    running.intake.take(broker, [delivery()])
    broker.wait_for(lambda seen: len(seen.published) == 1)
    assert len(running.engine.submitted) == runs
    assert unpack(broker.published[0], Result).error_details.code == "WorkerLost"


def test_a_lost_task_that_had_not_begun_runs_again_whatever_is_allowed(parts, broker, delivery):
    asked = []
    running = parts(take_back=lambda task: asked.append(task.attempt) or True)
    lost = EngineFailure("WorkerLost", "the block is gone", lost=True)
    running.engine.answer = lambda task: lost if task.attempt < 3 else b"done"
    task_id = uuid.uuid4()
    running.intake.take(broker, [delivery(task_id)])
    broker.wait_for(lambda seen: seen.published == [b"done"])
    assert asked == [1, 2]
    assert running.intake.attempt(task_id) == 3


def test_a_task_that_never_begins_fails_in_the_end(parts, broker, delivery):
    running = parts(take_back=lambda task: True)
    running.engine.answer = lambda task: EngineFailure("WorkerLost", "the worker is gone", lost=True)
    running.intake.take(broker, [delivery()])
    broker.wait_for(lambda seen: len(seen.published) == 1)
    assert len(running.engine.submitted) == MAX_ATTEMPTS


def test_a_task_that_surely_never_began_runs_again_without_being_taken_back(parts, broker, delivery):
    running = parts(take_back=lambda _task: False)
    never = EngineFailure("TaskLost", "it waited behind another", lost=True, begun=False)
    running.engine.answer = lambda task: never if task.attempt == 1 else b"done"
    running.intake.take(broker, [delivery()])
    broker.wait_for(lambda seen: seen.published == [b"done"])
    assert [task.attempt for task in running.engine.submitted] == [1, 2]


@pytest.mark.parametrize("keep", [True, False])
def test_what_had_not_begun_when_the_endpoint_stops_waits_for_the_next_start(parts, broker, spool, delivery, keep):
    running = parts(take_back=lambda task: True)
    held = HeldEngine()
    running.intake._engine = held
    running.intake.take(broker, [delivery(body=b"x")])
    held.wait_submitted()
    assert running.intake.outstanding == 1
    running.intake.stop(keep=keep)
    held.lose()
    if keep:
        left = spool.recover()
        assert [(task.body, task.attempt) for task in left.accepted] == [(b"x", 1)]
        assert broker.published == []
    else:
        broker.wait_for(lambda seen: len(seen.published) == 1)


@pytest.mark.parametrize(("begun", "retries"), [(False, 0), (True, 1), (True, 0)])
def test_a_task_that_is_cancelled_just_when_it_is_lost_does_not_run_again(
    parts, broker, spool, delivery, begun, retries
):
    task_id = uuid.uuid4()

    def take_back(_task):  # what is asked first when a task is lost; the cancellation comes in the middle
        cancelled = threading.Event()
        running.intake.cancel([task_id], cancelled.set)
        assert cancelled.wait(60)
        return not begun

    running = parts(take_back=take_back, max_retries=retries)
    running.intake._engine = held = HeldEngine()
    running.intake.take(broker, [delivery(task_id)])
    held.wait_submitted()
    held.lose()
    broker.wait_for(lambda seen: len(seen.published) == 1)
    assert unpack(broker.published[0], Result).error_details.code == "TaskCancelled"
    passed = threading.Event()
    running.intake.cancel([], passed.set)  # the intake has passed whatever came before
    assert passed.wait(60)
    assert held.count == 1
    assert running.intake.outstanding == 0
    assert running.outbox.wait_empty(60)
    assert (spool.recover().accepted, spool.recover().handed_over) == ([], [])
    assert not any((running.intake._waiting, running.intake._live, running.intake._lost, running.intake._cancelling))


def test_unconfirmed_results_stay_on_disk(parts, broker, spool, delivery):
    running = parts()
    broker.hold = True
    running.intake.take(broker, [delivery(body=b"x")])
    broker.wait_for(lambda seen: len(seen.published) == 1)
    assert not running.outbox.wait_empty(0)
    assert [body for _, body in spool.recover().results] == [b"result of x"]
    broker.unconfirmed[0].set_result(None)
    assert running.outbox.wait_empty(5)
    running.outbox.tidy()
    running.outbox.stop()
    assert spool.recover().results == []


def test_many_confirmed_results_are_forgotten_at_once(parts, broker, spool, delivery, monkeypatch):
    monkeypatch.setattr(outbox_module, "_CONFIRMED_COUNT", 3)
    forgotten: queue.Queue[int] = queue.Queue()
    original = spool.confirmed
    monkeypatch.setattr(spool, "confirmed", lambda ids: (original(ids), forgotten.put(len(ids))))
    running = parts()
    for _ in range(7):
        running.intake.take(broker, [delivery()])
        assert running.outbox.wait_empty(60)
    # The thread comes to it when it does, and forgets what was confirmed by then.
    count = forgotten.get(timeout=60)
    assert count >= 3
    running.outbox.stop()
    while not forgotten.empty():
        count += forgotten.get()
    assert (running.outbox.moved, count, spool.recover().results) == (7, 7, [])


def test_results_that_the_broker_took_and_lost_are_told_once_they_are_asked_for(
    parts, broker, spool, delivery, monkeypatch
):
    running = parts()
    old, on_its_way, unknown = (uuid.uuid4() for _ in range(3))
    running.intake.take(broker, [delivery(old)])
    assert running.outbox.wait_empty(60)
    asked: queue.Queue[int] = queue.Queue()

    def ask():
        running.outbox.asked_for([old, on_its_way, unknown], lambda: asked.put(len(spool.recover().results)))
        return asked.get(timeout=60)

    running.outbox.tidy()
    wait_until(lambda: spool.answered([old], time.time() + 60), "the result was not forgotten")
    assert ask() == 0  # it was taken just now, and may be at the service before long
    monkeypatch.setattr(outbox_module, "_TAKEN_S", 0.0)
    broker.hold = True
    running.intake.take(broker, [delivery(on_its_way)])
    broker.wait_for(lambda seen: len(seen.published) == 2)
    assert ask() == 2  # on disk before the question is acknowledged
    broker.wait_for(lambda seen: len(seen.published) == 3)
    lost = unpack(broker.published[2], Result)
    assert (lost.task_id, lost.error_details.code) == (old, "TaskLost")
    assert (running.outbox.unconfirmed, running.intake.outstanding) == (2, 0)
    assert ask() == 2  # and answered once, as long as that is on its way
    assert (running.outbox.done, running.outbox.failed) == (2, 0)
    for future in broker.unconfirmed:
        future.set_result(None)
    assert running.outbox.wait_empty(60)


def test_a_refused_result_is_offered_again(parts, broker, delivery, monkeypatch):
    monkeypatch.setattr(outbox_module, "RETRY_AFTER_S", 0.01)
    running = parts()
    broker.hold = True
    running.intake.take(broker, [delivery()])
    broker.wait_for(lambda seen: len(seen.published) == 1)
    broker.hold = False
    broker.unconfirmed[0].set_exception(BrokerRefused(routing_key="k", detail="no route"))
    broker.wait_for(lambda seen: len(seen.published) == 2)
    assert running.outbox.wait_empty(5)


def test_a_task_on_disk_runs_on_demand(parts, broker, spool):
    running = parts()
    task = SpooledTask(uuid.uuid4(), b"old", {"function": "f"})
    spool.accept([task])
    running.intake.run_again(task)
    broker.wait_for(lambda seen: seen.published == [b"result of old"])
    assert [engine_task.task_id for engine_task in running.engine.submitted] == [task.task_id]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("count", [1, 2])
def test_a_broken_spool_is_reported_once_and_nothing_acknowledged(parts, broker, spool, delivery, count):
    failures: queue.Queue[str] = queue.Queue()
    running = parts(on_failure=failures.put)
    spool._db.execute("DROP TABLE tasks")
    running.intake.take(broker, [delivery() for _ in range(count)])
    assert failures.get(timeout=60)
    running.intake.take(broker, [delivery()])
    running.intake.take(broker, [delivery(), delivery()])
    running.intake._turns._thread.join(60)
    assert not running.intake._turns._thread.is_alive()
    assert failures.empty()
    assert broker.acknowledged == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("count", [1, 2])
def test_results_that_can_t_be_written_are_reported_once_and_not_sent(broker, spool, count):
    failures: queue.Queue[str] = queue.Queue()
    outbox = Outbox(spool, broker.publish, on_spooled=lambda ids: None, on_failure=failures.put)
    spool._db.execute("DROP TABLE results")
    if count == 1:
        outbox.start()
    for _ in range(count):
        outbox.put(uuid.uuid4(), b"result")
    if count > 1:
        outbox.start()
    assert failures.get(timeout=60)
    outbox.put(uuid.uuid4(), b"result")
    outbox._turns._thread.join(60)
    assert not outbox._turns._thread.is_alive()
    assert failures.empty()
    assert broker.published == []


def test_a_lone_task_and_its_result_pass_without_a_thread(parts, broker, spool, delivery, monkeypatch):
    threads = []
    for part, name in ((Intake, "_work"), (Outbox, "_write")):

        def noting(self, items, original=getattr(part, name)):
            threads.append(threading.current_thread().name)
            return original(self, items)

        monkeypatch.setattr(part, name, noting)
    running = parts()
    broker.hold = True
    running.intake.take(broker, [delivery(body=b"x")])
    # The engine of this test answers at once, so all of it has happened by now.
    assert (broker.published, len(broker.acknowledged)) == ([b"result of x"], 1)
    assert threads == [threading.current_thread().name] * 2
    broker.unconfirmed[0].set_result(None)
    assert running.outbox.wait_empty(60)
    assert threads[2:] == []
    running.outbox.stop()
    assert threads[2:] == ["outbox"]


def test_a_lone_task_waits_its_turn_behind_others(parts, broker, spool, delivery):
    running = parts()
    first, last = delivery(body=b"first"), delivery(body=b"last")
    with running.intake._turns._turn:
        running.intake.take(broker, [first])
        running.intake.take(broker, [last])
        assert running.engine.submitted == []
    broker.wait_for(lambda seen: len(seen.published) == 2)
    assert broker.acknowledged == [first, last]


def test_nothing_begins_after_the_intake_s_stop(parts, broker, delivery):
    running = parts()
    running.intake.stop()
    running.intake.take(broker, [delivery()])
    assert running.engine.submitted == []


def test_a_spool_that_breaks_when_a_task_is_lost_is_reported(parts, broker, spool, delivery):
    running = parts(take_back=lambda task: True)
    held = HeldEngine()
    running.intake._engine = held
    running.intake.take(broker, [delivery()])
    held.wait_submitted()
    spool._db.execute("DROP TABLE tasks")
    held.lose()
    assert running.failures
    assert broker.published == []
