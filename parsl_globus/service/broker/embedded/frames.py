"""AMQP 0-9-1 frames: bytes to methods and back, without any I/O.

The definitions of methods are pamqp's. What is sent or read once per message is put together and taken apart here,
because it is the hot path.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from functools import lru_cache

from pamqp import base, commands
from pamqp import frame as pamqp_frame

from parsl_globus.errors import DecodeError, WireError
from parsl_globus.service.broker.embedded.fields import (
    ARGUMENT_READERS,
    DECODE_FAULTS,
    SHORT_TEXT_LIMIT_BYTES,
    decode_headers,
    encode_short_text,
    read_short_text,
)

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
FRAME_METHOD, FRAME_HEADER, FRAME_BODY, FRAME_HEARTBEAT = 1, 2, 3, 8
FRAME_END = b"\xce"
FRAME_OVERHEAD_BYTES = 8
HEARTBEAT_FRAME = b"\x08\x00\x00\x00\x00\x00\x00\xce"

_HEAD = struct.Struct(">BHI")
_METHOD_HEAD = struct.Struct(">BHII")
_CONTENT_HEAD = struct.Struct(">BHIHHQ")
_CONTENT = struct.Struct(">HHQ")
_TAG_BITS = struct.Struct(">QB")
_LONG = struct.Struct(">I")


class Fault(WireError):
    """What a peer did wrong; ends its channel, or its connection when `hard`.

    Attributes:
        code: AMQP reply code.
        text: Reply text, in RabbitMQ's form "NAME - sentence".
        hard: Whether the connection ends rather than the channel.
    """

    code: int
    text: str
    hard: bool

    def __init__(self, code: int, text: str, *, hard: bool = False) -> None:
        super().__init__(text, code=code, text=text, hard=hard)


# ---- reading --------------------------------------------------------------------------------------------------


class FrameSplitter:
    """Cuts a stream of bytes into frames.

    Attributes:
        limit_bytes: Largest frame that is accepted.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._rest = bytearray()

    def take(self, count: int, data: bytes) -> tuple[bytes | None, bytes]:
        """Bytes of a fixed length, as the protocol header is: what was asked for, if complete, and what follows."""
        self._rest += data
        if len(self._rest) < count:
            return None, b""
        taken, rest = bytes(self._rest[:count]), bytes(self._rest[count:])
        self._rest.clear()
        return taken, rest

    def feed(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Yield type, channel and payload of each frame that is complete now; keep the rest for the next call.

        Raises:
            Fault: A frame is too large or has no end mark. Nothing more can be read from this stream.
        """
        buffer: bytes | bytearray = data
        if self._rest:
            self._rest += data
            buffer = self._rest
            self._rest = bytearray()
        position, end = 0, len(buffer)
        while end - position >= FRAME_OVERHEAD_BYTES:
            kind, channel, size = _HEAD.unpack_from(buffer, position)
            if size + FRAME_OVERHEAD_BYTES > self.limit_bytes:
                raise Fault(501, f"FRAME_ERROR - a frame of {size} bytes exceeds frame_max", hard=True)
            stop = position + 7 + size
            if stop >= end:
                break
            if buffer[stop] != 0xCE:
                raise Fault(501, "FRAME_ERROR - a frame has no end mark", hard=True)
            payload = bytes(buffer[position + 7 : stop])
            position = stop + 1
            yield kind, channel, payload
        if position < end:
            self._rest += memoryview(buffer)[position:] if position else buffer


def decode_method(payload: bytes) -> base.Frame:
    """Decode the payload of a method frame.

    Raises:
        DecodeError: The arguments are malformed.
        Fault: AMQP 0-9-1 has no such method.
    """
    try:
        method_type = commands.INDEX_MAPPING[_LONG.unpack_from(payload)[0]]
    except (KeyError, struct.error):
        raise Fault(540, "NOT_IMPLEMENTED - unknown method", hard=True) from None
    # Without its constructor, which warns of deprecated methods; every attribute is set below.
    method: base.Frame = object.__new__(method_type)
    try:
        at, bit = 4, 0
        for name in method.attributes():
            kind = method.amqp_type(name)
            if kind != "bit":
                if bit:
                    at, bit = at + 1, 0
                value, at = ARGUMENT_READERS[kind](payload, at)
            else:
                if bit == 8:
                    at, bit = at + 1, 0
                value = bool(payload[at] >> bit & 1)
                bit += 1
            setattr(method, name, value)
    except DECODE_FAULTS as error:
        raise DecodeError(what=f"{method.name} method", size_bytes=len(payload), detail=str(error)) from error
    return method


@lru_cache(maxsize=1024)
def decode_publish(payload: bytes) -> tuple[str, str, int]:
    """Decode a `basic.publish`: exchange, routing key, and the bits (1 mandatory, 2 immediate).

    A publisher sends the same bytes for every message, hence the cache.

    Raises:
        DecodeError: The arguments are malformed.
    """
    try:
        exchange, at = read_short_text(payload, 6)
        routing_key, at = read_short_text(payload, at)
        return exchange, routing_key, payload[at]
    except DECODE_FAULTS as error:
        raise DecodeError(what="Basic.Publish method", size_bytes=len(payload), detail=str(error)) from error


def decode_tag_and_bits(payload: bytes) -> tuple[int, int]:
    """Decode `basic.ack`, `basic.nack` or `basic.reject`: delivery tag and the bits.

    Raises:
        DecodeError: The arguments are malformed.
    """
    try:
        tag, bits = _TAG_BITS.unpack_from(payload, 4)
    except struct.error as error:
        raise DecodeError(what="acknowledgement", size_bytes=len(payload), detail=str(error)) from error
    return tag, bits


def decode_content_header(payload: bytes) -> tuple[int, bytes]:
    """Decode a content header frame: size of the body, and the properties, still encoded but known to be sound.

    Raises:
        DecodeError: It is malformed.
    """
    try:
        class_id, _, body_bytes = _CONTENT.unpack_from(payload)
    except struct.error as error:
        raise DecodeError(what="content header", size_bytes=len(payload), detail=str(error)) from error
    if class_id != 60:
        raise DecodeError(what="content header", size_bytes=len(payload), detail=f"class {class_id} has none")
    properties = payload[12:]
    decode_headers(properties)
    return body_bytes, properties


# ---- writing --------------------------------------------------------------------------------------------------


def encode_method(channel: int, method: base.Frame) -> bytes:
    """The frame of a method, end mark included."""
    return pamqp_frame.marshal(method, channel)


def short_reply(text: str) -> str:
    """`text` cut to what a reply text can hold."""
    return text.encode()[:SHORT_TEXT_LIMIT_BYTES].decode(errors="ignore")


def encode_ack(channel: int, tag: int, *, multiple: bool) -> bytes:
    """The frame of a publisher confirm."""
    return _METHOD_HEAD.pack(FRAME_METHOD, channel, 13, 0x003C0050) + _TAG_BITS.pack(tag, multiple) + FRAME_END


def encode_nack(channel: int, tag: int) -> bytes:
    """The frame that tells a publisher that its message was not taken."""
    return _METHOD_HEAD.pack(FRAME_METHOD, channel, 13, 0x003C0078) + _TAG_BITS.pack(tag, 0) + FRAME_END


@lru_cache(maxsize=4096)
def encode_route(exchange: str, routing_key: str) -> bytes:
    """Exchange and routing key as they end a `basic.deliver`, with the end mark."""
    return encode_short_text(exchange) + encode_short_text(routing_key) + FRAME_END


def deliver_parts(channel: int, consumer_tag: bytes, tag: int, redelivered: bool, route: bytes) -> tuple[bytes, ...]:
    """The frame of a `basic.deliver`; `consumer_tag` is an encoded short string, `route` from `encode_route`."""
    size = 12 + len(consumer_tag) + len(route)
    head = _METHOD_HEAD.pack(FRAME_METHOD, channel, size, 0x003C003C)
    return head, consumer_tag, _TAG_BITS.pack(tag, redelivered), route


def content_parts(channel: int, properties: bytes, body: bytes, frame_max: int) -> Iterable[bytes | memoryview]:
    """Header frame and body frames of a message."""
    size = len(body)
    head = _CONTENT_HEAD.pack(FRAME_HEADER, channel, 12 + len(properties), 60, 0, size)
    if not size:
        return head, properties, FRAME_END
    if size <= frame_max - FRAME_OVERHEAD_BYTES:
        return head, properties, FRAME_END, _HEAD.pack(FRAME_BODY, channel, size), body, FRAME_END
    parts: list[bytes | memoryview] = [head, properties, FRAME_END]
    view = memoryview(body)
    step = frame_max - FRAME_OVERHEAD_BYTES
    for start in range(0, size, step):
        piece = view[start : start + step]
        parts += (_HEAD.pack(FRAME_BODY, channel, len(piece)), piece, FRAME_END)
    return parts
