"""What of pika's insides is touched, and why.

pika reads a socket 4 KiB at a time, appends that to the frame that is arriving, and hands over what it has after
100 KiB. A frame of 128 KiB is copied 32 times by that, and a task of a no-op takes two reads. It writes each frame on
its own, of which every message has three, and each wakes whoever reads; and only when the thread has looked at all its
sockets again. pika offers no argument for this;
`tests/unit/amqp/test_pika_private.py` fails when it moves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from pika.adapters.base_connection import BaseConnection
from pika.adapters.utils.io_services_utils import _AsyncPlaintextTransport

#: Bytes of one read. With more than this, pika copies what is left of it for too many small frames.
READ_BYTES = 64 * 1024
#: Bytes after which other events are looked at.
TURN_BYTES = 512 * 1024
#: Bytes of one write that consists of several frames.
WRITE_BYTES = 64 * 1024


def read_more_at_once(connection: BaseConnection) -> None:
    """Have an open connection read its socket in larger pieces."""
    transport = connection._transport
    if transport is not None:
        transport._MAX_RECV_BYTES = READ_BYTES
        transport._MAX_CONSUME_BYTES = TURN_BYTES


@contextmanager
def written_together(connection: BaseConnection) -> Iterator[None]:
    """What is sent on an open connection meanwhile is written in few pieces, and at once; on the connection's thread.

    pika only keeps it until the thread waits again. What it kept before stays as it is, for part of that may be sent.
    """
    transport = connection._transport
    before = len(transport._tx_buffers) if transport is not None else 0
    yield
    if transport is None or len(transport._tx_buffers) <= before:
        return  # nothing was sent; or the connection broke meanwhile
    if len(transport._tx_buffers) - before > 1:
        _join(transport._tx_buffers, before)
    # Otherwise the socket took no more; and TLS may have to read first.
    if not before and isinstance(transport, _AsyncPlaintextTransport):
        transport._on_socket_writable()


def _join(buffers: deque[bytes], first: int) -> None:
    frames = [buffers.pop() for _ in range(len(buffers) - first)]
    piece = bytearray()
    for frame in reversed(frames):
        if piece and len(piece) + len(frame) > WRITE_BYTES:
            buffers.append(bytes(piece))
            piece = bytearray()
        piece += frame
    buffers.append(bytes(piece))
