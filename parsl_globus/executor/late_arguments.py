"""Which arguments can be encoded as late as they are sent: large ones that nobody can change meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: Below this, waiting as text costs nothing worth mentioning.
LATE_BYTES = 64 * 1024
#: Looking at more values than this would cost more than encoding some of them.
MOST_VALUES = 1000
#: What pickling adds: to each value and tuple, and around all of them. It is less.
_FRAME_BYTES = 32
#: Values of these types take no more than `_FRAME_BYTES`.
_SMALL = (type(None), bool, float)


def late_size(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int | None:
    """How many bytes at most these arguments take when pickled; `None` if they may change, or are not large.

    Bytes, ASCII text, numbers, and tuples of these qualify. Instances of subclasses don't: they can hold anything; nor
    do tuples in tuples, of which a few can be without end.
    """
    total = _FRAME_BYTES + sum(len(name.encode("utf-8", "replace")) + _FRAME_BYTES for name in kwargs)
    values: list[Any] = []
    for value in (*args, *kwargs.values()):
        if type(value) is not tuple:
            values.append(value)
            continue
        if len(value) > MOST_VALUES:
            return None
        values += value
        total += _FRAME_BYTES
    if len(values) > MOST_VALUES:
        return None
    for value in values:
        size = _size(value)
        if size is None:
            return None
        total += size
    return total if total > LATE_BYTES else None


def _size(value: Any) -> int | None:
    kind = type(value)
    if kind is bytes or (kind is str and value.isascii()):
        return len(value) + _FRAME_BYTES
    if kind in _SMALL:
        return _FRAME_BYTES
    if kind is int:
        return int(value.bit_length()) // 8 + _FRAME_BYTES
    return None
