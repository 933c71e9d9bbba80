from __future__ import annotations

import pytest
from broker_harness import Bench
from tcp_proxy import TcpProxy

from parsl_globus.service.broker.embedded import EmbeddedBroker


@pytest.fixture
def bench():
    bench = Bench(lambda authorize, _limit: EmbeddedBroker("127.0.0.1", 0, authorize))
    try:
        bench.start()
        yield bench
    finally:
        bench.stop()


@pytest.fixture
def proxy(bench):
    with TcpProxy(bench.broker.port) as proxy:
        yield proxy


@pytest.fixture
def url(bench, proxy):
    """The broker's address by way of the proxy."""
    return bench.url().replace(f":{bench.broker.port}/", f":{proxy.port}/")
