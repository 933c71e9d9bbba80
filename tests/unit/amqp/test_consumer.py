from __future__ import annotations

import gc
import logging
import queue
import socket
import threading

import pytest
from once import wait_until
from pika.channel import Channel

from parsl_globus.amqp import Consumer, Delivery
from parsl_globus.amqp import consumer as consumer_module
from parsl_globus.errors import LinkGaveUp

DEADLINE_S = 20


class Sink:
    """Collects deliveries."""

    def __init__(self) -> None:
        self.deliveries: queue.Queue[Delivery] = queue.Queue()
        self.opened = threading.Semaphore(0)

    def take(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            self.deliveries.put(delivery)

    def get(self, count: int) -> list[Delivery]:
        return [self.deliveries.get(timeout=DEADLINE_S) for _ in range(count)]


@pytest.fixture
def sink():
    return Sink()


@pytest.fixture
def consumer(bench, url, sink):
    consumer = Consumer(lambda: url, bench.tasks, sink.take, name="test", on_open=sink.opened.release)
    consumer.start()
    assert sink.opened.acquire(timeout=DEADLINE_S)
    yield consumer
    consumer.stop()
    assert not consumer.alive


def test_deliveries_come_in_order_and_are_gone_once_acknowledged(bench, consumer, sink):
    bench.publish(*[b"%d" % i for i in range(500)])
    got = sink.get(500)
    assert [d.body for d in got] == [b"%d" % i for i in range(500)]
    assert not any(d.redelivered for d in got)
    consumer.acknowledge(got)
    consumer.stop()
    bench.wait_length(bench.tasks, 0)


@pytest.fixture
def answers(monkeypatch):
    """Tags that are acknowledged, each with whether that is for all before it; not before something else is sent."""
    monkeypatch.setattr(consumer_module, "ACKNOWLEDGE_AFTER_S", 600)
    monkeypatch.setattr(consumer_module, "ACKNOWLEDGE_COUNT", 600)
    answers = []
    answer = Channel.basic_ack
    monkeypatch.setattr(
        Channel,
        "basic_ack",
        lambda self, tag, multiple=False: (answers.append((tag, multiple)), answer(self, tag, multiple)),
    )
    return answers


def test_deliveries_in_turn_are_acknowledged_by_one_answer(answers, bench, consumer, sink):
    bench.publish(*[b"%d" % i for i in range(300)])
    got = sink.get(300)
    consumer.acknowledge(got[:100])
    consumer.acknowledge(got[100:])
    consumer.stop()
    bench.wait_length(bench.tasks, 0)
    assert answers == [(300, True)]


def test_what_is_answered_out_of_turn_costs_single_answers_only_until_all_before_it_is(answers, bench, consumer, sink):
    bench.publish(*[b"%d" % i for i in range(300)])
    got = sink.get(300)
    consumer.acknowledge(got[3:5])
    consumer.acknowledge(got[8:10])
    consumer.acknowledge([got[7], *got[5:7]])
    consumer.refuse(got[2:3], requeue=False)
    consumer.acknowledge(got[:2])
    consumer.acknowledge(got[10:200])
    consumer.acknowledge(got[200:])
    consumer.stop()
    bench.wait_length(bench.tasks, 0)
    single = [(tag, False) for tag in (4, 5, 9, 10, 8, 6, 7)]
    assert answers == [*single, (300, True)]


def test_an_acknowledgement_goes_out_though_nothing_follows(bench, url, sink):
    consumer = Consumer(lambda: url, bench.tasks, sink.take, name="test", prefetch=1)
    consumer._many = 2  # so that each waits for the timer
    consumer.start()
    try:
        bench.publish(b"a", b"b", b"c")
        for body in (b"a", b"b"):
            (one,) = sink.get(1)
            assert one.body == body
            consumer.acknowledge([one])
        (late,) = sink.get(1)
        # Until nothing is due any more, so that this acknowledgement has to see to itself.
        wait_until(lambda: not consumer._acknowledging_due, "the timer did not run")
        bench.publish(b"d")
        consumer.acknowledge([late])
        assert sink.get(1)[0].body == b"d"
    finally:
        consumer.stop()


@pytest.mark.parametrize(("prefetch", "count"), [(0, consumer_module.ACKNOWLEDGE_COUNT), (40, 10)])
def test_many_acknowledgements_do_not_wait(monkeypatch, bench, url, sink, prefetch, count):
    monkeypatch.setattr(consumer_module, "ACKNOWLEDGE_AFTER_S", 600)
    consumer = Consumer(
        lambda: url, bench.tasks, sink.take, name="test", prefetch=prefetch, on_open=sink.opened.release
    )
    consumer.start()
    try:
        assert sink.opened.acquire(timeout=DEADLINE_S)
        bench.publish(*[b"%d" % number for number in range(count)])
        got = sink.get(count)
        consumer.acknowledge(got[:-1])
        assert len(consumer._to_acknowledge) == count - 1
        consumer.acknowledge(got[-1:])
        wait_until(lambda: consumer._to_acknowledge == [], "they were not sent")
    finally:
        consumer.stop()


def test_what_waits_when_the_connection_breaks_holds_up_no_later_acknowledgement(monkeypatch, bench, url, proxy, sink):
    monkeypatch.setattr(consumer_module, "ACKNOWLEDGE_AFTER_S", 600)
    consumer = Consumer(lambda: url, bench.tasks, sink.take, name="test", prefetch=1, on_open=sink.opened.release)
    monkeypatch.setattr(consumer, "_many", 2)
    consumer.start()
    try:
        assert sink.opened.acquire(timeout=DEADLINE_S)
        bench.publish(b"a", b"b")
        consumer.acknowledge(sink.get(1))
        monkeypatch.setattr(consumer_module, "ACKNOWLEDGE_AFTER_S", 0.005)
        proxy.cut_once()
        assert sink.opened.acquire(timeout=DEADLINE_S)
        (again,) = sink.get(1)
        assert (again.body, again.redelivered) == (b"a", True)
        consumer.acknowledge([again])
        assert sink.get(1)[0].body == b"b"
    finally:
        consumer.stop()


def test_what_is_answered_out_of_turn_answers_for_nothing_else(bench, consumer, sink, proxy):
    bench.publish(*[b"%d" % i for i in range(10)])
    got = sink.get(10)
    consumer.acknowledge(got[:2])
    consumer.acknowledge(got[4:6])
    consumer.refuse(got[2:3], requeue=False)
    consumer.acknowledge([got[9], got[8]])
    consumer.refuse(got[7:8], requeue=True)  # an answer on the same channel: what was sent before it has arrived
    assert sink.get(1)[0].body == b"7"
    proxy.cut_once()
    assert sink.opened.acquire(timeout=DEADLINE_S)
    again = sink.get(3)
    assert sorted(d.body for d in again) == [b"3", b"6", b"7"]
    consumer.acknowledge(again)
    consumer.stop()
    bench.wait_length(bench.tasks, 0)


def test_what_was_not_answered_comes_again_after_a_broken_connection(bench, consumer, sink, proxy):
    bench.publish(b"a", b"b", b"c")
    first = sink.get(3)
    consumer.acknowledge(first[:1])
    consumer.refuse(first[1:2], requeue=True)  # an answer on the same channel: what was sent before it has arrived
    assert sink.get(1)[0].body == b"b"
    proxy.cut_once()
    assert sink.opened.acquire(timeout=DEADLINE_S)
    again = sink.get(2)
    assert sorted(d.body for d in again) == [b"b", b"c"]
    assert all(d.redelivered for d in again)
    consumer.acknowledge(first)  # of the broken channel: ignored
    consumer.acknowledge(again)
    consumer.stop()
    bench.wait_length(bench.tasks, 0)


def test_refused_without_requeue_is_gone(bench, consumer, sink):
    bench.publish(b"bad")
    consumer.refuse(sink.get(1), requeue=False)
    bench.publish(b"good")
    assert sink.get(1)[0].body == b"good"


def test_gives_up_after_a_while_and_says_so(bench, proxy, url, sink):
    proxy.cut()
    gave_up: queue.Queue[LinkGaveUp] = queue.Queue()
    consumer = Consumer(lambda: url, bench.tasks, sink.take, name="test", give_up_after_s=0.3, on_give_up=gave_up.put)
    consumer.start()
    error = gave_up.get(timeout=DEADLINE_S)
    assert error.after_s >= 0.3
    consumer.stop()


def test_an_outage_is_logged_once(bench, proxy, url, sink, caplog):
    caplog.set_level(logging.DEBUG, "parsl_globus.amqp")
    proxy.cut()
    gave_up: queue.Queue[LinkGaveUp] = queue.Queue()
    consumer = Consumer(lambda: url, bench.tasks, sink.take, name="test", give_up_after_s=2.0, on_give_up=gave_up.put)
    consumer.start()
    gave_up.get(timeout=DEADLINE_S)
    consumer.stop()
    levels = [record.levelno for record in caplog.records if "test is down" in record.getMessage()]
    assert levels == [logging.INFO, *[logging.DEBUG] * (len(levels) - 1)]
    assert len(levels) > 1


def test_a_queue_that_is_not_there_is_told_and_no_sign_of_life(bench, url, sink):
    missing, given_up = threading.Semaphore(0), queue.Queue()
    consumer = Consumer(
        lambda: url,
        bench.absent,
        sink.take,
        name="test",
        give_up_after_s=0.5,
        on_give_up=given_up.put,
        on_deleted=missing.release,
    )
    consumer.start()
    assert missing.acquire(timeout=DEADLINE_S)
    # Connections are opened all the time, but nothing can be consumed.
    error = given_up.get(timeout=DEADLINE_S)
    assert f"no queue '{bench.absent}'" in str(error)
    consumer.stop()


def test_a_url_that_can_t_be_had_is_a_failed_attempt(bench, url, sink):
    attempts = iter([OSError("no address yet"), url])

    def give():
        answer = next(attempts)
        if isinstance(answer, Exception):
            raise answer
        return answer

    consumer = Consumer(give, bench.tasks, sink.take, name="test", on_open=sink.opened.release)
    consumer.start()
    assert sink.opened.acquire(timeout=DEADLINE_S)
    consumer.stop()


def test_stop_before_start_and_twice_is_harmless(bench, url, sink):
    consumer = Consumer(lambda: url, bench.tasks, sink.take, name="test")
    consumer.stop()
    consumer.stop()
    assert not consumer.alive


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # pika leaves the socket to Python
def test_stop_while_nobody_answers_does_not_wait_for_ever(sink):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(DEADLINE_S)
        url = f"amqp://name:password@127.0.0.1:{silent.getsockname()[1]}/%2F"
        consumer = Consumer(lambda: url, "tasks", sink.take, name="test")
        consumer.start()
        theirs, _address = silent.accept()
        with theirs:
            theirs.recv(8)  # the protocol header, which is never answered
            consumer.stop()
            assert not consumer.alive
        del consumer
        gc.collect()


def test_stop_right_after_start_leaves_no_socket(bench, url, sink):
    for _ in range(20):
        consumer = Consumer(lambda: url, bench.tasks, sink.take, name="test")
        consumer.start()
        consumer.stop()
        assert not consumer.alive
    gc.collect()
