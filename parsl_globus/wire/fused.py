"""Several tasks in one trip to a worker, and their results on the way back: frames between agent and worker."""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from parsl_globus.errors import DecodeError

#: Of a task message: how much of the first one's rest it begins with, and ends with, and how many bytes are its own.
_SHARED = struct.Struct(">III")
#: A message begins with what is its own, such as the task's id. The rest is mostly that of the others: the code that
#: runs it, and its function.
_OWN_BYTES = 128
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
    """Join task messages. The inverse of `split_bodies`.

    What they share with the first one is in it once: all of it is encrypted and decrypted twice on its way, which is
    most of what Parsl's interchange does.
    """
    parts: list[bytes] = []
    first = b""
    for body in bodies:
        rest = body[_OWN_BYTES:]
        begins = _common_start(first, rest)
        ends = _common_end(first, rest, min(len(first), len(rest)) - begins)
        own = body[:_OWN_BYTES] + rest[begins : len(rest) - ends]
        parts += (_SHARED.pack(begins, ends, len(own)), own)
        first = first or rest
    return b"".join(parts)


def _common_start(one: bytes, other: bytes) -> int:
    same, limit = 0, min(len(one), len(other)) + 1  # the same up to here; and not up to here
    while limit - same > 1:
        middle = (same + limit) // 2
        if one[same:middle] == other[same:middle]:
            same = middle
        else:
            limit = middle
    return same


def _common_end(one: bytes, other: bytes, most: int) -> int:
    same, limit = 0, most + 1
    while limit - same > 1:
        middle = (same + limit) // 2
        if one[len(one) - middle : len(one) - same] == other[len(other) - middle : len(other) - same]:
            same = middle
        else:
            limit = middle
    return same


def split_bodies(packed: bytes) -> list[bytes]:
    """The task messages of one trip.

    Raises:
        DecodeError: They don't follow the format.
    """
    bodies: list[bytes] = []
    first = b""
    position = 0
    while position < len(packed):
        start = position + _SHARED.size
        begins, ends, own_bytes = _SHARED.unpack_from(packed, position) if start <= len(packed) else (0, 0, 1)
        position = start + own_bytes
        if position > len(packed):
            raise DecodeError(what="fused tasks", size_bytes=len(packed), detail="they are cut short")
        if begins + ends > len(first):
            raise DecodeError(what="fused tasks", size_bytes=len(packed), detail="they share more than there is")
        own = packed[start:position]
        rest = first[:begins] + own[_OWN_BYTES:] + first[len(first) - ends :]
        bodies.append(own[:_OWN_BYTES] + rest)
        first = first or rest
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
