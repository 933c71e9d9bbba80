"""What the stream doesn't bring: asked for over REST, of a service that answers as told."""

from __future__ import annotations

import pickle
import threading
import time
import uuid
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from parsl_globus.client.rest import STATUS_BATCH
from parsl_globus.errors import (
    DecodeError,
    ExecutorShutDown,
    NotAuthorized,
    RequestRefused,
    ServiceUnreachable,
    TaskLost,
)
from parsl_globus.executor import results as results_module
from parsl_globus.executor.results import Results
from parsl_globus.wire.codec import pack
from parsl_globus.wire.documents import TaskStatus
from parsl_globus.wire.messages import Result
from parsl_globus.wire.payload import pack_runner_record, to_text


class ToldService:
    url = "http://127.0.0.1:1"

    def __init__(self) -> None:
        self.answers: list[object] = []
        self.asked = threading.Semaphore(0)
        self.hold = threading.Lock()  # held by who wants the second request and later ones to wait
        self.counts: list[int] = []

    def result_access(self):
        error = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        assert isinstance(error, Exception)
        raise error

    def task_statuses(self, task_ids):
        if self.counts:
            with self.hold:
                pass
        self.counts.append(len(task_ids))
        answer = self.answers.pop(0) if self.answers else {}
        self.asked.release()
        if isinstance(answer, Exception):
            raise answer
        return {task_id: status for task_id, status in answer.items() if task_id in task_ids}


@pytest.fixture
def service():
    return ToldService()


@pytest.fixture
def results(service, monkeypatch):
    monkeypatch.setattr(results_module, "RETRY_PERIOD_S", 0.01)
    results = Results(service, endpoint_id=uuid.uuid4(), label="test", service_timeout_s=None, offline_timeout_s=None)
    results.start()
    yield results
    results.stop(ExecutorShutDown(label="test"))


def wait_asked(service, count):
    for _ in range(count):
        assert service.asked.acquire(timeout=10)


def running(task_id):
    return TaskStatus(task_id=task_id, status="waiting-for-ep")


def test_asking_again_soon_when_the_service_does_not_answer(service, results):
    task_id, future = uuid.uuid4(), Future()
    results.pending.add({task_id: future})
    record = pack_runner_record({"kind": "value", "data": to_text(pickle.dumps(42))})
    ended = TaskStatus(task_id=task_id, status="success", completion_t="1", result=record)
    service.answers = [ServiceUnreachable(url=service.url), ServiceUnreachable(url=service.url), {task_id: ended}]
    results._reconcile_now.set()
    wait_asked(service, 3)
    assert future.result(10) == 42
    assert len(results.pending) == 0


def test_a_task_that_the_service_has_lost_fails(service, results):
    lost, known = uuid.uuid4(), uuid.uuid4()
    futures = {lost: Future(), known: Future()}
    results.pending.add(futures)
    for _ in range(2):
        assert not futures[lost].done(), "one answer is not enough"
        service.answers = [{known: running(known)}]
        results._reconcile_now.set()
        wait_asked(service, 1)
    with pytest.raises(TaskLost, match="does not know this task"):
        futures[lost].result(10)
    assert not futures[known].done()


def test_many_tasks_are_asked_for_one_request_after_another(service, results):
    futures = {uuid.uuid4(): Future() for _ in range(STATUS_BATCH + 1)}
    results.pending.add(futures)
    first, *_, last = futures
    record = pack_runner_record({"kind": "value", "data": to_text(pickle.dumps(42))})
    ended = TaskStatus(task_id=first, status="success", completion_t="1", result=record)
    service.hold.acquire()
    service.answers = [{task_id: running(task_id) for task_id in futures} | {first: ended}, {last: running(last)}]
    results._reconcile_now.set()
    wait_asked(service, 1)
    assert futures[first].result(10) == 42, "before the next request is answered"
    service.hold.release()
    wait_asked(service, 1)
    assert service.counts == [STATUS_BATCH, 1]
    assert len(results.pending) == STATUS_BATCH


def test_asking_that_takes_long_is_done_rarely(service, monkeypatch):
    monkeypatch.setattr(results_module, "RECONCILE_SHARE", 1e-9)
    monkeypatch.setattr(results_module, "RECONCILE_PERIOD_S", 0.01)
    rare = Results(service, endpoint_id=uuid.uuid4(), label="rare", service_timeout_s=None, offline_timeout_s=None)
    task_id, future = uuid.uuid4(), Future()
    rare.pending.add({task_id: future})
    service.answers = [{task_id: running(task_id)}]
    rare.start()
    wait_asked(service, 1)
    assert not service.asked.acquire(timeout=0.3)
    rare._reconcile_now.set()  # as after a reconnect: at once nevertheless
    wait_asked(service, 1)
    rare.stop(ExecutorShutDown(label="test"))


