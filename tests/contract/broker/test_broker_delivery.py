"""What comes out of a broker: everything that went in, in order, again if it was not acknowledged."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence

import pika
import pytest
from broker_harness import DEADLINE_S, Bench, Inbox, bodies, cut, drain, wait_for

from parsl_globus.errors import BrokerRefused
from parsl_globus.service.broker.base import Delivery, Publication


def _numbered(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(start, start + count)]


# ---- from the service to a client -------------------------------------------------------------------------------


def test_a_client_gets_body_and_properties(bench: Bench) -> None:
    headers = {"task_uuid": "é" * 40, "serializers": ["a", "b"], "count": -5, "yes": True, "no": False}
    publication = Publication(
        bench.tasks, b"body", headers=headers, content_type="application/json", timestamp_s=1_700_000_000
    )
    bench.run(bench.broker.publish([publication]))
    with bench.channel() as channel:
        (got,) = Inbox(channel, bench.tasks).wait(1)
    assert got.body == b"body"
    assert got.properties.headers == headers
    assert got.properties.content_type == "application/json"
    assert got.properties.timestamp == 1_700_000_000
    assert got.properties.delivery_mode == 2
    assert not got.redelivered


def test_an_empty_body_arrives(bench: Bench) -> None:
    bench.publish(b"", b"next")
    with bench.channel() as channel:
        assert bodies(Inbox(channel, bench.tasks).wait(2)) == [b"", b"next"]


def test_a_waiting_client_gets_what_is_published_later(bench: Bench) -> None:
    with bench.channel() as channel:
        inbox = Inbox(channel, bench.tasks)
        for body in _numbered(3):
            bench.publish(body)
            assert bodies(inbox.wait(1)) == [body]


def test_a_queue_of_a_granted_prefix_is_consumed(bench: Bench) -> None:
    name = f"{bench.name}.group.1"
    bench.run(bench.broker.declare_queue(name))
    bench.publish(b"result", to=name)
    with bench.channel() as channel:
        assert bodies(Inbox(channel, name).wait(1)) == [b"result"]
    bench.run(bench.broker.delete_queue(name))


def test_five_thousand_messages_pass_in_order(bench: Bench) -> None:
    sent = _numbered(5000)
    with bench.channel() as channel:
        inbox = Inbox(channel, bench.tasks)
        for start in range(0, 5000, 500):
            bench.publish(*sent[start : start + 500])
        got = inbox.wait(5000)
        channel.basic_ack(got[-1].tag, multiple=True)
    assert bodies(got) == sent
    assert bench.length(bench.tasks) == 0


def test_a_message_of_8_mb_passes_both_ways(bench: Bench) -> None:
    large = bytes(range(256)) * (8 * 1024 * 1024 // 256) + b"end"
    batches = bench.collect(bench.results)
    bench.publish(large)
    with bench.channel() as channel:
        channel.confirm_delivery()
        (got,) = Inbox(channel, bench.tasks).wait(1)
        channel.basic_publish(bench.exchange, bench.results_key, got.body)
    assert drain(batches, 1)[0].body == large


# ---- acknowledgements -------------------------------------------------------------------------------------------


def test_what_a_dead_consumer_held_is_delivered_again_in_order(bench: Bench) -> None:
    bench.publish(*_numbered(6))
    with bench.connection() as connection:
        channel = connection.channel()
        channel.basic_qos(prefetch_count=4)
        got = Inbox(channel, bench.tasks).wait(4)
        channel.basic_ack(got[1].tag)
        connection.process_data_events(time_limit=0)
        bench.wait_length(bench.tasks, 1)
        cut(connection)
        bench.wait_length(bench.tasks, 5)
    with bench.channel() as channel:
        again = Inbox(channel, bench.tasks).wait(5)
    assert bodies(again) == [b"0", b"2", b"3", b"4", b"5"]
    assert [got.redelivered for got in again[:3]] == [True] * 3
    assert not again[4].redelivered


def test_closing_a_channel_puts_back_what_it_held(bench: Bench) -> None:
    bench.publish(*_numbered(3))
    with bench.connection() as connection:
        channel = connection.channel()
        Inbox(channel, bench.tasks).wait(3)
        channel.close()
        again = Inbox(connection.channel(), bench.tasks).wait(3)
    assert bodies(again) == _numbered(3)


def test_no_more_than_the_prefetch_is_out(bench: Bench) -> None:
    bench.publish(*_numbered(10))
    with bench.channel() as channel:
        channel.basic_qos(prefetch_count=3)
        inbox = Inbox(channel, bench.tasks)
        got = inbox.wait(3)
        inbox.settle()
        assert not inbox.got
        assert bench.length(bench.tasks) == 7
        channel.basic_ack(got[0].tag)
        assert bodies(inbox.wait(1)) == [b"3"]
        inbox.settle()
        assert not inbox.got


def test_one_acknowledgement_covers_many(bench: Bench) -> None:
    bench.publish(*_numbered(6))
    with bench.channel() as channel:
        channel.basic_qos(prefetch_count=4)
        inbox = Inbox(channel, bench.tasks)
        got = inbox.wait(4)
        channel.basic_ack(got[2].tag, multiple=True)
        assert bodies(inbox.wait(2)) == [b"4", b"5"]
    with bench.channel() as channel:
        assert bodies(Inbox(channel, bench.tasks).wait(3)) == [b"3", b"4", b"5"]


def test_one_acknowledgement_passes_over_what_was_answered_before(bench: Bench) -> None:
    bench.publish(*_numbered(6))
    with bench.channel() as channel:
        inbox = Inbox(channel, bench.tasks)
        got = inbox.wait(6)
        channel.basic_nack(got[1].tag, requeue=False)
        channel.basic_ack(got[3].tag)
        channel.basic_ack(got[4].tag, multiple=True)
        inbox.settle()
    with bench.channel() as channel:
        assert bodies(Inbox(channel, bench.tasks).wait(1)) == [b"5"]


def test_tag_0_acknowledges_all(bench: Bench) -> None:
    bench.publish(*_numbered(3))
    with bench.channel() as channel:
        Inbox(channel, bench.tasks).wait(3)
        channel.basic_ack(0, multiple=True)
    assert bench.length(bench.tasks) == 0


def test_an_unknown_tag_closes_the_channel(bench: Bench) -> None:
    with bench.channel() as channel:
        channel.basic_ack(7)
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="406"):
            channel.queue_declare(bench.tasks, passive=True)


def test_nack_with_requeue_keeps_the_order(bench: Bench) -> None:
    bench.publish(*_numbered(4))
    with bench.channel() as channel:
        channel.basic_qos(prefetch_count=3)
        inbox = Inbox(channel, bench.tasks)
        got = inbox.wait(3)
        channel.basic_nack(got[1].tag, multiple=True, requeue=True)
        again = inbox.wait(2)
        assert bodies(again) == [b"0", b"1"]
        assert all(got.redelivered for got in again)


def test_nack_and_reject_without_requeue_drop(bench: Bench) -> None:
    bench.publish(*_numbered(3))
    with bench.channel() as channel:
        got = Inbox(channel, bench.tasks).wait(3)
        channel.basic_nack(got[0].tag, requeue=False)
        channel.basic_reject(got[1].tag, requeue=False)
        channel.basic_reject(got[2].tag, requeue=True)
    with bench.channel() as channel:
        assert bodies(Inbox(channel, bench.tasks).wait(1)) == [b"2"]


def test_automatic_acknowledgement(bench: Bench) -> None:
    bench.publish(*_numbered(3))
    with bench.channel() as channel:
        assert bodies(Inbox(channel, bench.tasks, auto_ack=True).wait(3)) == _numbered(3)
    assert bench.length(bench.tasks) == 0


def test_a_cancelled_consumer_gets_nothing_more_and_may_still_acknowledge(bench: Bench) -> None:
    bench.publish(b"0")
    with bench.channel() as channel:
        inbox = Inbox(channel, bench.tasks)
        (got,) = inbox.wait(1)
        channel.basic_cancel(inbox.tag)
        bench.publish(b"1")
        channel.basic_ack(got.tag)
        channel.connection.process_data_events(time_limit=0)
    bench.wait_length(bench.tasks, 1)


def test_consumers_of_one_queue_share_it(bench: Bench) -> None:
    with bench.channel() as one, bench.channel() as other:
        inboxes = [Inbox(one, bench.tasks), Inbox(other, bench.tasks)]
        bench.publish(*_numbered(10))
        shared = [bodies(inbox.wait(5)) for inbox in inboxes]
    assert sorted(shared[0] + shared[1]) == _numbered(10)


def test_basic_get(bench: Bench) -> None:
    bench.publish(*_numbered(2))
    with bench.channel() as channel:
        method, _, body = channel.basic_get(bench.tasks)
        assert (body, method.message_count) == (b"0", 1)
        channel.basic_ack(method.delivery_tag)
        channel.basic_get(bench.tasks, auto_ack=True)
        assert channel.basic_get(bench.tasks) == (None, None, None)


# ---- to the service -----------------------------------------------------------------------------------------------


def test_the_handler_gets_all_that_waits_at_once(bench: Bench) -> None:
    sent = _numbered(300)
    with bench.channel() as channel:
        channel.confirm_delivery()
        for body in sent:
            channel.basic_publish(bench.exchange, bench.results_key, body)
    batches = bench.collect(bench.results)
    assert bodies(drain(batches, 300)) == sent
    assert bench.length(bench.results) == 0


def test_batches_gather_while_the_handler_works(bench: Bench) -> None:
    sizes: queue.Queue[int] = queue.Queue()
    entered, go_on = threading.Event(), threading.Event()

    async def handler(batch: Sequence[Delivery]) -> None:
        import asyncio

        entered.set()
        await asyncio.get_running_loop().run_in_executor(None, go_on.wait, DEADLINE_S)
        sizes.put(len(batch))

    bench.run(bench.broker.consume(bench.tasks, handler, prefetch=50))
    bench.publish(b"first")
    assert entered.wait(DEADLINE_S)
    bench.publish(*_numbered(120))
    go_on.set()
    counts = [sizes.get(timeout=DEADLINE_S)]
    while sum(counts) < 121:
        counts.append(sizes.get(timeout=DEADLINE_S))
    assert max(counts) <= 50
    assert len(counts) <= 10


def test_the_handler_sees_key_and_headers(bench: Bench) -> None:
    batches = bench.collect(bench.results)
    with bench.channel() as channel:
        properties = pika.BasicProperties(headers={"a": "b", "n": [1, "x"]}, delivery_mode=2)
        channel.basic_publish(bench.exchange, bench.results_key, b"body", properties)
        (got,) = drain(batches, 1)
    assert got.routing_key == bench.results_key
    assert dict(got.headers) == {"a": "b", "n": [1, "x"]}
    assert not got.redelivered


def test_a_handler_that_raises_gets_the_same_again_in_order(bench: Bench) -> None:
    batches: queue.Queue[list[Delivery]] = queue.Queue()
    failures = iter([True, True])

    async def handler(batch: Sequence[Delivery]) -> None:
        if next(failures, False):
            raise RuntimeError("the store is away")
        batches.put(list(batch))

    bench.publish(*_numbered(20))
    bench.run(bench.broker.consume(bench.tasks, handler))
    bench.publish(*_numbered(20, start=20))
    got = drain(batches, 40)
    assert bodies(got) == _numbered(40)
    assert all(one.redelivered for one in got[:20])
    assert bench.length(bench.tasks) == 0


# ---- what a broker refuses to take --------------------------------------------------------------------------------


def test_publishing_to_an_unknown_queue_is_refused_and_the_others_are_taken(bench: Bench) -> None:
    with pytest.raises(BrokerRefused) as refusal:
        bench.run(bench.broker.publish([Publication(bench.absent, b"lost"), Publication(bench.tasks, b"kept")]))
    assert refusal.value.routing_key == bench.absent
    bench.wait_length(bench.tasks, 1)


def test_publishing_to_an_unbound_key_is_refused(bench: Bench) -> None:
    with pytest.raises(BrokerRefused):
        bench.run(bench.broker.publish([Publication(bench.unbound_key, b"lost", exchange=bench.exchange)]))


@pytest.mark.parametrize(
    "bad", [{"routing_key": "k" * 300}, {"headers": {"what": object()}}], ids=["long-key", "foreign-header"]
)
def test_what_amqp_has_no_bytes_for_is_refused_and_spoils_nothing(bench: Bench, bad) -> None:
    publication = Publication(**{"routing_key": bench.tasks, "body": b"bad", **bad})
    with pytest.raises(BrokerRefused):
        bench.run(bench.broker.publish([publication]))
    bench.publish(b"good")
    bench.wait_length(bench.tasks, 1)
    with pytest.raises(BrokerRefused):
        bench.publish(b"lost", to=bench.absent)


def test_a_full_queue_refuses_the_service_until_there_is_space(small_bench: Bench) -> None:
    bench = small_bench
    body = b"x" * 10_000
    taken = 0
    with pytest.raises(BrokerRefused):
        for _ in range(30):
            bench.publish(body)
            taken += 1
    assert 5 <= taken <= 15
    with bench.channel() as channel:
        got = Inbox(channel, bench.tasks).wait(taken)
        channel.basic_ack(got[-1].tag, multiple=True)
    bench.publish(body)


def test_a_full_queue_refuses_a_client(small_bench: Bench) -> None:
    bench = small_bench
    with bench.channel() as channel:
        channel.confirm_delivery()
        with pytest.raises(pika.exceptions.NackError):
            for _ in range(30):
                channel.basic_publish(bench.exchange, bench.results_key, b"x" * 10_000)
        assert channel.is_open


# ---- queues come and go -------------------------------------------------------------------------------------------


def test_declaring_twice_changes_nothing(bench: Bench) -> None:
    bench.publish(b"kept")
    bench.run(bench.broker.declare_queue(bench.tasks))
    bench.run(bench.broker.declare_exchange(bench.exchange))
    bench.run(bench.broker.declare_queue(bench.results, exchange=bench.exchange, binding_key="*.results"))
    bench.wait_length(bench.tasks, 1)
    bench.run(bench.broker.publish([Publication(bench.results_key, b"once", exchange=bench.exchange)]))
    bench.wait_length(bench.results, 1)


def test_a_deleted_queue_is_gone_and_its_consumer_is_told(bench: Bench) -> None:
    cancelled: list[object] = []
    with bench.channel() as channel:
        channel.add_on_cancel_callback(cancelled.append)
        Inbox(channel, bench.tasks)
        bench.run(bench.broker.delete_queue(bench.tasks))
        wait_for(lambda: bool(cancelled or channel.connection.process_data_events(0.1)), "no cancel came")
    assert bench.length(bench.tasks) is None
    bench.run(bench.broker.delete_queue(bench.tasks))


def test_consuming_an_unknown_queue_is_refused(bench: Bench) -> None:
    with pytest.raises(BrokerRefused):
        bench.collect(bench.absent)
