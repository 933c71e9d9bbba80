"""Runs a broker in a thread of its own, and gives tests ordinary pika clients of it."""

from __future__ import annotations

import asyncio
import queue
import socket
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import pika
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection

from parsl_globus.service.broker.base import Authorize, Broker, Delivery, Grant, Publication

T = TypeVar("T")
DEADLINE_S = 20.0
PASSWORD = "pass:word/@%"


class BrokerThread:
    """A broker in an event loop of its own thread, called from the test's thread."""

    def __init__(self, make: Callable[[], Broker]) -> None:
        self._make = make
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="broker")

    def start(self) -> None:
        self._thread.start()
        self.broker = self.run(self._build())
        self.run(self.broker.start())

    async def _build(self) -> Broker:
        return self._make()

    def run(self, awaitable: Awaitable[T]) -> T:
        async def wait() -> T:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(wait(), self._loop).result(DEADLINE_S)

    def stop(self) -> None:
        try:
            if hasattr(self, "broker"):
                self.run(self.broker.stop())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


@dataclass
class Got:
    """One message as a client got it."""

    tag: int
    body: bytes
    redelivered: bool
    properties: pika.BasicProperties


class Bench:
    """A broker under test with an exchange and names that no other test uses.

    Attributes:
        exchange: A declared topic exchange.
        results: A declared queue that gets what is published with `results_key`.
        results_key: Key that the client may publish with.
        unbound_key: Likewise, but no queue gets it.
        tasks: A declared queue that the client may consume.
        absent: A queue that the client may consume, but that doesn't exist.
        foreign: A declared queue that the client may not consume.
    """

    def __init__(self, make: Callable[[Authorize, int | None], Broker], limit_bytes: int | None = None) -> None:
        self.name = f"t{uuid.uuid4().hex[:10]}"
        self.exchange = f"{self.name}-exchange"
        self.results = f"{self.name}.all-results"
        self.results_key = f"{self.name}.results"
        self.unbound_key = f"{self.name}.nowhere"
        self.tasks = f"{self.name}.tasks"
        self.absent = f"{self.name}.absent"
        self.foreign = f"{self.name}.foreign"
        self.grant = Grant(
            consume_queues=frozenset({self.tasks, self.absent}),
            consume_prefixes=frozenset({f"{self.name}.group."}),
            publish_keys=frozenset({(self.exchange, self.results_key), (self.exchange, self.unbound_key)}),
        )
        self.limit_bytes = limit_bytes
        self._stopped = False
        self._broker = BrokerThread(lambda: make(self._authorize, limit_bytes))

    def _authorize(self, username: str, password: str) -> Grant | None:
        return self.grant if (username, password) == (self.name, PASSWORD) else None

    def start(self) -> None:
        self._broker.start()
        self.run(self.broker.declare_exchange(self.exchange))
        self.run(self.broker.declare_queue(self.results, exchange=self.exchange, binding_key="*.results"))
        self.run(self.broker.declare_queue(self.tasks))
        self.run(self.broker.declare_queue(self.foreign))

    def stop(self) -> None:
        try:
            if hasattr(self._broker, "broker") and not self._stopped:
                self._delete_queues()
        finally:
            self._broker.stop()

    def stop_broker(self) -> None:
        """Stop the broker before the test ends; what it declared doesn't stay on a server of its own."""
        if not self._stopped:
            self._delete_queues()
            self._stopped = True
        self.run(self.broker.stop())

    def _delete_queues(self) -> None:
        for name in (self.results, self.tasks, self.foreign):
            self.run(self.broker.delete_queue(name))

    @property
    def broker(self) -> Broker:
        return self._broker.broker

    def run(self, awaitable: Awaitable[T]) -> T:
        return self._broker.run(awaitable)

    # ---- the service's side -----------------------------------------------------------------------------------

    def publish(self, *bodies: bytes, to: str | None = None) -> None:
        self.run(self.broker.publish([Publication(to or self.tasks, body) for body in bodies]))

    def length(self, name: str) -> int | None:
        return self.run(self.broker.queue_length(name))

    def wait_length(self, name: str, length: int) -> None:
        wait_for(lambda: self.length(name) == length, f"queue {name} never held {length}")

    def collect(self, name: str, prefetch: int = 1000) -> queue.Queue[list[Delivery]]:
        """Consume on the service's side; each batch becomes an item."""
        batches: queue.Queue[list[Delivery]] = queue.Queue()

        async def handler(batch: Sequence[Delivery]) -> None:
            batches.put(list(batch))

        self.run(self.broker.consume(name, handler, prefetch=prefetch))
        return batches

    # ---- clients ----------------------------------------------------------------------------------------------

    def url(self, username: str | None = None, password: str = PASSWORD) -> str:
        return self.broker.connection_url(username or self.name, password)

    @contextmanager
    def connection(self, heartbeat_s: int | None = None) -> Iterator[BlockingConnection]:
        parameters = pika.URLParameters(self.url())
        if heartbeat_s is not None:
            parameters.heartbeat = heartbeat_s
        connection = pika.BlockingConnection(parameters)
        try:
            yield connection
        finally:
            if connection.is_open:
                with suppress(pika.exceptions.AMQPConnectionError):  # a test may have cut it
                    connection.close()

    @contextmanager
    def channel(self) -> Iterator[BlockingChannel]:
        with self.connection() as connection:
            yield connection.channel()


class Inbox:
    """Consumes a queue with pika and keeps what comes."""

    def __init__(self, channel: BlockingChannel, name: str, **options: Any) -> None:
        self.channel = channel
        self.got: list[Got] = []
        self.tag = channel.basic_consume(name, self._on_message, **options)

    def _on_message(self, _channel: Any, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        self.got.append(Got(method.delivery_tag, body, method.redelivered, properties))

    def wait(self, count: int) -> list[Got]:
        """Wait until `count` have come; returns them and forgets them."""
        deadline_s = time.monotonic() + DEADLINE_S
        while len(self.got) < count:
            assert time.monotonic() < deadline_s, f"{len(self.got)} of {count} messages came"
            self.channel.connection.process_data_events(time_limit=0.2)
        taken, self.got = self.got[:count], self.got[count:]
        return taken

    def settle(self) -> None:
        """Let everything come that is on its way: a round trip through the broker, then what it left behind."""
        for _ in range(3):
            self.channel.connection.process_data_events(time_limit=0.05)


def bodies(got: Sequence[Got] | Sequence[Delivery]) -> list[bytes]:
    return [one.body for one in got]


def drain(batches: queue.Queue[list[Delivery]], count: int) -> list[Delivery]:
    """The next `count` deliveries over all batches."""
    taken: list[Delivery] = []
    while len(taken) < count:
        taken += batches.get(timeout=DEADLINE_S)
    return taken


def wait_for(condition: Callable[[], bool], complaint: str) -> None:
    """Wait until `condition` holds; for what nothing announces, as the length of a queue."""
    deadline_s = time.monotonic() + DEADLINE_S
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline_s, complaint
        pause.wait(0.02)


def cut(connection: BlockingConnection) -> None:
    """Break a client's connection without a goodbye, as a killed process does."""
    connection._impl._transport._sock.shutdown(socket.SHUT_RDWR)
