"""The control queue of a user endpoint: what the service asks for besides running tasks (PROTOCOL.md section 10)."""

from __future__ import annotations

import json
import logging
import threading
import uuid
from collections.abc import Callable, Sequence

from parsl_globus.amqp import Consumer, Delivery
from parsl_globus.endpoint.heartbeat import with_port
from parsl_globus.wire.documents import AgentCredentials, QueueInfo

logger = logging.getLogger(__name__)

#: How long an agent that starts with tasks on disk waits to hear which of them were cancelled: for the link, and then
#: for what has waited in the queue, which the broker sends at once.
_OPEN_S = 3.0
_FIRST_S = 0.25


class Control:
    """Consumes the control queue, if the service has one.

    Args:
        credentials: Gives the current ones.
        amqp_port: Port of the broker in place of the credentials', or `None`.
        cancel: Cancels tasks, and calls what it is given when it is safe to forget that it was told to.
    """

    def __init__(
        self,
        credentials: Callable[[], AgentCredentials],
        amqp_port: int | None,
        cancel: Callable[[Sequence[uuid.UUID], Callable[[], None]], None],
    ) -> None:
        self._cancel = cancel
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
            task_ids = _decode(delivery)
            if task_ids:
                self._cancel(task_ids, lambda delivery=delivery: consumer.acknowledge([delivery]))  # type: ignore[misc]
            else:
                consumer.acknowledge([delivery])
        self._heard.set()


def _decode(delivery: Delivery) -> list[uuid.UUID]:
    """The tasks that are to be cancelled; none when it says something else, which is left alone."""
    try:
        document = json.loads(delivery.body)
        if document["command"] != "cancel":
            logger.warning("There is no control command '%.60s'", document["command"])
            return []
        return [uuid.UUID(text) for text in document["task_ids"]]
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        logger.error("A control message of %d bytes can't be understood: %s", len(delivery.body), exc)
        return []
