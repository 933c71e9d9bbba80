"""An AMQP 0-9-1 broker inside the service's process."""

from __future__ import annotations

from parsl_globus.service.broker.embedded.connection import Limits
from parsl_globus.service.broker.embedded.server import DEFAULT_QUEUE_LIMIT_BYTES, EmbeddedBroker

__all__ = ["DEFAULT_QUEUE_LIMIT_BYTES", "EmbeddedBroker", "Limits"]
