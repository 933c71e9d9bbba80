"""What waits to be sent to one client: joined into few writes, and never an endless buffer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from parsl_globus.service.broker.embedded.queues import Queue

#: Replies (not deliveries) beyond this many times the high-water mark: stop reading from who doesn't read.
_REPLIES_FACTOR = 4


class Outgoing:
    """The sending side of a connection.

    Args:
        transport: Where it goes.
        high_water_bytes: No delivery is accepted while more than this waits.

    Attributes:
        used: Whether anything was sent since the owner last reset this.
    """

    def __init__(self, transport: asyncio.Transport, high_water_bytes: int) -> None:
        self.used = False
        self._transport = transport
        self._high_water_bytes = high_water_bytes
        self._loop = asyncio.get_running_loop()
        self._parts: list[bytes | memoryview] = []
        self._size_bytes = 0
        self._flush_pending = False
        self._paused = False
        self._held_back: set[Queue] = set()
        transport.set_write_buffer_limits(high=high_water_bytes)

    @property
    def waiting_bytes(self) -> int:
        """How much waits here and in the transport."""
        return self._size_bytes + self._transport.get_write_buffer_size()

    def send(self, parts: Iterable[bytes | memoryview]) -> None:
        """Send these bytes soon, along with all that comes until then."""
        before = len(self._parts)
        self._parts += parts
        self._size_bytes += sum(map(len, self._parts[before:]))
        if not self._flush_pending:
            self._flush_pending = True
            self._loop.call_soon(self.flush)

    def may_deliver(self, queue: Queue) -> bool:
        """Whether there is space for deliveries; if not, `queue` is woken when there is."""
        if self._paused or self._size_bytes > self._high_water_bytes:
            self._held_back.add(queue)
            return False
        return True

    def flush(self) -> None:
        """Hand all that waits to the transport in one write."""
        self._flush_pending = False
        if not self._parts:
            return
        data = b"".join(self._parts)
        self._parts.clear()
        self._size_bytes = 0
        transport = self._transport
        if transport.is_closing():
            return
        self.used = True
        transport.write(data)
        if transport.get_write_buffer_size() > _REPLIES_FACTOR * self._high_water_bytes:
            transport.pause_reading()
        if not self._paused:
            self._wake_held_back()

    def pause(self) -> None:
        """The transport has more than it should."""
        self._paused = True

    def resume(self) -> None:
        """The transport has sent what waited."""
        self._paused = False
        if not self._transport.is_closing():
            self._transport.resume_reading()
        self._wake_held_back()

    def _wake_held_back(self) -> None:
        queues, self._held_back = self._held_back, set()
        for queue in queues:
            queue.wake()