@pytest.mark.parametrize(
    "last", [NotAuthorized(http_status=401, code="C", reason="revoked"), ServiceUnreachable(url="u")]
)
def test_why_no_stream_came_is_told_by_type(service, last):
    service.answers = [NotAuthorized(http_status=401, code="C", reason="just started"), last]
    results = Results(service, endpoint_id=uuid.uuid4(), label="test", service_timeout_s=0.8, offline_timeout_s=None)
    future: Future = Future()
    results.watch(uuid.uuid4(), {uuid.uuid4(): future})
    error = future.exception(10)
    assert type(error) is type(last)
    if isinstance(error, ServiceUnreachable):
        assert error.after_s >= 0.8
    results.stop(ExecutorShutDown(label="test"))


def value():
    return pack_runner_record({"kind": "value", "data": to_text(pickle.dumps(42))})


def ended(task_id):
    return TaskStatus(task_id=task_id, status="success", result=value())  # without a time: not all services tell it


def test_a_round_goes_on_where_the_service_had_enough(service, results):
    futures = {uuid.uuid4(): Future() for _ in range(STATUS_BATCH + 1)}
    results.pending.add(futures)
    last = list(futures)[-1]
    busy = RequestRefused(http_status=429, code="C", reason="slow down")
    service.answers = [{task_id: running(task_id) for task_id in futures}, busy, {last: ended(last)}]
    results._reconcile_now.set()
    assert futures[last].result(10) == 42
    assert service.counts == [STATUS_BATCH, 1, 1]


def test_a_malformed_answer_holds_up_no_other_tasks(service, results):
    futures = {uuid.uuid4(): Future() for _ in range(STATUS_BATCH + 1)}
    results.pending.add(futures)
    last = list(futures)[-1]
    service.answers = [DecodeError(what="batch status", size_bytes=1, detail="bad"), {last: ended(last)}]
    results._reconcile_now.set()
    assert futures[last].result(10) == 42
    assert service.counts == [STATUS_BATCH, 1]


def test_results_that_can_t_be_read_have_outstanding_tasks_asked_for_but_not_each(service, results, monkeypatch):
    monkeypatch.setattr(results_module, "DOUBT_PERIOD_S", 0.5)
    task_id, future = uuid.uuid4(), Future()
    results.pending.add({task_id: future})
    consumer = SimpleNamespace(acknowledge=lambda _deliveries: None)
    bad = SimpleNamespace(body=b"no message")
    began = time.monotonic()
    service.answers = [{task_id: running(task_id)}] * 2 + [{task_id: ended(task_id)}]
    results._arrived.put((consumer, [bad]))
    wait_asked(service, 1)  # at once
    for _ in range(50):
        results._arrived.put((consumer, [bad]))
    wait_asked(service, 1)
    results._arrived.put((consumer, [bad]))
    assert future.result(10) == 42
    assert len(service.counts) <= 3 + (time.monotonic() - began) / 0.5


def test_results_that_come_while_others_are_kept_are_kept_together(service, monkeypatch):
    monkeypatch.setattr(results_module, "KEPT_TOGETHER", 30)
    kept, acknowledged, written = [], [], threading.Event()

    def keep(answers):
        kept.append(len(answers))
        if len(kept) == 1:
            began.set()
            assert written.wait(10)

    began = threading.Event()
    results = Results(
        service, endpoint_id=uuid.uuid4(), label="test", service_timeout_s=None, offline_timeout_s=None, keep=keep
    )
    futures = {uuid.uuid4(): Future() for _ in range(51)}
    results.pending.add(futures)
    results.start()
    consumer: Any = SimpleNamespace(acknowledge=acknowledged.extend)
    for position, task_id in enumerate(futures):
        delivery: Any = SimpleNamespace(body=pack(Result(task_id=task_id, data=value())))
        results._arrived.put((consumer, [delivery]))
        if position == 0:
            assert began.wait(10)
    written.set()
    assert [future.result(10) for future in futures.values()] == [42] * 51
    results.stop(ExecutorShutDown(label="test"))
    assert (kept, len(acknowledged)) == ([1, 30, 20], 51)


def test_a_callback_that_ends_its_thread_takes_no_other_result_along(service, results):
    def leave(_future):
        raise SystemExit

    futures = {uuid.uuid4(): Future() for _ in range(2)}
    results.pending.add(futures)
    first, second = futures
    futures[first].add_done_callback(leave)
    service.answers = [{task_id: ended(task_id) for task_id in futures}]
    results._reconcile_now.set()
    assert futures[second].result(10) == futures[first].result(10) == 42


def test_an_endpoint_that_can_not_be_asked_for_hinders_nobody(service, monkeypatch):
    monkeypatch.setattr(results_module, "OFFLINE_CHECK_PERIOD_S", 0.01)

    def refuse(_endpoint_id):
        raise NotAuthorized(http_status=403, code="C", reason="no longer shared")

    service.endpoint_status = refuse
    watching = Results(service, endpoint_id=uuid.uuid4(), label="test", service_timeout_s=None, offline_timeout_s=60)
    task_id, future = uuid.uuid4(), Future()
    watching.pending.add({task_id: future})
    service.answers = [{task_id: ended(task_id)}]
    watching._reconcile_now.set()
    watching.start()
    assert future.result(10) == 42
    watching.stop(ExecutorShutDown(label="test"))
