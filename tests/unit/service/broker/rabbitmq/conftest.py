from __future__ import annotations

import pytest
from broker_auth_server import BrokerAuthServer
from certificates import make_certificates
from rabbitmq import RabbitMQ, free_port


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """Certificates, and the port at which the server takes TLS."""
    return make_certificates(tmp_path_factory.mktemp("tls")), free_port()


@pytest.fixture(scope="module")
def started(tmp_path_factory, tls):
    certificates, port = tls
    settings = (
        f"listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {certificates.ca}\n"
        f"ssl_options.certfile = {certificates.cert}\nssl_options.keyfile = {certificates.key}\n"
    )
    with BrokerAuthServer() as auth:
        server = RabbitMQ(tmp_path_factory.mktemp("rabbitmq"))
        try:
            yield server.start(f"{auth.settings}\n{settings}")
        finally:
            server.close()


@pytest.fixture
def server(started):
    """A RabbitMQ that tests may stop and wipe; it runs, and holds nothing."""
    started.delete_queues("parsl_globus.marker", "inbox", "tasks", "kept")
    return started
