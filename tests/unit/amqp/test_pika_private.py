"""Fails when pika moves what `pika_private` sets."""

from __future__ import annotations

import queue

import pytest
from pika.adapters.utils.io_services_utils import _AsyncPlaintextTransport, _AsyncSSLTransport
from pika.channel import Channel
from pika.frame import Method

from parsl_globus.amqp import Link
from parsl_globus.pika_private import READ_BYTES, TURN_BYTES, WRITE_BYTES, written_together

DEADLINE_S = 60


def test_the_sizes_are_where_they_were():
    for transport in (_AsyncPlaintextTransport, _AsyncSSLTransport):
        assert transport._MAX_RECV_BYTES == 4096
        assert transport._MAX_CONSUME_BYTES == 100 * 1024


def test_a_connection_reads_larger_pieces(url):
    opened: queue.Queue[Channel] = queue.Queue()
    link = Link(lambda: url, name="test", on_channel=opened.put)
    link.start()
    transport = opened.get(timeout=DEADLINE_S).connection._transport
    link.stop()
    assert (transport._MAX_RECV_BYTES, transport._MAX_CONSUME_BYTES) == (READ_BYTES, TURN_BYTES)
    # Of this connection only.
    assert _AsyncPlaintextTransport._MAX_RECV_BYTES == 4096


@pytest.mark.parametrize(("size_bytes", "pieces"), [(10, 1), (WRITE_BYTES, 6)])
def test_what_is_sent_together_is_few_pieces_and_comes(bench, url, size_bytes, pieces):
    opened: queue.Queue[Channel] = queue.Queue()
    told: queue.Queue[list[int]] = queue.Queue()
    confirmed: queue.Queue[Method] = queue.Queue()
    bodies = [b"%d" % number * size_bytes for number in range(3)]

    def publish() -> None:
        buffers = channel.connection._transport._tx_buffers
        channel.basic_publish(bench.exchange, bench.results_key, b"x")
        with written_together(channel.connection):
            for body in bodies:
                channel.basic_publish(bench.exchange, bench.results_key, body)
        told.put([len(buffer) for buffer in buffers])

    link = Link(lambda: url, name="test", on_channel=opened.put)
    link.start()
    try:
        channel = opened.get(timeout=DEADLINE_S)
        link.call(lambda: channel.confirm_delivery(confirmed.put, callback=lambda _frame: publish()))
        sizes = told.get(timeout=DEADLINE_S)
        assert len(sizes) == 3 + pieces  # the three frames of the one before
        assert sum(sizes[3:]) > sum(map(len, bodies))
        tag = 0
        while tag < 4:  # the broker has understood them
            tag = confirmed.get(timeout=DEADLINE_S).method.delivery_tag
    finally:
        link.stop()


def test_what_is_sent_together_is_sent_at_once(bench, url):
    opened: queue.Queue[Channel] = queue.Queue()
    left: queue.Queue[list[int]] = queue.Queue()

    def publish() -> None:
        transport = channel.connection._transport
        before = len(transport._tx_buffers)
        with written_together(channel.connection):
            channel.basic_publish(bench.exchange, bench.results_key, b"x" * 1000)
        left.put([before, len(transport._tx_buffers)])

    link = Link(lambda: url, name="test", on_channel=opened.put)
    link.start()
    try:
        channel = opened.get(timeout=DEADLINE_S)
        link.call(publish)
        assert left.get(timeout=DEADLINE_S) == [0, 0]
    finally:
        link.stop()
