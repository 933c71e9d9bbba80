"""Our coding of frames against pamqp's, and against any cut of the stream."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import body, commands, frame, header

from parsl_globus.errors import DecodeError
from parsl_globus.service.broker.embedded import fields, frames

_values = st.recursive(
    st.text(max_size=20) | st.integers(-(2**63), 2**63 - 1) | st.booleans(),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=10,
)
_headers = st.dictionaries(st.text(min_size=1, max_size=20), _values, max_size=5)


@given(_headers, st.none() | st.text(max_size=20), st.none() | st.integers(0, 2**32 - 1))
def test_properties_read_by_pamqp_and_by_us(headers, content_type, timestamp_s) -> None:
    raw = fields.encode_properties(headers, content_type=content_type, timestamp_s=timestamp_s)
    content = header.ContentHeader()
    content.unmarshal(b"\0\x3c\0\0" + bytes(8) + raw)
    assert content.properties.headers == (headers or None)
    assert content.properties.content_type == content_type
    assert content.properties.delivery_mode == 2
    stamp = content.properties.timestamp
    assert (None if stamp is None else int(stamp.timestamp())) == timestamp_s
    assert dict(fields.decode_headers(raw)) == headers


@given(st.binary(max_size=200))
def test_any_properties_are_read_or_refused(raw) -> None:
    try:
        fields.decode_headers(raw)
    except DecodeError as error:
        assert error.size_bytes == len(raw)  # noqa: PT017 - either way is right


@given(st.sampled_from(sorted(commands.INDEX_MAPPING)), st.binary(max_size=100))
def test_any_arguments_are_read_or_refused(index, arguments) -> None:
    try:
        frames.decode_method(index.to_bytes(4, "big") + arguments)
    except DecodeError as error:
        assert error.what  # noqa: PT017 - either way is right


@pytest.mark.parametrize(
    "method",
    [
        commands.Connection.StartOk({"capabilities": {"x": True}}, "PLAIN", "\0u\0p", "en_US"),
        commands.Connection.TuneOk(7, 131072, 60),
        commands.Basic.Consume(0, "tasks", "tag", True, False, True, False, {"x-priority": 3}),
        commands.Basic.Qos(0, 10, True),
        commands.Queue.Declare(0, "q", True, False, True, False, True, {}),
        commands.Channel.Close(404, "text", 60, 40),
    ],
)
def test_methods_written_by_pamqp_are_read_alike(method) -> None:
    read = frames.decode_method(frame.marshal(method, 1)[7:-1])
    assert dict(read) == dict(method)


def test_what_we_put_together_is_what_pamqp_writes() -> None:
    deliver = commands.Basic.Deliver("tag", 77, True, "exchange", "key")
    route = frames.encode_route("exchange", "key")
    assert b"".join(frames.deliver_parts(3, fields.encode_short_text("tag"), 77, True, route)) == frame.marshal(
        deliver, 3
    )
    assert frames.encode_ack(3, 9, multiple=True) == frame.marshal(commands.Basic.Ack(9, True), 3)
    assert frames.encode_nack(3, 9) == frame.marshal(commands.Basic.Nack(9, False, False), 3)
    properties = commands.Basic.Properties(delivery_mode=2)
    expected = frame.marshal(header.ContentHeader(0, 10, properties), 3) + b"".join(
        frame.marshal(body.ContentBody(piece), 3) for piece in (b"01234567", b"89")
    )
    assert b"".join(frames.content_parts(3, b"\x10\x00\x02", b"0123456789", frame_max=16)) == expected


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 9), st.binary(max_size=30))), st.integers(1, 40))
def test_a_stream_cut_anywhere_gives_the_same_frames(sent, step) -> None:
    stream = b"".join(
        bytes((kind,)) + channel.to_bytes(2, "big") + len(payload).to_bytes(4, "big") + payload + b"\xce"
        for kind, channel, payload in sent
    )
    splitter = frames.FrameSplitter(4096)
    got = [one for start in range(0, len(stream), step) for one in splitter.feed(stream[start : start + step])]
    assert got == sent


@pytest.mark.parametrize("raw", [b"\x01\x00\x01\x00\x00\x20\x00" + b"x" * 9000, b"\x01\x00\x01\x00\x00\x00\x01xx"])
def test_a_frame_that_is_too_large_or_has_no_end(raw) -> None:
    with pytest.raises(frames.Fault) as fault:
        list(frames.FrameSplitter(4096).feed(raw))
    assert fault.value.code == 501
    assert fault.value.hard


def test_a_table_nested_too_deeply_is_refused() -> None:
    table = b""
    for _ in range(40):
        table = b"\x01aF" + len(table).to_bytes(4, "big") + table
    with pytest.raises(DecodeError, match="deeply"):
        fields.decode_headers(b"\x20\x00" + len(table).to_bytes(4, "big") + table)


def test_an_array_cut_short_is_refused() -> None:
    # pamqp 3 never returns from this one.
    with pytest.raises(DecodeError):
        fields.decode_headers(b"\x20\x00\x00\x00\x00\x08\x01aA\x00\x00\xff\xff")


def test_a_header_that_cannot_be_sent() -> None:
    with pytest.raises(ValueError):
        fields.encode_properties({"large": 2**70})
    with pytest.raises(ValueError):
        fields.encode_properties({"x" * 256: 1})
