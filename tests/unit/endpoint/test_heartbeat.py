"""Signs of life, and the idle clock."""

from __future__ import annotations

import uuid
from concurrent.futures import Future
from queue import SimpleQueue

from parsl_globus.endpoint.heartbeat import Heartbeat, IdleClock, with_port
from parsl_globus.wire.codec import unpack
from parsl_globus.wire.messages import EPStatusReport


def _beats(state):
    published: SimpleQueue[bytes] = SimpleQueue()

    def publish(body):
        published.put(body)
        future: Future[None] = Future()
        future.set_result(None)
        return future

    endpoint_id = uuid.uuid4()
    return endpoint_id, Heartbeat(endpoint_id, publish, period_s=0.05, state=state), published


def test_the_first_beat_comes_at_once_and_the_last_says_goodbye():
    endpoint_id, beats, published = _beats(lambda: {"managers": 1})
    beats.start()
    for _ in range(3):
        report = unpack(published.get(timeout=5), EPStatusReport)
        assert report.endpoint_id == endpoint_id
        assert report.global_state == {"managers": 1, "heartbeat_period": 0.05}
    beats.stop({"heartbeat_period": 0})
    while not published.empty():
        last = unpack(published.get(), EPStatusReport)
    assert last.global_state == {"heartbeat_period": 0}


def test_a_state_that_cannot_be_told_does_not_end_the_beats(caplog):
    answers = iter([RuntimeError("no interchange"), {"managers": 2}])

    def state():
        answer = next(answers, {})
        if isinstance(answer, Exception):
            raise answer
        return answer

    _, beats, published = _beats(state)
    beats.start()
    assert unpack(published.get(timeout=5), EPStatusReport).global_state["managers"] == 2
    beats.stop({})
    assert "left out" in caplog.text


def test_idle_only_after_work_and_with_nothing_outstanding():
    clock = IdleClock(soft=2, hard=5)
    assert [clock.beat(moved=0, outstanding=0) for _ in range(4)] == [None] * 4
    assert clock.beat(moved=1, outstanding=1) is None
    assert clock.beat(moved=1, outstanding=1) is None
    assert clock.beat(moved=2, outstanding=0) is None
    assert clock.beat(moved=2, outstanding=0) is None
    assert "idle" in clock.beat(moved=2, outstanding=0)


def test_the_hard_limit_counts_whatever_is_outstanding():
    clock = IdleClock(soft=2, hard=3)
    clock.beat(moved=1, outstanding=1)
    assert [clock.beat(moved=1, outstanding=1) for _ in range(2)] == [None, None]
    assert "nothing moved" in clock.beat(moved=1, outstanding=1)


def test_without_the_soft_limit_it_never_ends():
    clock = IdleClock(soft=0, hard=1)
    assert [clock.beat(moved=1, outstanding=0) for _ in range(10)] == [None] * 10


def test_the_port_of_a_url():
    assert with_port("amqp://u:p%40@host:5672/v?heartbeat=3", 443) == "amqp://u:p%40@host:443/v?heartbeat=3"
    assert with_port("amqp://host/", None) == "amqp://host/"
