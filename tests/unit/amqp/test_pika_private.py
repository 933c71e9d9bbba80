"""Fails when pika moves what `pika_private` sets."""

from __future__ import annotations

import queue

from pika.adapters.utils.io_services_utils import _AsyncPlaintextTransport, _AsyncSSLTransport
from pika.channel import Channel

from parsl_globus.amqp import Link
from parsl_globus.amqp.pika_private import READ_BYTES, TURN_BYTES

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
