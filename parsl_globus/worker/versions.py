"""Functions of the public SDK that come from another minor version of Python: found out before one is unpickled.

Our own runner is told its sender's versions, and knows by itself.
"""

from __future__ import annotations

import base64
import sys

from parsl_globus.errors import VersionMismatch
from parsl_globus.wire.payload import pack_buffers, split_buffers

#: Strategies of the SDK (PROTOCOL.md section 6): functions as dill or pickle has them, and combined with source.
_PICKLED = frozenset({"01\n", "02\n"})
_ALL_CODE = "12\n"
_COMBINED_CODE = "10\n"
_COMBINED_SEPARATOR = ":"
#: Those of `_COMBINED_CODE` that hold source, and no separator.
_COMBINED_SOURCE = frozenset({"03\n", "04\n"})
_ID_CHARACTERS = 3
#: How many ways of making a function may be combined.
_MOST_COMBINED = 16
#: By this name dill has a code object made. A function that is pickled by its name only has none, and any Python can
#: look for it.
_CODE_OBJECT = b"_create_code"

_WORKER = f"{sys.version_info[0]}.{sys.version_info[1]}"
_ADVICE = "the SDK's AllCodeStrategies sends the source along"


def usable(function: str, sender_python: str | None) -> str:
    """What of a function's buffer this Python can run.

    Args:
        function: As the SDK's serializer made it.
        sender_python: Minor version of the Python that made it, for example "3.12"; `None` if unknown.

    Returns:
        `function` itself, or if that is source with bytecode of another Python beside it, a buffer of the source only.

    Raises:
        VersionMismatch: It is bytecode of another Python.
    """
    if sender_python is None or sender_python == _WORKER:
        return function
    strategy = function[:_ID_CHARACTERS]
    if strategy in _PICKLED and _has_code(function):
        raise mismatch(sender_python, f"this one came as bytecode, and {_ADVICE}")
    if strategy == _ALL_CODE:
        return _of_all(function, sender_python)
    if strategy == _COMBINED_CODE:
        return _of_combined(function, sender_python)
    return function


def mismatch(sender_python: str | None, detail: str) -> VersionMismatch:
    """The error for a function of another Python."""
    return VersionMismatch(sender={"python": sender_python or "unknown"}, worker={"python": _WORKER}, detail=detail)


def _of_all(function: str, sender_python: str) -> str:
    buffers = split_buffers(function[_ID_CHARACTERS:], limit=_MOST_COMBINED)
    kept = [buffer for buffer in buffers if not (buffer[:_ID_CHARACTERS] in _PICKLED and _has_code(buffer))]
    if len(kept) == len(buffers):
        return function
    if not kept:
        raise mismatch(sender_python, "this one's could not be read where it was sent")
    return _ALL_CODE + pack_buffers(kept)


def _of_combined(function: str, sender_python: str) -> str:
    parts = function[_ID_CHARACTERS:].split(_COMBINED_SEPARATOR)
    place = 0
    while place + 1 < len(parts):
        if parts[place] in _PICKLED and _has_code(parts[place] + parts[place + 1]):
            del parts[place : place + 2]
            if not parts:
                raise mismatch(sender_python, "this one's could not be read where it was sent")
            return _COMBINED_CODE + _COMBINED_SEPARATOR.join(parts)
        if parts[place] not in _COMBINED_SOURCE:
            break  # pure source, which may have separators in it
        place += 2
    return function


def _has_code(buffer: str) -> bool:
    try:
        return _CODE_OBJECT in base64.b64decode(buffer[_ID_CHARACTERS:])
    except ValueError:
        return False  # unpickling will tell what is wrong
