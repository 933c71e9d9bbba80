"""What a lab runs besides the service: RabbitMQ in the service's network namespace, and a database in PostgreSQL."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from netns import NetworkNamespace
from postgres import Postgres
from rabbitmq import RabbitMQ

from parsl_globus.service.auth.logins import BrokerLogins
from parsl_globus.service.broker.rabbitmq.settings import server_settings


@contextmanager
def lab_options(
    folder: Path, home: Path, namespace: NetworkNamespace, postgres: Postgres, template: str, service_url: str
) -> Iterator[Sequence[str]]:
    """Options of `service run` for a lab's servers, which run meanwhile.

    Args:
        folder: An empty folder for RabbitMQ.
        home: `PARSL_GLOBUS_HOME` of the service, which has not run yet.
        namespace: Where the service runs.
        postgres: Runs outside of it, and is reached by its socket.
        template: Name of a database with the newest schema.
        service_url: Where RabbitMQ will reach the service.
    """
    rabbit = RabbitMQ(folder, wrap=namespace.command)
    try:
        with postgres.database(template=template) as url:
            database = folder / "database-url"
            _write(database, postgres.socket_url(url).encode())
            yield "--database-file", str(database), *start_broker(rabbit, folder, home, service_url)
    finally:
        rabbit.close()


def start_broker(rabbit: RabbitMQ, folder: Path, home: Path, service_url: str) -> Sequence[str]:
    """Start it for a service that has not run yet; the options that this one needs. See `lab_options`."""
    # RabbitMQ must know how to ask the service before that has run: its key is made here.
    (home / "service").mkdir(parents=True)
    key = os.urandom(32)
    _write(home / "service" / "secret.key", key)
    rabbit.start(server_settings(service_url, BrokerLogins(key, control=True).auth_secret()))
    broker = folder / "broker-url"
    _write(broker, rabbit.url.encode())
    return "--broker-file", str(broker)


def _write(path: Path, secret: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(secret)
