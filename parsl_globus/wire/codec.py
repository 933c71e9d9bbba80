"""Messages to bytes and back, by globus-compute-common's packer; one error for any bad input."""

from __future__ import annotations

from typing import TypeVar

from globus_compute_common.messagepack import unpack as _unpack
from pydantic_core import from_json

from parsl_globus.errors import DecodeError
from parsl_globus.wire.messages import Message

_M = TypeVar("_M", bound=Message)

_ENVELOPE = {"message_type", "data"}


def pack(message: Message) -> bytes:
    """Encode `message` (PROTOCOL.md section 6), as common's packer does, which makes a copy of it first.

    Raises:
        ValueError: It holds text that is no Unicode.
    """
    return b'\x01{"message_type":"%b","data":%b}' % (
        message.message_type.encode(),
        message.model_dump_json().encode(),
    )


def unpack(body: bytes, expected: type[_M]) -> _M:
    """Decode `body`, which must hold an `expected` message.

    Raises:
        DecodeError: The bytes are no message, or one of another type.
    """
    quickly = _unpack_quickly(body, expected)
    if quickly is not None:
        return quickly
    what = expected.__name__ + " message"
    try:
        message = _unpack(body)
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        # Bad UTF-8, bad JSON, an unknown version or type and failed validation are all ValueErrors; a JSON body that
        # is no object is a TypeError there. RecursionError comes of hostile nesting.
        raise DecodeError(what=what, size_bytes=len(body), detail=f"{type(exc).__name__}: {exc}"[:500]) from exc
    if not isinstance(message, expected):
        raise DecodeError(what=what, size_bytes=len(body), detail=f"it is a {type(message).__name__} message")
    return message


def _unpack_quickly(body: bytes, expected: type[_M]) -> _M | None:
    """As `unpack`, for a good message; `None` for any other, of which common's unpacking finds out what is wrong.

    Messages may be megabytes, and Python's own reading of JSON takes several times as long.
    """
    if body[:1] != b"\x01":
        return None
    try:
        envelope = from_json(body[1:])
        if envelope["message_type"] != expected.Meta.message_type or envelope.keys() != _ENVELOPE:
            return None
        return expected.model_validate(envelope["data"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def says_error(body: bytes) -> bool:
    """Whether this packed result message tells an error, without decoding it: results may be megabytes.

    Quotes within texts are escaped in JSON, so the key is found where it is a key only.
    """
    key = b'"error_details":'
    found = body.rfind(key)
    return found >= 0 and not body.startswith(b"null", found + len(key))
