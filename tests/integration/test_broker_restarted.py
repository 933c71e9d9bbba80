"""RabbitMQ is restarted, with or without what it held: the workflow runs on, and every task ends, none twice."""

from __future__ import annotations

from functools import partial

import pytest
from lab import start_broker
from once import DEADLINE_S, Work, wait_until
from rabbitmq import RabbitMQ, free_port

from parsl_globus import GlobusComputeExecutor
from parsl_globus.endpoint.spool import SPOOL_FILE, outstanding
from parsl_globus.errors import TaskLost
from parsl_globus.service.rules.lost_results import ASK_AFTER_S
from parsl_globus.testing.site import LocalSite


@pytest.fixture
def broker(tmp_path):
    folder = tmp_path / "rabbitmq"
    folder.mkdir()
    broker = RabbitMQ(folder)
    yield broker
    broker.close()


@pytest.fixture
def site(tmp_path):
    with LocalSite(tmp_path / "site") as site:
        yield site
    assert site.processes() == []


@pytest.fixture
def start_service(broker, site, tmp_path):
    """Starts the site's service; it runs already."""
    port = free_port()
    options = start_broker(broker, tmp_path / "rabbitmq", site.home, f"http://127.0.0.1:{port}")
    start = partial(site.start_service, *options, port=port, timeout_s=90)
    start()
    return start


@pytest.mark.usefixtures("start_service")
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


@pytest.mark.timeout(600)  # endpoints are asked two minutes later
def test_a_result_that_the_broker_loses_is_told(broker, site, start_service, tmp_path):
    executor = GlobusComputeExecutor(site.start_endpoint("here", workers=2), client=site.client())
    executor.start()
    try:
        work = Work(executor, tmp_path)
        # RabbitMQ asks the service at the first result, and no more then.
        work.submit(20)
        work.wait_done(20)
        held = work.submit(2, held=True)
        work.wait_begun(held)
        site.stop_service(kill=True)
        work.open_gate()
        (spool,) = site.home.rglob(SPOOL_FILE)
        # The broker has confirmed both results, and nobody takes them.
        wait_until(lambda: outstanding(spool.parent) == (0, 0), "the results were not confirmed")
        broker.stop(kill=True)
        broker.wipe()
        broker.start()
        start_service()
        work.submit(20)
        errors = work.outcome(ASK_AFTER_S + DEADLINE_S)
        assert {number: type(error) for number, error in errors.items()} == dict.fromkeys(held, TaskLost)
        assert "the message broker has lost the answer" in str(errors[held[0]])
    finally:
        executor.shutdown()
