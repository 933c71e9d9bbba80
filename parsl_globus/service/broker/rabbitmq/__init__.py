"""RabbitMQ as the broker: for a lab, with any number of service processes on it."""

from __future__ import annotations

from parsl_globus.service.broker.rabbitmq.broker import DEFAULT_QUEUE_LIMIT_BYTES, RabbitMQBroker

__all__ = ["DEFAULT_QUEUE_LIMIT_BYTES", "RabbitMQBroker"]
