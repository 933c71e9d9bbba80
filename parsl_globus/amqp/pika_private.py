"""What of pika's insides is touched, and why.

pika reads a socket 4 KiB at a time, appends that to the frame that is arriving, and hands over what it has after
100 KiB. A frame of 128 KiB is copied 32 times by that, and a task of a no-op takes two reads. It writes each frame on
its own, of which every message has three, and each wakes whoever reads. pika offers no argument for this;
`tests/unit/amqp/test_pika_private.py` fails when it moves.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pika.adapters.select_connection import SelectConnection

#: Bytes of one read. With more than this, pika copies what is left of it for too many small frames.
READ_BYTES = 64 * 1024
#: Bytes after which other events are looked at.
TURN_BYTES = 512 * 1024


def read_more_at_once(connection: SelectConnection) -> None:
    """Have an open connection read its socket in larger pieces."""
    transport = connection._transport
    if transport is not None:
        transport._MAX_RECV_BYTES = READ_BYTES
        transport._MAX_CONSUME_BYTES = TURN_BYTES


@contextmanager
def written_together(connection: SelectConnection) -> Iterator[None]:
    """What is written on an open connection meanwhile leaves in as few packets as possible, at the end; on Linux."""
    option = getattr(socket, "TCP_CORK", None)
    transport = connection._transport
    if option is None or transport is None:
        yield
        return
    link = transport._sock
    with suppress(OSError):  # of a connection that is being closed, whoever writes is told
        link.setsockopt(socket.IPPROTO_TCP, option, 1)
    try:
        yield
    finally:
        with suppress(OSError):
            link.setsockopt(socket.IPPROTO_TCP, option, 0)
