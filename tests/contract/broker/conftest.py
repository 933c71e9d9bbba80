"""The brokers that the contract suite runs over."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from broker_auth_server import BrokerAuthServer
from broker_harness import Bench
from rabbitmq import RabbitMQ

from parsl_globus.service.broker import embedded, rabbitmq
from parsl_globus.service.broker.base import Authorize, Broker

#: Makes a broker; `limit_bytes` is what one of its queues may hold, `None` for the default.
MakeBroker = Callable[[Authorize, "int | None"], Broker]


@pytest.fixture(scope="session")
def rabbitmq_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RabbitMQ, BrokerAuthServer]]:
    """A real RabbitMQ, and the HTTP server that it asks about logins."""
    with BrokerAuthServer() as auth:
        server = RabbitMQ(tmp_path_factory.mktemp("rabbitmq"))
        try:
            yield server.start(auth.settings), auth
        finally:
            server.close()


@pytest.fixture(params=["embedded", "rabbitmq"])
def broker_kind(request: pytest.FixtureRequest) -> str:
    """Which broker a test runs over."""
    return request.param


@pytest.fixture
def make_broker(broker_kind: str, request: pytest.FixtureRequest) -> MakeBroker:
    if broker_kind == "embedded":
        return lambda authorize, limit_bytes: embedded.EmbeddedBroker(
            "127.0.0.1", 0, authorize, queue_limit_bytes=limit_bytes or embedded.DEFAULT_QUEUE_LIMIT_BYTES
        )
    server, auth = request.getfixturevalue("rabbitmq_server")

    def make(authorize: Authorize, limit_bytes: int | None) -> Broker:
        auth.authorizes.append(authorize)
        return rabbitmq.RabbitMQBroker(server.url, queue_limit_bytes=limit_bytes or rabbitmq.DEFAULT_QUEUE_LIMIT_BYTES)

    return make


@pytest.fixture
def bench(make_broker: MakeBroker) -> Iterator[Bench]:
    yield from _running(Bench(make_broker))


@pytest.fixture
def small_bench(make_broker: MakeBroker) -> Iterator[Bench]:
    """A broker whose queues hold 100,000 bytes."""
    yield from _running(Bench(make_broker, limit_bytes=100_000))


def _running(bench: Bench) -> Iterator[Bench]:
    try:
        bench.start()
        yield bench
    finally:
        bench.stop()
