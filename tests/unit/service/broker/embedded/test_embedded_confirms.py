"""When a client's publish is confirmed: for what the service handles itself, only once it has."""

from __future__ import annotations

import asyncio
import threading

import pika
import pytest
from broker_harness import DEADLINE_S, Bench

from parsl_globus.service.broker.base import Grant
from parsl_globus.service.broker.embedded import EmbeddedBroker, frames
from parsl_globus.service.broker.embedded.publisher import ChannelPublisher, _Content
from parsl_globus.service.broker.embedded.queues import QueueTable

KEY = "a.results"


class NotingPeer:
    """A connection that notes the frames that it is to send."""

    def __init__(self) -> None:
        self.username = "test"
        self.grant = Grant(publish_keys=frozenset({("x", KEY)}))
        self.table = QueueTable(queue_limit_bytes=3000)
        self.frame_max = 131072
        self.message_limit_bytes = 10_000
        self.cancel_notify = False
        self.sent: list[bytes] = []
        self.pending = False

    def send(self, parts):
        self.sent += [bytes(part) for part in parts]

    def may_deliver(self, queue):
        return True

    def reserve(self, size_bytes):
        return

    def confirm_later(self, publisher):
        self.pending = True


class Case:
    def __init__(self):
        self.peer = NotingPeer()
        self.peer.table.declare_exchange("x")
        self.queue = self.peer.table.declare_queue("results")
        self.queue.confirm_handled = True
        self.peer.table.bind(self.queue, "x", "*.results")
        self.publisher = ChannelPublisher(1, self.peer)
        self.publisher.confirming = True

    def publish(self, body):
        content = _Content("x", KEY, 0)
        content.properties = b"\0\0"
        self.publisher._take_message(content, body)
        self.publisher.send_confirms()

    def handle(self, entry):
        self.queue.done(entry)
        self.publisher.send_confirms()

    def answers(self):
        sent, self.peer.sent = self.peer.sent, []
        return sent


@pytest.fixture
def case():
    return Case()


def ack(tag, *, multiple=False):
    return frames.encode_ack(1, tag, multiple=multiple)


def test_a_confirm_waits_for_the_handler(case):
    case.publish(b"1")
    case.publish(b"2")
    first, second = case.queue.pop(), case.queue.pop()
    assert case.answers() == []
    case.handle(first)
    assert case.answers() == [ack(1)]
    case.handle(second)
    assert case.answers() == [ack(2)]


def test_confirms_keep_the_order_of_the_tags(case):
    for body in (b"1", b"2", b"3"):
        case.publish(body)
    entries = [case.queue.pop() for _ in range(3)]
    case.handle(entries[2])
    case.handle(entries[1])
    assert case.answers() == []
    case.handle(entries[0])
    assert case.answers() == [ack(3, multiple=True)]


def test_a_refusal_waits_for_its_turn_and_is_said_once(case):
    case.publish(b"1")
    case.publish(b"x" * 5000)
    case.publish(b"3")
    assert case.answers() == []
    case.handle(case.queue.pop())
    assert case.answers() == [ack(1), frames.encode_nack(1, 2)]
    case.handle(case.queue.pop())
    assert case.answers() == [ack(3)]


def test_nothing_is_confirmed_on_a_channel_that_is_gone(case):
    case.publish(b"1")
    case.publisher.release()
    case.peer.pending = False
    case.handle(case.queue.pop())
    assert case.answers() == []
    assert not case.peer.pending


def test_what_other_queues_take_is_confirmed_at_once(case):
    case.queue.confirm_handled = False
    case.publish(b"1")
    assert case.answers() == [ack(1)]


def test_a_client_keeps_what_was_not_handled_when_the_broker_stops():
    bench = Bench(lambda authorize, _limit: EmbeddedBroker("127.0.0.1", 0, authorize))
    bench.start()
    entered, outcome = threading.Event(), []

    async def handler(_batch):
        entered.set()
        await asyncio.Event().wait()

    def publish():
        try:
            with bench.channel() as channel:
                channel.confirm_delivery()
                channel.basic_publish(bench.exchange, bench.results_key, b"result")
                outcome.append("confirmed")
        except pika.exceptions.AMQPError as exc:
            outcome.append(type(exc).__name__)

    try:
        bench.run(bench.broker.consume(bench.results, handler))
        client = threading.Thread(target=publish)
        client.start()
        assert entered.wait(DEADLINE_S)
        assert outcome == []
        bench.stop_broker()
        client.join(DEADLINE_S)
        assert outcome
        assert outcome != ["confirmed"]
    finally:
        bench.stop()
