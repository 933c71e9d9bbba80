"""RabbitMQ is restarted alone: the service, the endpoint and the workflow run on, and every task ends, none twice."""

from __future__ import annotations

import pytest
from lab import start_broker
from once import Work
from rabbitmq import RabbitMQ, free_port

from parsl_globus import GlobusComputeExecutor
from parsl_globus.testing.site import LocalSite


@pytest.fixture
def broker(tmp_path):
    folder = tmp_path / "rabbitmq"
    folder.mkdir()
    broker = RabbitMQ(folder)
    yield broker
    broker.close()


@pytest.fixture
def site(broker, tmp_path):
    with LocalSite(tmp_path / "site") as site:
        port = free_port()
        options = start_broker(broker, tmp_path / "rabbitmq", site.home, f"http://127.0.0.1:{port}")
        site.start_service(*options, port=port, timeout_s=90)
        yield site
    assert site.processes() == []


def test_the_broker_is_restarted_with_tasks_in_flight(broker, site, tmp_path):
    executor = GlobusComputeExecutor(site.start_endpoint("here", workers=2), client=site.client())
    executor.start()
    try:
        work = Work(executor, tmp_path)
        work.submit(20)
        work.wait_done(20)
        held = work.submit(1, held=True)
        work.wait_begun(held)
        work.submit(100)
        broker.stop()
        work.submit(50)
        work.open_gate()
        broker.start()
        work.submit(50)
        assert work.outcome() == {}
    finally:
        executor.shutdown()
