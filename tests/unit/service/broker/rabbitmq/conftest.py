from __future__ import annotations

import pytest
from broker_auth_server import BrokerAuthServer
from rabbitmq import RabbitMQ


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    with BrokerAuthServer() as auth:
        server = RabbitMQ(tmp_path_factory.mktemp("rabbitmq"))
        try:
            yield server.start(auth.settings)
        finally:
            server.close()


@pytest.fixture
def server(started):
    """A RabbitMQ that tests may stop and wipe; it runs, and holds nothing."""
    started.delete_queues("parsl_globus.marker", "inbox", "tasks", "kept")
    return started
