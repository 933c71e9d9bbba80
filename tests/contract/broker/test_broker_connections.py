"""Confirms, returns, heartbeats and the end of a connection."""

from __future__ import annotations

from typing import Any

import pika
import pytest
from broker_harness import Bench, Inbox, bodies, drain, wait_for
from pika.adapters.select_connection import SelectConnection


def test_a_confirmed_message_is_in_the_queue(bench: Bench) -> None:
    with bench.channel() as channel:
        channel.confirm_delivery()
        for number in range(1, 4):
            channel.basic_publish(bench.exchange, bench.results_key, b"x", mandatory=True)
            bench.wait_length(bench.results, number)


def test_a_mandatory_message_that_no_queue_takes_comes_back(bench: Bench) -> None:
    body = b"x" * 300_000
    with bench.channel() as channel:
        channel.confirm_delivery()
        with pytest.raises(pika.exceptions.UnroutableError) as returned:
            channel.basic_publish(bench.exchange, bench.unbound_key, body, mandatory=True)
        (message,) = returned.value.messages
        assert (message.method.reply_code, message.body) == (312, body)
        channel.basic_publish(bench.exchange, bench.unbound_key, b"not mandatory: dropped, but confirmed")


class _Publisher:
    """Publishes without waiting, and takes confirms as the public agent does: a tag that comes twice is an error."""

    def __init__(self, bench: Bench, count: int) -> None:
        self._bench = bench
        self._count = count
        self.waiting = set(range(1, count + 1))
        self.error: BaseException | None = None
        self._connection = SelectConnection(
            pika.URLParameters(bench.url()),
            on_open_callback=lambda connection: connection.channel(on_open_callback=self._on_channel),
            on_open_error_callback=self._on_end,
            on_close_callback=self._on_end,
        )

    def run(self) -> None:
        self._connection.ioloop.start()
        self._connection.ioloop.close()

    def _on_channel(self, channel: Any) -> None:
        channel.confirm_delivery(self._on_confirm)  # without a callback for the reply: nowait
        for number in range(self._count):
            channel.basic_publish(self._bench.exchange, self._bench.results_key, b"%d" % number, mandatory=True)

    def _on_confirm(self, frame: Any) -> None:
        tag = frame.method.delivery_tag
        if frame.method.NAME != "Basic.Ack" or tag not in self.waiting:
            self.error = AssertionError(f"unexpected {frame.method}")
            self._connection.close()
            return
        self.waiting.remove(tag)
        if frame.method.multiple:
            self.waiting = {other for other in self.waiting if other > tag}
        if not self.waiting:
            self._connection.close()

    def _on_end(self, _connection: Any, _error: Any) -> None:
        self._connection.ioloop.stop()


def test_each_message_of_a_stream_is_confirmed_once(bench: Bench) -> None:
    batches = bench.collect(bench.results)
    publisher = _Publisher(bench, 2000)
    publisher.run()
    assert publisher.error is None
    assert not publisher.waiting
    assert bodies(drain(batches, 2000)) == [b"%d" % number for number in range(2000)]


def test_a_peer_without_heartbeats_is_dropped_and_its_messages_go_to_another(bench: Bench) -> None:
    bench.publish(b"0", b"1")
    dead = pika.BlockingConnection(pika.URLParameters(bench.url() + "?heartbeat=1"))
    Inbox(dead.channel(), bench.tasks, exclusive=True).wait(2)
    # From here on nobody serves this connection: no heartbeat goes out, but the socket stays open.
    bench.wait_length(bench.tasks, 2)
    with bench.channel() as channel:
        assert bodies(Inbox(channel, bench.tasks, exclusive=True).wait(2)) == [b"0", b"1"]
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        dead.process_data_events(time_limit=5)


def test_an_idle_connection_lives_on_heartbeats(bench: Bench) -> None:
    with bench.connection(heartbeat_s=1) as connection:
        inbox = Inbox(connection.channel(), bench.tasks)
        connection.sleep(3.5)
        bench.publish(b"still here")
        assert bodies(inbox.wait(1)) == [b"still here"]


def test_a_client_may_go_without_heartbeats(bench: Bench) -> None:
    with bench.connection(heartbeat_s=0) as connection:
        bench.publish(b"fine")
        assert bodies(Inbox(connection.channel(), bench.tasks).wait(1)) == [b"fine"]


def test_a_second_channel_and_a_second_connection_do_not_disturb(bench: Bench) -> None:
    with bench.connection() as connection:
        connection.channel().close()
        first = connection.channel()
        second = connection.channel()
        first.close()
        bench.publish(b"body")
        assert bodies(Inbox(second, bench.tasks).wait(1)) == [b"body"]


def test_stopping_twice_is_harmless(bench: Bench) -> None:
    bench.stop_broker()
    bench.stop_broker()


def test_a_client_that_reads_nothing_holds_up_nobody(bench: Bench) -> None:
    large = b"x" * 1_000_000
    with bench.connection(heartbeat_s=0) as slow:
        inbox = Inbox(slow.channel(), bench.tasks)
        for _ in range(40):
            bench.publish(large)
        with bench.connection() as quick:
            group = f"{bench.name}.group.quick"
            bench.run(bench.broker.declare_queue(group))
            bench.publish(b"quick", to=group)
            assert bodies(Inbox(quick.channel(), group).wait(1)) == [b"quick"]
            bench.run(bench.broker.delete_queue(group))
        assert bodies(inbox.wait(40)) == [large] * 40


def test_passing_on_what_comes(bench: Bench) -> None:
    """The whole way of a result: client to service to another client, acknowledged when it is passed on."""
    from parsl_globus.service.broker.base import Delivery, Publication

    group = f"{bench.name}.group.1"
    bench.run(bench.broker.declare_queue(group))

    async def forward(batch: Any) -> None:
        arrived: list[Delivery] = list(batch)
        await bench.broker.publish([Publication(group, one.body) for one in arrived])

    bench.run(bench.broker.consume(bench.results, forward))
    with bench.connection() as sender, bench.connection() as receiver:
        inbox = Inbox(receiver.channel(), group)
        channel = sender.channel()
        for number in range(500):
            channel.basic_publish(bench.exchange, bench.results_key, b"%d" % number)
        assert bodies(inbox.wait(500)) == [b"%d" % number for number in range(500)]
    wait_for(lambda: bench.length(bench.results) == 0, "the results were never done")
    bench.run(bench.broker.delete_queue(group))
