"""A connection to PostgreSQL that one task of an event loop asks, without a change of what the loop looks at.

psycopg adds its socket to the loop, and a timer, and removes both, for each answer it waits for. For a lone statement
that is half of the time that the loop spends on it.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.waiting import Ready, Wait

_T = TypeVar("_T")


class LoopConnection(psycopg.AsyncConnection[tuple[Any, ...]]):
    """Waits for the server's answers as the loop's other sockets do: it is looked at all the time.

    When whoever waits is cancelled, it is closed: what becomes of the statement is not known.
    """

    _waiting: asyncio.Future[None] | None = None
    _watched: int | None = None

    async def wait(self, gen: PQGen[_T], interval: float = 0.1, timeout: float | None = None) -> _T:
        """See `psycopg.AsyncConnection.wait`; with a timeout, or until it can be written, it is done as there."""
        if timeout is not None:
            self._look_away()
            return await super().wait(gen, interval, timeout)
        try:
            state = next(gen)
            while state == Wait.R:
                await self._readable()
                state = gen.send(Ready.R)
                # Mostly the answer was all there, and it is over. Otherwise the socket is added anew: of one with an
                # error, uvloop tells once and looks no more.
                self._look_away()
        except StopIteration as done:
            value: _T = done.value
            return value
        except asyncio.CancelledError:
            await self.close()
            raise
        except BaseException:
            self._look_away()  # libpq may have closed the socket, whose number somebody else gets next
            raise
        self._look_away()
        return await super().wait(_after(gen, state), interval)

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        self._waiting = loop.create_future()
        if self._watched is None:
            self._watched = self.pgconn.socket
            loop.add_reader(self._watched, self._on_readable)
        try:
            await self._waiting
        finally:
            self._waiting = None

    def _on_readable(self) -> None:
        if self._waiting is None:
            self._look_away()  # the server has closed it, or tells something, which the next statement finds out
        elif not self._waiting.done():
            self._waiting.set_result(None)

    def _look_away(self) -> None:
        if self._watched is not None:
            asyncio.get_running_loop().remove_reader(self._watched)
            self._watched = None

    async def close(self) -> None:
        """Close it."""
        self._look_away()
        await super().close()


def _after(gen: PQGen[_T], state: Any) -> PQGen[_T]:
    """The rest of `gen`, which has told what it waits for."""
    while True:
        ready = yield state
        try:
            state = gen.send(ready)
        except StopIteration as done:
            value: _T = done.value
            return value
