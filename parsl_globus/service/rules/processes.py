"""Service processes on one store: which of them lives, and who does what none should do twice."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable

from parsl_globus.service.store.base import Store

#: Leads the names of the leases that say who lives.
ALIVE = "process:"
#: How long a process counts as alive without a word; it speaks a few times as often.
_LIFE_S = 20.0
RENEW_S = 5.0


class ServiceProcess:
    """This process, as others know it.

    Args:
        store: Where they meet.

    Attributes:
        name: Its name, new at each start.
    """

    def __init__(self, store: Store) -> None:
        self.name = uuid.uuid4().hex
        self._store = store

    async def renew(self) -> None:
        """Tell that this process is alive."""
        await self._store.lease(f"{ALIVE}{self.name}", self.name, time.time(), _LIFE_S)

    async def claim(self, what: str, life_s: float) -> bool:
        """Whether this process, and no other, is to do something within `life_s`."""
        return not self._store.shared or await self._store.lease(what, self.name, time.time(), life_s)

    async def bury(self, names: Iterable[str]) -> None:
        """Tell that processes of these names were killed: nobody waits for their leases to end."""
        for name in names:
            await self._store.release(f"{ALIVE}{name}", name)

    async def leave(self) -> None:
        """Tell that this process ends."""
        await self._store.release(f"{ALIVE}{self.name}", self.name)
