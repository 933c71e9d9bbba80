"""From settings to a running process, and to a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import ssl
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import uvicorn

from parsl_globus.errors import ConfigError
from parsl_globus.service.app import create_app
from parsl_globus.service.auth.logins import BrokerLogins
from parsl_globus.service.auth.oidc.issuer import check_issuer
from parsl_globus.service.auth.static import StaticAuthenticator
from parsl_globus.service.broker.embedded import EmbeddedBroker
from parsl_globus.service.broker.rabbitmq import RabbitMQBroker
from parsl_globus.service.broker.rabbitmq.settings import server_settings
from parsl_globus.service.config import ServiceConfig
from parsl_globus.service.datadir import DataDir, Owner
from parsl_globus.service.store.base import Store
from parsl_globus.service.store.choose import choose_store
from parsl_globus.service.tls import base_url, broker_host, check_exposure, server_context
from parsl_globus.wire import buffers

logger = logging.getLogger(__name__)

#: How long open requests may take to end once the service stops.
_STOP_GRACE_S = 1
#: Whose headers X-Forwarded-* are believed, if there is a proxy.
_PROXIES = ["127.0.0.1", "::1"]


@dataclass(frozen=True)
class ServiceAddress:
    """Where a running service is.

    Attributes:
        url: Base URL of REST.
        amqp_port: Port of the broker.
        pid: Its process.
        data_dir: Its folder.
        public_only: Whether it speaks the public protocol only.
        owner: The identity that it made for its owner, with its credentials.
        login_path: What to append to `url` for a link that logs the owner in to the page, once and for minutes.
    """

    url: str
    amqp_port: int
    pid: int
    data_dir: Path
    public_only: bool
    owner: Owner = field(repr=False)
    login_path: str = field(repr=False)


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers, which would kill the process once more after the end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(
    config: ServiceConfig,
    on_ready: Callable[[ServiceAddress], None],
    stop: asyncio.Event | None = None,
) -> None:
    """Run a service until `stop` is set.

    Args:
        config: Settings.
        on_ready: Called once, when REST and AMQP answer.
        stop: Ends it; for another thread: `loop.call_soon_threadsafe(stop.set)`.

    Raises:
        ConfigError: A port, an address or the data folder can't be used; the message says what to do.
    """
    stop = stop or asyncio.Event()
    check_exposure(config)
    if config.oidc is not None:
        check_issuer(config.oidc)
    tls = server_context(config)
    shared = config.database_url is not None and config.broker_url is not None
    with DataDir(config.data_dir, shared=shared) as data, _listen(config.host, config.port) as listener:
        store = choose_store(
            data.database,
            config.database_url,
            alone=not shared,
            migrate=config.migrate,
            full_sync=config.full_sync,
        )
        await store.open()
        try:
            await _serve(config, tls, data, store, listener, on_ready, stop)
        finally:
            await store.close()


async def _serve(
    config: ServiceConfig,
    tls: ssl.SSLContext | None,
    data: DataDir,
    store: Store,
    listener: socket.socket,
    on_ready: Callable[[ServiceAddress], None],
    stop: asyncio.Event,
) -> None:
    auth = StaticAuthenticator(store, token_life_s=config.token_life_s)
    with data.making():
        key = data.key()
        if config.database_url is not None:
            # Broker passwords follow from it: it must be the same for all processes, on whatever machine.
            key = bytes.fromhex(await store.setting("service_key", key.hex()))
        owner = await _owner(data, store, auth)
    logins = BrokerLogins(key, control=not config.public_only)
    broker = _broker(config, logins, tls)
    app = create_app(config, store, broker, auth, logins)
    server = _Server(
        uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=False,
            ws="none",
            timeout_graceful_shutdown=_STOP_GRACE_S,
            # Longer than clients wait between requests, so that they needn't connect again each time.
            timeout_keep_alive=75,
            server_header=False,
            proxy_headers=config.behind_proxy,
            forwarded_allow_ips=_PROXIES,
            ssl_certfile=config.tls_cert,
            ssl_keyfile=config.tls_key,
        )
    )
    service = app.state.service
    url = base_url(config, listener.getsockname()[1])
    if isinstance(broker, RabbitMQBroker):
        settings = data.write_secret("rabbitmq.conf", server_settings(url, logins.auth_secret()))
        logger.info("RabbitMQ must ask this service about logins: its configuration needs the lines of %s", settings)
    try:
        if store.shared:
            with data.making():
                killed = data.live_as(service.process.name)
            await service.process.bury(killed)
        await service.start()
        running = asyncio.create_task(server.serve(sockets=[listener]), name="REST")
        try:
            await _wait_started(server, running)
            login_path = await service.page.login_path(owner.identity_id)
            on_ready(ServiceAddress(url, broker.port, os.getpid(), data.path, config.public_only, owner, login_path))
            await _wait_any(stop, running)
        finally:
            service.page.stop()
            server.should_exit = True
            await running
            await _drop_connections(server)
    finally:
        await service.stop()


def _broker(config: ServiceConfig, logins: BrokerLogins, tls: ssl.SSLContext | None) -> EmbeddedBroker | RabbitMQBroker:
    if config.broker_url is None:
        return EmbeddedBroker(
            config.host,
            config.amqp_port,
            logins.authorize,
            tls=tls,
            public_host=broker_host(config),
            public_url=config.broker_public_url,
        )
    return RabbitMQBroker(config.broker_url, public_url=config.broker_public_url)


async def _wait_started(server: uvicorn.Server, running: asyncio.Task[None]) -> None:
    # uvicorn tells nobody when it listens; the socket is bound already, so this takes a turn or two of the loop.
    while not server.started and not running.done():
        await asyncio.sleep(0)


async def _drop_connections(server: uvicorn.Server) -> None:
    """End what is left: a client that holds a TLS connection idle doesn't answer when it is to be closed."""
    left = list(server.server_state.connections)
    for connection in left:
        transport = getattr(connection, "transport", None)
        if transport is not None:
            transport.abort()
    for _ in range(2 if left else 0):  # its socket is closed in the turn after the next one
        await asyncio.sleep(0)


