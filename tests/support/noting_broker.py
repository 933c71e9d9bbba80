"""A broker that only notes what it is asked, and refuses on demand: for rules whose failures a real one can't time."""

from __future__ import annotations

from collections.abc import Sequence

from parsl_globus.errors import BrokerRefused, LinkGaveUp
from parsl_globus.service.broker.base import Handler, Publication, Refill


class NotingBroker:
    """See `Broker`.

    Attributes:
        published: What was taken.
        queues: What was declared.
        down: Whether it can't be reached.
        full: Queues that take nothing.
        refill: See `Broker`.
        kept: Never.
    """

    def __init__(self) -> None:
        self.published: list[Publication] = []
        self.queues: set[str] = set()
        self.down = False
        self.full: set[str] = set()
        self.refill: Refill | None = None
        self.kept = False

    async def start(self) -> None:
        if self.refill is not None:
            await self.refill.declare()
            await self.refill.publish()

    async def stop(self) -> None:
        return

    async def declare_exchange(self, name: str) -> None:
        return

    async def declare_queue(self, name: str, *, exchange: str = "", binding_key: str = "") -> None:
        self.queues.add(name)

    async def delete_queue(self, name: str) -> None:
        self.queues.discard(name)

    async def queue_length(self, name: str) -> int | None:
        return sum(p.routing_key == name for p in self.published) if name in self.queues else None

    async def publish(self, publications: Sequence[Publication]) -> None:
        if self.down:
            raise LinkGaveUp(after_s=0, detail="it is down")
        refused = None
        for publication in publications:
            if publication.routing_key in self.full or publication.routing_key not in self.queues:
                refused = publication.routing_key
            else:
                self.published.append(publication)
        if refused is not None:
            raise BrokerRefused(routing_key=refused, detail="it is full or unknown")

    async def consume(self, queue: str, handler: Handler, *, prefetch: int = 1000) -> None:
        return

    def connection_url(self, username: str, password: str) -> str:
        return f"amqp://{username}:{password}@localhost/%2F"
