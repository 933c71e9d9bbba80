"""Whatever bytes arrive, the broker goes on serving the others."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pamqp import commands
from raw_peer import HEADER, RawPeer, RunningBroker

from parsl_globus.service.broker.base import Publication
from parsl_globus.service.broker.embedded import Limits

_SETTINGS = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)

_short_texts = st.sampled_from([b"", b"tasks", b"results", b"a.results", b"a.none", b"\xff"]) | st.binary(max_size=30)
_argument_bytes = st.one_of(
    st.binary(max_size=60),
    # What often is right: a reserved short, two short strings, bits, a table.
    st.builds(
        lambda first, second, bits, rest: b"\0\0" + _short(first) + _short(second) + bytes((bits,)) + rest,
        _short_texts,
        _short_texts,
        st.integers(0, 255),
        st.sampled_from([b"", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\x08\x01aA\0\0\xff\xff"])
        | st.binary(max_size=20),
    ),
    st.builds(lambda tag, bits: struct.pack(">QB", tag, bits), st.integers(0, 5), st.integers(0, 3)),
)
_methods = st.builds(
    lambda index, arguments: struct.pack(">I", index) + arguments,
    st.sampled_from(sorted(commands.INDEX_MAPPING)) | st.integers(0, 2**32 - 1),
    _argument_bytes,
)
_content_headers = st.builds(
    lambda class_id, size, flags, rest: struct.pack(">HHQH", class_id, 0, size, flags) + rest,
    st.sampled_from([60, 60, 60, 10]),
    st.sampled_from([0, 1, 10, 2**63, 70_000]),
    st.sampled_from([0, 0x1000, 0x2000, 0x8000, 0xFFFF]) | st.integers(0, 0xFFFF),
    st.binary(max_size=40),
)
_frames = st.builds(
    lambda kind_and_payload, channel, end: (
        struct.pack(">BHI", kind_and_payload[0], channel, len(kind_and_payload[1])) + kind_and_payload[1] + end
    ),
    st.one_of(
        st.tuples(st.just(1), _methods),
        st.tuples(st.just(2), _content_headers),
        st.tuples(st.just(3), st.binary(max_size=20)),
        st.tuples(st.integers(0, 255), st.binary(max_size=20)),
    ),
    st.sampled_from([1, 1, 1, 1, 0, 2, 65535]),
    st.sampled_from([b"\xce"] * 9 + [b"\x00"]),
)


def _short(raw: bytes) -> bytes:
    return bytes((len(raw),)) + raw


@pytest.fixture(scope="module")
def running() -> Iterator[RunningBroker]:
    broker = RunningBroker(limits=Limits(handshake_timeout_s=1))
    try:
        yield broker
    finally:
        broker.stop()


@pytest.fixture(scope="module")
def witness(running: RunningBroker) -> Iterator[Witness]:
    with running.pika() as connection:
        yield Witness(running, connection)


class Witness:
    """Another client, connected all the time."""

    def __init__(self, running: RunningBroker, connection) -> None:
        self._running = running
        self._channel = connection.channel()
        self._channel.confirm_delivery()

    def check(self) -> None:
        """A message goes in and comes out."""
        self._channel.basic_publish("results", "a.results", b"alive", mandatory=True)
        broker = self._running.broker
        self._running.run(broker.publish([Publication("tasks", b"alive")]))
        length = self._running.run(broker.queue_length("tasks"))
        assert length is not None
        if length > 100:
            self._running.run(broker.delete_queue("tasks"))
            self._running.run(broker.declare_queue("tasks"))


@_SETTINGS
@given(st.binary(max_size=300))
def test_any_bytes_instead_of_a_protocol_header(running, witness, data) -> None:
    with RawPeer(running.broker) as peer:
        peer.socket.sendall(data)
        witness.check()


@_SETTINGS
@given(st.lists(_frames, max_size=8) | st.binary(max_size=300).map(lambda raw: [raw]))
def test_any_frames_before_the_login(running, witness, frames) -> None:
    with RawPeer(running.broker) as peer:
        peer.socket.sendall(HEADER + b"".join(frames))
        witness.check()


@_SETTINGS
@given(st.lists(_frames, min_size=1, max_size=12))
def test_any_frames_after_the_login(running, witness, frames) -> None:
    with RawPeer(running.broker) as peer:
        peer.login()
        peer.send(commands.Channel.Open(), channel=1)
        peer.socket.sendall(b"".join(frames))
        witness.check()


@_SETTINGS
@given(st.binary(max_size=300), st.integers(1, 50))
def test_any_bytes_after_the_login_in_pieces(running, witness, data, step) -> None:
    with RawPeer(running.broker) as peer:
        peer.login()
        for start in range(0, len(data), step):
            try:
                peer.socket.sendall(data[start : start + step])
            except (BrokenPipeError, ConnectionResetError):
                break
        witness.check()