async def _wait_any(stop: asyncio.Event, running: asyncio.Task[None]) -> None:
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([stopping, running], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()


async def _owner(data: DataDir, store: Store, auth: StaticAuthenticator) -> Owner:
    """The owner's credentials, made at the first start; also after the database was removed."""
    owner = data.owner()
    if owner is None:
        owner = Owner(uuid.uuid4(), secrets.token_urlsafe(32), uuid.uuid4())
    # One identity for all processes on one database; each folder has its own way to log in as it.
    identity_id = uuid.UUID(await store.setting("owner_identity", str(owner.identity_id)))
    if data.owner() is None or identity_id != owner.identity_id:
        owner = replace(owner, identity_id=identity_id)
        data.keep_owner(owner)
    if await store.client(owner.client_id) is None:
        await auth.set_client(owner.client_id, owner.client_secret, owner.identity_id, "owner@localhost")
    await store.ensure_admin(owner.identity_id, "owner@localhost")
    return owner


def run_service(config: ServiceConfig, on_ready: Callable[[ServiceAddress], None]) -> None:
    """Run a service in this process until SIGINT or SIGTERM; returns after a clean end.

    Raises:
        ConfigError: As `serve`.
    """
    buffers.keep_freed()
    loop = _new_loop()
    stop = asyncio.Event()
    if threading.current_thread() is threading.main_thread():  # of a process of its own
        buffers.seek_cycles_rarely()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
    try:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(serve(config, on_ready, stop))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # it is not there for every platform
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


@contextlib.contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
    """Bind the REST port here rather than in uvicorn, which would log the failure and exit the process."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, proto)
    except (OSError, OverflowError) as exc:
        raise ConfigError(f"The service can't listen on {host}:{port} ({exc}). Choose another --host.") from exc
    with contextlib.closing(listener):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen(1024)
        except (OSError, OverflowError) as exc:
            raise ConfigError(
                f"The service can't listen on {host}:{port} ({getattr(exc, 'strerror', None) or exc}). "
                "End the program that uses this port, or choose another with --port (0 picks a free one)."
            ) from exc
        listener.setblocking(False)
        yield listener
