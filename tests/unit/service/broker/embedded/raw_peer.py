"""A broker in a thread, and a peer that can send it anything."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pika
from pamqp import base, commands, frame

from parsl_globus.service.broker.base import Authorize, Grant
from parsl_globus.service.broker.embedded import EmbeddedBroker

T = TypeVar("T")
DEADLINE_S = 20.0
HEADER = b"AMQP\x00\x00\x09\x01"
GRANT = Grant(
    consume_queues=frozenset({"tasks"}), publish_keys=frozenset({("results", "a.results"), ("results", "a.none")})
)


class RunningBroker:
    """A started broker with the exchange "results" and the queues "results" and "tasks"; user "u", password "p"."""

    def __init__(self, authorize: Authorize | None = None, **options: Any) -> None:
        self._authorize = authorize or (lambda u, p: GRANT if (u, p) == ("u", "p") else None)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="broker")
        self._thread.start()
        self.broker = self.run(self._start(options))

    async def _start(self, options: dict[str, Any]) -> EmbeddedBroker:
        broker = EmbeddedBroker("127.0.0.1", 0, self._authorize, **options)
        await broker.start()
        await broker.declare_exchange("results")
        await broker.declare_queue("results", exchange="results", binding_key="*.results")
        await broker.declare_queue("tasks")
        return broker

    def run(self, awaitable: Awaitable[T]) -> T:
        async def wait() -> T:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(wait(), self.loop).result(DEADLINE_S)

    def stop(self) -> None:
        try:
            self.run(self.broker.stop())
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
            self.loop.close()

    @contextmanager
    def pika(self) -> Iterator[pika.BlockingConnection]:
        connection = pika.BlockingConnection(pika.URLParameters(self.broker.connection_url("u", "p")))
        try:
            yield connection
        finally:
            if connection.is_open:
                connection.close()


class RawPeer:
    """A socket to the broker."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        self.socket = socket.create_connection(("127.0.0.1", broker.port), timeout=DEADLINE_S)
        self._unread = b""

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *methods: base.Frame, channel: int = 0) -> None:
        self.socket.sendall(b"".join(frame.marshal(method, channel) for method in methods))

    def login(self, *, heartbeat_s: int = 0, frame_max: int = 131_072, virtual_host: str = "/") -> None:
        """The whole handshake, sent at once."""
        self.socket.sendall(HEADER)
        self.login_after_start(heartbeat_s=heartbeat_s, frame_max=frame_max, virtual_host=virtual_host)

    def login_after_start(self, *, heartbeat_s: int = 0, frame_max: int = 131_072, virtual_host: str = "/") -> None:
        """What follows the protocol header."""
        self.send(
            commands.Connection.StartOk({}, "PLAIN", "\0u\0p", "en_US"),
            commands.Connection.TuneOk(0, frame_max, heartbeat_s),
            commands.Connection.Open(virtual_host),
        )

    def read(self) -> Any:
        """The next frame, or `None` at the end of the stream."""
        while True:
            if len(self._unread) >= 8:
                size = int.from_bytes(self._unread[3:7], "big") + 8
                if len(self._unread) >= size:
                    raw, self._unread = self._unread[:size], self._unread[size:]
                    return frame.unmarshal(raw)[2]
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._unread += data

    def read_until(self, kind: type[T]) -> T:
        """Skip frames up to the first of this type."""
        while True:
            got = self.read()
            assert got is not None, f"the connection ended before a {kind.__name__} came"
            if isinstance(got, kind):
                return got

    def read_to_end(self) -> None:
        while self.read() is not None:
            pass
