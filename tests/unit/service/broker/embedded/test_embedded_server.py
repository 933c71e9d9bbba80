"""What only the embedded broker promises: its refusals, limits and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pika
import pytest
from pamqp import commands, header
from pamqp import frame as pamqp_frame
from raw_peer import DEADLINE_S, HEADER, RawPeer, RunningBroker

from parsl_globus.errors import ConfigError, LinkError
from parsl_globus.service.broker.base import Publication
from parsl_globus.service.broker.embedded import EmbeddedBroker, Limits


@pytest.fixture
def running() -> Iterator[RunningBroker]:
    broker = RunningBroker(limits=Limits(message_bytes=1_000_000, high_water_bytes=200_000, handshake_timeout_s=1))
    try:
        yield broker
    finally:
        broker.stop()


def test_a_port_in_use_is_a_clear_error(running) -> None:
    async def start_another() -> None:
        await EmbeddedBroker("127.0.0.1", running.broker.port).start()

    with pytest.raises(ConfigError, match=f"{running.broker.port}.*--amqp-port"):
        asyncio.run(start_another())


def test_the_url_quotes_credentials(running) -> None:
    parameters = pika.URLParameters(running.broker.connection_url("a@b", "p:/%w"))
    assert (parameters.credentials.username, parameters.credentials.password) == ("a@b", "p:/%w")
    assert (parameters.port, parameters.virtual_host) == (running.broker.port, "/")


def test_publishing_to_a_stopped_broker(running) -> None:
    running.run(running.broker.stop())
    with pytest.raises(LinkError):
        running.run(running.broker.publish([Publication("tasks", b"")]))


def test_clients_are_told_that_the_service_stops(running) -> None:
    with running.pika() as connection:
        running.run(running.broker.stop())
        with pytest.raises(pika.exceptions.ConnectionClosedByBroker, match="320"):
            connection.process_data_events(time_limit=DEADLINE_S)


def test_another_protocol_gets_ours_and_the_end(running) -> None:
    with RawPeer(running.broker) as peer:
        peer.socket.sendall(b"GET / HT")
        assert peer.socket.recv(100) == HEADER
        assert peer.socket.recv(100) == b""


def test_a_peer_that_never_logs_in_is_dropped(running) -> None:
    with RawPeer(running.broker) as peer:
        peer.socket.sendall(HEADER)
        peer.read_to_end()


def test_an_unknown_virtual_host(running) -> None:
    with RawPeer(running.broker) as peer:
        peer.login(virtual_host="other")
        assert peer.read_until(commands.Connection.Close).reply_code == 530


@pytest.mark.parametrize("frame_max", [100, 10**6])
def test_a_frame_max_out_of_range(running, frame_max) -> None:
    with RawPeer(running.broker) as peer:
        peer.login(frame_max=frame_max)
        assert peer.read_until(commands.Connection.Close).reply_code == 530


@pytest.mark.parametrize(
    ("methods", "code"),
    [
        ([commands.Channel.Open(), commands.Tx.Select()], 540),
        ([commands.Channel.Open(), commands.Basic.Qos(1, 0, False)], 540),
        ([commands.Channel.Open(), commands.Channel.Open()], 504),
        ([commands.Basic.Get(0, "tasks")], 504),
        ([commands.Channel.Open(), commands.Basic.Publish(0, "results", "a.results", False, True)], 540),
        (
            [
                commands.Channel.Open(),
                commands.Basic.Publish(0, "results", "a.results"),
                commands.Basic.Get(0, "tasks"),
            ],
            505,
        ),
        (
            [commands.Channel.Open()] + 2 * [commands.Basic.Consume(0, "tasks", "same tag")],
            530,
        ),
    ],
)
def test_what_ends_a_connection(running, methods, code) -> None:
    with RawPeer(running.broker) as peer:
        peer.login()
        peer.send(*methods, channel=1)
        assert peer.read_until(commands.Connection.Close).reply_code == code
        peer.send(commands.Connection.CloseOk())
        peer.read_to_end()


def test_a_message_over_the_limit_closes_its_channel(running) -> None:
    with running.pika() as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="406"):
            channel.basic_publish("results", "a.results", b"x" * 1_000_001)
        connection.channel()


def test_a_login_that_cannot_be_judged_gets_no_answer() -> None:
    def authorize(_username: str, _password: str) -> None:
        raise RuntimeError("the store is away")

    running = RunningBroker(authorize, limits=Limits(handshake_timeout_s=0.5))
    try:
        with RawPeer(running.broker) as peer:
            peer.login()
            # A refusal would be final for the public agent.
            assert [got.name for got in iter(peer.read, None)] == ["Connection.Start"]
    finally:
        running.stop()


def test_a_login_that_is_going_on_is_finished_before_the_end(running) -> None:
    with RawPeer(running.broker) as peer:
        peer.socket.sendall(HEADER)
        peer.read_until(commands.Connection.Start)
        stopped = asyncio.run_coroutine_threadsafe(running.broker.stop(), running.loop)
        peer.login_after_start()
        peer.read_until(commands.Connection.OpenOk)
        assert peer.read_until(commands.Connection.Close).reply_code == 320
        peer.send(commands.Connection.CloseOk())
        stopped.result(DEADLINE_S)


def test_too_much_on_its_way_at_once_ends_the_connection(running) -> None:
    with RawPeer(running.broker) as peer:
        peer.login()
        for number in range(1, 4):
            peer.send(commands.Channel.Open(), channel=number)
            peer.send(commands.Basic.Publish(0, "results", "a.results"), channel=number)
            peer.socket.sendall(pamqp_frame.marshal(header.ContentHeader(0, 900_000), number))
        assert peer.read_until(commands.Connection.Close).reply_code == 506


def test_deliveries_to_who_does_not_read_stay_in_the_queue(running) -> None:
    body = b"x" * 100_000
    with RawPeer(running.broker) as peer:
        peer.login()
        peer.send(commands.Channel.Open(), commands.Basic.Consume(0, "tasks", no_ack=True), channel=1)
        peer.read_until(commands.Basic.ConsumeOk)
        for _ in range(30):
            running.run(running.broker.publish([Publication("tasks", body)] * 10))
        (connection,) = running.broker._connections
        waiting = running.run(_buffered(connection))
        assert waiting < 700_000
        assert running.run(running.broker.queue_length("tasks")) > 100
        for _ in range(300):
            peer.read_until(commands.Basic.Deliver)


async def _buffered(connection) -> int:
    return int(connection._out.waiting_bytes)


def test_returns_to_who_does_not_read_do_not_pile_up(running) -> None:
    properties = pamqp_frame.marshal(header.ContentHeader(0, 100_000), 1)
    content = b"\x03\x00\x01" + (100_000).to_bytes(4, "big") + b"x" * 100_000 + b"\xce"
    message = pamqp_frame.marshal(commands.Basic.Publish(0, "results", "a.none", True), 1) + properties + content
    with RawPeer(running.broker) as peer:
        peer.login()
        peer.send(commands.Channel.Open(), channel=1)
        peer.read_until(commands.Channel.OpenOk)
        peer.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            for _ in range(1000):
                peer.socket.sendall(message)
        (connection,) = running.broker._connections
        assert running.run(_buffered(connection)) < 3_000_000
