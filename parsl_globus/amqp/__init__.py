"""AMQP for the threaded sides: one connection in one thread; it moves bytes and knows no message."""

from parsl_globus.amqp.consumer import Consumer, Delivery
from parsl_globus.amqp.link import Link
from parsl_globus.amqp.publisher import Publisher

__all__ = ("Consumer", "Delivery", "Link", "Publisher")
