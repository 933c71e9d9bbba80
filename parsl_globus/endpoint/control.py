"""The control queue of a user endpoint: what the service asks for besides running tasks (PROTOCOL.md section 10)."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from parsl_globus.amqp import Consumer, Delivery
from parsl_globus.endpoint.heartbeat import with_port
from parsl_globus.wire.control import unpack_control
from parsl_globus.wire.documents import AgentCredentials, QueueInfo

logger = logging.getLogger(__name__)

#: Takes tasks, and what to call when it is safe to forget that it was told.
Command: TypeAlias = Callable[[Sequence[uuid.UUID], Callable[[], None]], None]

#: How long an agent that starts with tasks on disk waits to hear which of them were cancelled: for the link, and then
#: for what has waited in the queue, which the broker sends at once.
_OPEN_S = 3.0
_FIRST_S = 0.25


class Control:
    """Consumes the control queue, if the service has one.

    Args:
        credentials: Gives the current ones.
        amqp_port: Port of the broker in place of the credentials', or `None`.
        commands: What does as it is told with tasks, by command, and calls what it is given when it is safe to forget
            that it was told.
    """

    def __init__(
        self,
        credentials: Callable[[], AgentCredentials],
        amqp_port: int | None,
        commands: Mapping[str, Command],
    ) -> None:
        self._commands = commands
        self._open = threading.Event()
        self._heard = threading.Event()
        self._consumer: Consumer | None = None

        def info() -> QueueInfo:
            told = credentials().control_queue_info
            assert told is not None
            return told

        if credentials().control_queue_info is not None:
            self._consumer = Consumer(
                lambda: with_port(info().connection_url, amqp_port),
                lambda: info().queue,
                self._take,
                name="control",
                on_open=self._open.set,
            )

    def start(self) -> None:
        """Start consuming; returns at once."""
        if self._consumer is not None:
            self._consumer.start()

    def wait_heard(self) -> None:
        """Wait until what has waited in the queue was most likely heard; not for long, if the broker is away."""
        if self._consumer is not None and self._open.wait(_OPEN_S):
            self._heard.wait(_FIRST_S)

    def stop(self) -> None:
        """Stop consuming."""
        if self._consumer is not None:
            self._consumer.stop(2)

    def _take(self, deliveries: list[Delivery]) -> None:
        consumer = self._consumer
        assert consumer is not None
        for delivery in deliveries:
            command, task_ids = self._read(delivery)
            if command is not None:
                command(task_ids, lambda delivery=delivery: consumer.acknowledge([delivery]))  # type: ignore[misc]
            else:
                consumer.acknowledge([delivery])
        self._heard.set()

    def _read(self, delivery: Delivery) -> tuple[Command | None, list[uuid.UUID]]:
        """What is to be done with which tasks; nothing when it can't be understood, which is left alone."""
        try:
            name, task_ids = unpack_control(delivery.body)
        except ValueError as exc:
            logger.error("A control message of %d bytes can't be understood: %s", len(delivery.body), exc)
            return None, []
        if name not in self._commands:
            logger.warning("There is no control command '%.60s'", name)
        return self._commands.get(name) if task_ids else None, task_ids
