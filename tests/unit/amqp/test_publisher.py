from __future__ import annotations

from concurrent.futures import wait

import pytest
from broker_harness import drain
from once import wait_until

from parsl_globus.amqp import Publisher
from parsl_globus.errors import BrokerRefused, LinkClosed, LinkGaveUp

DEADLINE_S = 20


@pytest.fixture
def publisher(bench, url):
    publisher = Publisher(lambda: url, exchange=bench.exchange, routing_key=bench.results_key, name="test")
    publisher.start()
    yield publisher
    publisher.stop()
    assert not publisher.alive


def test_a_future_is_done_once_the_broker_has_the_message(bench, publisher):
    futures = [publisher.publish(b"%d" % i) for i in range(500)]
    done, _ = wait(futures, timeout=DEADLINE_S)
    assert len(done) == 500
    assert all(future.exception() is None for future in done)
    assert bench.length(bench.results) == 500


def test_what_was_published_while_the_network_was_away_arrives_later(bench, publisher, proxy):
    publisher.publish(b"before").result(DEADLINE_S)
    proxy.cut()
    futures = [publisher.publish(b"%d" % i) for i in range(50)]
    assert not any(future.done() for future in futures)
    proxy.mend()
    done, _ = wait(futures, timeout=DEADLINE_S)
    assert len(done) == 50
    bodies = {delivery.body for delivery in drain(bench.collect(bench.results), 51)}
    assert bodies == {b"before", *(b"%d" % i for i in range(50))}


def test_nothing_is_lost_when_connections_break_in_the_middle(bench, publisher, proxy):
    futures = []
    for i in range(2_000):
        futures.append(publisher.publish(b"%d" % i))
        if i % 400 == 399:
            futures[-200].result(DEADLINE_S)
            proxy.cut_once()
    done, _ = wait(futures, timeout=DEADLINE_S)
    assert len(done) == 2_000
    assert all(future.exception() is None for future in done)
    batches = bench.collect(bench.results)
    seen: set[bytes] = set()
    while len(seen) < 2_000:
        seen |= {delivery.body for delivery in batches.get(timeout=DEADLINE_S)}


def test_a_message_that_reaches_no_queue_is_refused_and_the_others_go_on(bench, url):
    publisher = Publisher(lambda: url, exchange=bench.exchange, routing_key=bench.unbound_key, name="test")
    publisher.start()
    with pytest.raises(BrokerRefused) as caught:
        publisher.publish(b"lost").result(DEADLINE_S)
    assert caught.value.routing_key == bench.unbound_key
    publisher.stop()


def test_stop_fails_what_was_never_confirmed(bench, proxy, url):
    proxy.cut()
    publisher = Publisher(lambda: url, exchange=bench.exchange, routing_key=bench.results_key, name="test")
    publisher.start()
    future = publisher.publish(b"x")
    publisher.stop(flush_timeout_s=0.1)
    with pytest.raises(LinkClosed):
        future.result(DEADLINE_S)
    with pytest.raises(LinkClosed):
        publisher.publish(b"y").result(DEADLINE_S)


def test_giving_up_fails_what_waits(bench, proxy, url):
    proxy.cut()
    publisher = Publisher(
        lambda: url, exchange=bench.exchange, routing_key=bench.results_key, name="test", give_up_after_s=0.3
    )
    publisher.start()
    with pytest.raises(LinkGaveUp):
        publisher.publish(b"x").result(DEADLINE_S)
    publisher.stop()


def test_it_tells_whether_the_broker_can_be_reached(publisher, proxy):
    publisher.publish(b"before").result(DEADLINE_S)
    assert not publisher.failing
    proxy.cut()
    wait_until(lambda: publisher.failing, "the link seems to be up")
    proxy.mend()
    publisher.publish(b"after").result(DEADLINE_S)
    assert not publisher.failing
