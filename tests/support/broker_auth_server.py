"""Answers RabbitMQ's questions about logins by what tests say: a real HTTP server with the service's own routes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from types import TracebackType

import uvicorn
from fastapi import FastAPI

from parsl_globus.service.broker.base import Authorize, Grant
from parsl_globus.service.broker.rabbitmq.settings import server_settings
from parsl_globus.service.routes.broker_auth import broker_auth_router

_SECRET = "only-the-broker-knows"
_DEADLINE_S = 20.0


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


class BrokerAuthServer:
    """A `Judge` that asks every test's `authorize`, and its HTTP server in a thread.

    Attributes:
        settings: For `RabbitMQ`.
        authorizes: Whoever knows a login judges it.
    """

    def __init__(self) -> None:
        self.authorizes: list[Authorize] = []
        self._grants: dict[str, Grant] = {}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.settings = server_settings(f"http://127.0.0.1:{self._listener.getsockname()[1]}", _SECRET)
        app = FastAPI(openapi_url=None)
        app.include_router(broker_auth_router(self, _SECRET))
        self._server = _Server(uvicorn.Config(app, lifespan="off", log_config=None, ws="none", access_log=False))
        self._thread = threading.Thread(target=self._run, name="broker auth", daemon=True)

    def authorize(self, username: str, password: str) -> Grant | None:
        for authorize in self.authorizes:
            grant = authorize(username, password)
            if grant is not None:
                self._grants[username] = grant
                return grant
        return None

    def grant(self, username: str) -> Grant | None:
        return self._grants.get(username)

    def _run(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._listener]))

    def __enter__(self) -> BrokerAuthServer:
        self._thread.start()
        assert self._server.ready.wait(_DEADLINE_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join(_DEADLINE_S)
        self._listener.close()
        assert not self._thread.is_alive()
