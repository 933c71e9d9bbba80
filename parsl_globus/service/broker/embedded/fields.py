"""Fields, tables and message properties of AMQP 0-9-1: bytes to values and back.

Decoding is our own: pamqp before version 4 never returns from an array that is cut short, and it copies the rest of
the input for every field.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from pamqp import encode

from parsl_globus.errors import DecodeError

#: Nested tables and lists deeper than this are refused, so that no input can exhaust the stack.
_DEPTH_LIMIT = 16
SHORT_TEXT_LIMIT_BYTES = 255

_LONG = struct.Struct(">I")
_LONG_LONG = struct.Struct(">Q")
_SIGNED_LONG_LONG = struct.Struct(">q")
_SHORT = struct.Struct(">H")

#: All that reading malformed bytes can raise here (`UnicodeDecodeError` is a `ValueError`).
DECODE_FAULTS = (ValueError, IndexError, KeyError, struct.error)


def read_short_text(data: bytes, at: int) -> tuple[str, int]:
    """A short string and where it ends; raises one of `DECODE_FAULTS`."""
    end = at + 1 + data[at]
    if end > len(data):
        raise ValueError("a short string is cut off")
    return data[at + 1 : end].decode(), end


def _read_long_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    end = at + 4 + _LONG.unpack_from(data, at)[0]
    if end > len(data):
        raise ValueError("a long string is cut off")
    return data[at + 4 : end], end


def _read_long_text(data: bytes, at: int) -> tuple[str | bytes, int]:
    raw, at = _read_long_bytes(data, at)
    try:
        return raw.decode(), at
    except UnicodeDecodeError:
        # Text and raw bytes share this type (RabbitMQ's errata); what isn't text stays as it is.
        return raw, at


def _read_table(data: bytes, at: int, depth: int = 0) -> tuple[dict[str, Any], int]:
    raw, end = _read_long_bytes(data, at)
    table: dict[str, Any] = {}
    position = 0
    while position < len(raw):
        key, position = read_short_text(raw, position)
        table[key], position = _read_value(raw, position, depth + 1)
    return table, end


def _read_array(data: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    raw, end = _read_long_bytes(data, at)
    values: list[Any] = []
    position = 0
    while position < len(raw):
        value, position = _read_value(raw, position, depth + 1)
        values.append(value)
    return values, end


def _read_decimal(data: bytes, at: int) -> tuple[Decimal, int]:
    scale, raw = struct.unpack_from(">Bi", data, at)
    return Decimal(raw).scaleb(-scale), at + 5


def _fixed(layout: str) -> Callable[[bytes, int], tuple[Any, int]]:
    packed = struct.Struct(layout)

    def read(data: bytes, at: int) -> tuple[Any, int]:
        return packed.unpack_from(data, at)[0], at + packed.size

    return read


#: Types of a field in a table; RabbitMQ's errata has them: https://www.rabbitmq.com/amqp-0-9-1-errata.html
_FIELD_READERS: dict[int, Callable[[bytes, int], tuple[Any, int]]] = {
    ord("t"): _fixed(">?"),
    ord("b"): _fixed(">b"),
    ord("B"): _fixed(">B"),
    ord("s"): _fixed(">h"),
    ord("u"): _fixed(">H"),
    ord("I"): _fixed(">i"),
    ord("i"): _fixed(">I"),
    ord("l"): _fixed(">q"),
    ord("L"): _fixed(">q"),
    ord("f"): _fixed(">f"),
    ord("d"): _fixed(">d"),
    ord("T"): _fixed(">Q"),
    ord("D"): _read_decimal,
    ord("S"): _read_long_text,
    ord("x"): _read_long_bytes,
    ord("V"): lambda _data, at: (None, at),
}


def _read_value(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    if depth > _DEPTH_LIMIT:
        raise ValueError("a table is nested too deeply")
    kind = data[at]
    if kind == ord("F"):
        return _read_table(data, at + 1, depth)
    if kind == ord("A"):
        return _read_array(data, at + 1, depth)
    return _FIELD_READERS[kind](data, at + 1)


#: Types of a method's argument, by pamqp's names; bits are handled apart since they share an octet.
ARGUMENT_READERS: dict[str, Callable[[bytes, int], tuple[Any, int]]] = {
    "octet": _fixed(">B"),
    "short": _fixed(">H"),
    "long": _fixed(">I"),
    "longlong": _fixed(">Q"),
    "shortstr": read_short_text,
    "longstr": _read_long_text,
    "table": _read_table,
    "timestamp": _fixed(">Q"),
}


#: Types of the basic properties from the highest flag down, after AMQP 0-9-1 section 1.8.
_PROPERTY_TYPES = (
    ("content_type", "shortstr"),
    ("content_encoding", "shortstr"),
    ("headers", "table"),
    ("delivery_mode", "octet"),
    ("priority", "octet"),
    ("correlation_id", "shortstr"),
    ("reply_to", "shortstr"),
    ("expiration", "shortstr"),
    ("message_id", "shortstr"),
    ("timestamp", "timestamp"),
    ("message_type", "shortstr"),
    ("user_id", "shortstr"),
    ("app_id", "shortstr"),
    ("cluster_id", "shortstr"),
)
_NO_HEADERS: Mapping[str, Any] = MappingProxyType({})
_CACHED_PROPERTIES_BYTES = 64


def decode_headers(properties: bytes) -> Mapping[str, Any]:
    """The headers among encoded properties; all properties are checked on the way.

    Raises:
        DecodeError: The properties are malformed.
    """
    if len(properties) <= _CACHED_PROPERTIES_BYTES:
        return _decode_headers_cached(properties)
    return _decode_headers(properties)


def _decode_headers(properties: bytes) -> Mapping[str, Any]:
    headers = _NO_HEADERS
    try:
        flags = _SHORT.unpack_from(properties)[0]
        if flags & 3:
            raise ValueError("there are more flags than AMQP 0-9-1 knows")
        at = 2
        for position, (name, kind) in enumerate(_PROPERTY_TYPES):
            if flags & 0x8000 >> position:
                value, at = ARGUMENT_READERS[kind](properties, at)
                if name == "headers":
                    headers = MappingProxyType(value)
        if at != len(properties):
            raise ValueError("there are bytes after the last property")
    except DECODE_FAULTS as error:
        raise DecodeError(what="message header", size_bytes=len(properties), detail=str(error)) from error
    return headers


_decode_headers_cached = lru_cache(maxsize=1024)(_decode_headers)


def encode_short_text(text: str) -> bytes:
    """A short string: its length in one octet, and its bytes.

    Raises:
        ValueError: It has more than 255 bytes.
    """
    raw = text.encode()
    if len(raw) > SHORT_TEXT_LIMIT_BYTES:
        raise ValueError(f"'{text[:40]}...' has more than {SHORT_TEXT_LIMIT_BYTES} bytes")
    return bytes((len(raw),)) + raw


def _encode_value(value: Any) -> bytes:
    if isinstance(value, str):
        raw = value.encode()
        return b"S" + _LONG.pack(len(raw)) + raw
    if isinstance(value, bool):
        return b"t\x01" if value else b"t\x00"
    if isinstance(value, int):
        return b"l" + _SIGNED_LONG_LONG.pack(value)
    if isinstance(value, (list, tuple)):
        raw = b"".join(map(_encode_value, value))
        return b"A" + _LONG.pack(len(raw)) + raw
    return encode.encode_table_value(value)


def encode_properties(
    headers: Mapping[str, Any], *, content_type: str | None = None, timestamp_s: int | None = None
) -> bytes:
    """The properties of a persistent message, as they follow in its header frame.

    Raises:
        ValueError: A header can't be encoded.
    """
    flags = 0x1000
    parts = [b""]
    try:
        if content_type is not None:
            flags |= 0x8000
            parts.append(encode_short_text(content_type))
        if headers:
            flags |= 0x2000
            table = b"".join([encode_short_text(key) + _encode_value(value) for key, value in headers.items()])
            parts += (_LONG.pack(len(table)), table)
        parts.append(b"\x02")
        if timestamp_s is not None:
            flags |= 0x0040
            parts.append(_LONG_LONG.pack(timestamp_s))
    except (struct.error, TypeError) as error:
        raise ValueError(f"a property can't be encoded: {error}") from error
    parts[0] = _SHORT.pack(flags)
    return b"".join(parts)
