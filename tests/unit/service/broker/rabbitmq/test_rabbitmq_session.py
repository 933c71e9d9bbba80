"""A connection to RabbitMQ that can't be made, and batches that are published at once."""

from __future__ import annotations

import asyncio
import socket

import psutil
import pytest
from tcp_proxy import TcpProxy

from parsl_globus.errors import BrokerRefused, LinkGaveUp
from parsl_globus.service.broker.base import Publication
from parsl_globus.service.broker.rabbitmq import channel, session
from parsl_globus.service.broker.rabbitmq.consumer import Consumer
from parsl_globus.service.broker.rabbitmq.session import REFUSED_LOGINS, Session

DEADLINE_S = 40.0


def run(main) -> None:
    asyncio.run(asyncio.wait_for(main, DEADLINE_S))


@pytest.fixture
def silent_url():
    """Of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"amqp://a:b@127.0.0.1:{server.getsockname()[1]}/%2F"


def test_a_broker_that_says_nothing_is_given_up(silent_url, monkeypatch):
    monkeypatch.setattr(session, "_CONNECT_S", 0.2)

    async def main():
        with pytest.raises(LinkGaveUp):
            await Session.open(silent_url)

    run(main())


def test_a_broker_that_is_not_there_is_told(silent_url):
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as server:
            url = f"amqp://a:b@127.0.0.1:{server.getsockname()[1]}/%2F"
        with pytest.raises(LinkGaveUp, match="refused"):
            await Session.open(url)

    run(main())


@pytest.mark.parametrize(("old", "new"), [("service:", "service:wrong"), ("%2F", "elsewhere")])
def test_a_broker_that_does_not_let_the_service_in_says_so(server, old, new):
    async def main():
        with pytest.raises(REFUSED_LOGINS):
            await Session.open(server.url.replace(old, new))

    run(main())


@pytest.mark.parametrize("trusted", [True, False])
def test_the_broker_s_certificate_is_checked(server, tls, trusted):
    certificates, port = tls
    url = server.url.replace("amqp:", "amqps:").replace(f":{server.port}/", f":{port}/")

    async def main():
        if not trusted:
            with pytest.raises(LinkGaveUp, match="CERTIFICATE_VERIFY_FAILED"):
                await Session.open(url)
            return
        opened = await Session.open(f"{url}?cafile={certificates.ca}")
        try:
            await opened.ask(lambda channel: channel.ask(channel.raw.queue_declare, "kept", durable=True))
            await opened.publish([Publication("kept", b"x" * 1_000_000)] * 3)
        finally:
            await opened.close()

    run(main())


def test_each_batch_learns_of_its_own_messages(server):
    async def main():
        opened = await Session.open(server.url)
        try:
            await opened.ask(lambda channel: channel.ask(channel.raw.queue_declare, "kept", durable=True))
            good = [Publication("kept", b"%d" % number) for number in range(200)]
            lost = Publication("nowhere", b"lost")
            unwritable = Publication("k" * 300, b"long")
            batches = [good, [*good[:100], lost, *good[100:]], good, [lost, unwritable], [unwritable, lost]]
            outcomes = await asyncio.gather(*map(opened.publish, batches), return_exceptions=True)
            refused = [one.routing_key if isinstance(one, BrokerRefused) else one for one in outcomes]
            assert refused == [None, "nowhere", None, unwritable.routing_key, unwritable.routing_key]
            reply = await opened.ask(lambda channel: channel.ask(channel.raw.queue_declare, "kept", passive=True))
            assert reply.method.message_count == 600
        finally:
            await opened.close()

    run(main())


def test_an_exchange_that_is_not_there_refuses_what_was_on_its_way_and_the_next_goes(server):
    async def main():
        opened = await Session.open(server.url)
        try:
            await opened.ask(lambda channel: channel.ask(channel.raw.queue_declare, "kept", durable=True))
            with pytest.raises(BrokerRefused, match="NOT_FOUND"):
                await opened.publish([Publication("kept", b"1", exchange="missing")])
            await opened.publish([Publication("kept", b"2")])
        finally:
            await opened.close()

    run(main())


def test_what_is_published_on_a_closed_connection_fails_at_once(server):
    async def main():
        opened = await Session.open(server.url)
        await opened.publish([])
        await opened.close()
        with pytest.raises(LinkGaveUp):
            await opened.publish([Publication("kept", b"late")])
        with pytest.raises(LinkGaveUp):
            await opened.ask(lambda channel: channel.ask(channel.raw.queue_delete, "kept"))

    run(main())


@pytest.fixture
def proxy(server):
    with TcpProxy(server.port) as proxy:
        yield proxy


def through(proxy, server) -> str:
    return server.url.replace(f":{server.port}/", f":{proxy.port}/")


def test_a_channel_that_opens_too_late_leaves_the_connection_alone(server, proxy, monkeypatch):
    async def main():
        opened = await Session.open(through(proxy, server))
        try:
            monkeypatch.setattr(session, "_CONNECT_S", 0.2)
            proxy.hold()
            with pytest.raises(LinkGaveUp):
                await opened.channel()
            monkeypatch.setattr(session, "_CONNECT_S", DEADLINE_S)
            proxy.release()
            await opened.ask(lambda channel: channel.ask(channel.raw.queue_declare, "kept", durable=True))
            assert not opened.lost.done()
        finally:
            await opened.close()

    run(main())


def test_an_attempt_that_is_given_up_leaves_no_connection(server, proxy, monkeypatch):
    monkeypatch.setattr(session, "_CONNECT_S", 0.2)

    async def main():
        proxy.hold()
        with pytest.raises(LinkGaveUp):
            await Session.open(through(proxy, server))
        proxy.release()
        while any(one.raddr and one.raddr.port == proxy.port for one in psutil.Process().net_connections()):
            await asyncio.sleep(0.02)

    run(main())


def test_a_consumer_whose_broker_does_not_answer_ends_instead_of_dying_in_silence(server, proxy, monkeypatch):
    async def main():
        opened = await Session.open(through(proxy, server))
        ended = asyncio.Event()

        async def fail(deliveries):
            monkeypatch.setattr(channel, "_REPLY_S", 0.2)
            proxy.hold()
            raise LinkGaveUp(after_s=0, detail="no confirm")

        consumer = Consumer("inbox", fail, 100, lambda _consumer: ended.set())
        try:
            await opened.ask(lambda channel: channel.ask(channel.raw.queue_declare, "inbox", durable=True))
            await opened.publish([Publication("inbox", b"1")])
            await consumer.attach(opened)
            await ended.wait()
            assert not opened.lost.done()
        finally:
            proxy.release()
            await consumer.stop(1)
            await opened.close()

    run(main())
