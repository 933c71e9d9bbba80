"""Several tasks in one trip to a worker, and their results on the way back: frames between agent and worker."""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from parsl_globus.errors import DecodeError

_LENGTH = struct.Struct(">Q")
#: The task's id, how long it took in nanoseconds, length of its result message, and its CRC 32.
_HEAD = struct.Struct(">16sQQI")
#: Where the CRC starts: nothing but zeros must not look like an empty result.
_CRC_START = 1


@dataclass(frozen=True)
class FusedResult:
    """One task's result.

    Attributes:
        task_id: Which of the tasks of its trip.
        took_ns: How long it took, in nanoseconds.
        body: Its packed result message.
    """

    task_id: uuid.UUID
    took_ns: int
    body: bytes = field(repr=False)


def pack_bodies(bodies: Sequence[bytes]) -> bytes:
    """Join task messages. The inverse of `split_bodies`."""
    return b"".join(part for body in bodies for part in (_LENGTH.pack(len(body)), body))


def split_bodies(packed: bytes) -> list[bytes]:
    """The task messages of one trip.

    Raises:
        DecodeError: They don't follow the format.
    """
    bodies: list[bytes] = []
    position = 0
    while position < len(packed):
        start = position + _LENGTH.size
        position = start + (_LENGTH.unpack_from(packed, position)[0] if start <= len(packed) else 1)
        if position > len(packed):
            raise DecodeError(what="fused tasks", size_bytes=len(packed), detail="they are cut short")
        bodies.append(packed[start:position])
    return bodies


def pack_result(result: FusedResult) -> bytes:
    """A result as it is written down, and sent."""
    head = _HEAD.pack(result.task_id.bytes, result.took_ns, len(result.body), zlib.crc32(result.body, _CRC_START))
    return head + result.body


def split_results(packed: bytes) -> Iterator[FusedResult]:
    """All whole results; the end may be missing where a worker died, or is just being written.

    Nothing after a result that isn't what was written: the file of a node that crashed may have holes.
    """
    position = 0
    while position + _HEAD.size <= len(packed):
        task_id, took_ns, size_bytes, crc = _HEAD.unpack_from(packed, position)
        start = position + _HEAD.size
        position = start + size_bytes
        body = packed[start:position]
        if len(body) < size_bytes or zlib.crc32(body, _CRC_START) != crc:
            return
        yield FusedResult(uuid.UUID(bytes=task_id), took_ns, body)
