"""Fails when pika moves what `pika_private` sets."""

from __future__ import annotations

import queue
import socket

import pytest
from pika.adapters.utils.io_services_utils import _AsyncPlaintextTransport, _AsyncSSLTransport
from pika.channel import Channel

from parsl_globus.amqp import Link
from parsl_globus.amqp.pika_private import READ_BYTES, TURN_BYTES, written_together

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


@pytest.mark.skipif(not hasattr(socket, "TCP_CORK"), reason="only Linux has it")
def test_what_is_written_together_waits_for_the_end(url):
    opened: queue.Queue[Channel] = queue.Queue()
    link = Link(lambda: url, name="test", on_channel=opened.put)
    link.start()
    connection = opened.get(timeout=DEADLINE_S).connection
    try:
        with written_together(connection):
            assert corked(connection)
        assert not corked(connection)
    finally:
        link.stop()
    with written_together(connection):  # has no effect, and does no harm
        pass


def corked(connection) -> bool:
    return connection._transport._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CORK) == 1
