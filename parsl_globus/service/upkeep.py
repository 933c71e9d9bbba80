"""What time brings: what was not sent is sent, what others changed is taken in, what is old is forgotten."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

from parsl_globus.service.results import ResultIntake
from parsl_globus.service.rules.blobs import BlobRules
from parsl_globus.service.rules.dispatch import Dispatcher
from parsl_globus.service.rules.lost_results import LostResults
from parsl_globus.service.rules.presence import Presence
from parsl_globus.service.rules.processes import ALIVE, RENEW_S, ServiceProcess
from parsl_globus.service.rules.queues import Queues
from parsl_globus.service.rules.registry import Registry
from parsl_globus.service.store.base import Store

logger = logging.getLogger(__name__)

#: How often it is looked what there is to do; no task waits for this unless something went wrong.
_TURN_S = 1.0
#: How often it is written down what was sent: what a killed process sent in this time is sent once more.
_NOTE_S = 0.2
_PURGE_S = 3600.0
#: Seldom, as there is nothing to find unless a process died, or two of them did opposite things at the same moment.
_STRAYS_S = 600.0
#: Between two steps of a purge, which must not keep the database busy.
_PURGE_PAUSE_S = 0.05


class Upkeep:
    """Runs beside the requests.

    Args:
        store: Is purged.
        registry: Takes in what other processes changed.
        presence: Likewise.
        dispatcher: Has tasks that the broker did not take.
        results: Ends tasks that can't run.
        queues: Removes what is not used any more.
        lost_results: Asks for them.
        process: This process.
        blobs: Has some that have ended.
        result_life_s: How long an ended task is kept.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        presence: Presence,
        dispatcher: Dispatcher,
        results: ResultIntake,
        queues: Queues,
        lost_results: LostResults,
        process: ServiceProcess,
        blobs: BlobRules,
        *,
        result_life_s: float,
    ) -> None:
        self._store = store
        self._registry = registry
        self._presence = presence
        self._dispatcher = dispatcher
        self._results = results
        self._queues = queues
        self._lost_results = lost_results
        self._process = process
        self._blobs = blobs
        self._result_life_s = result_life_s
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin; each duty in a task of its own, so that none holds up another."""
        duties: list[tuple[Callable[[], Awaitable[None]], float]] = [
            (self._dispatcher.retry, _TURN_S),
            (self._lost_results.look, _TURN_S),
            (self.purge, _PURGE_S),
            (self.fail_strays, _STRAYS_S),
        ]
        if self._dispatcher.sender is not None:
            duties += [(self._dispatcher.note_sent, _NOTE_S), (self._care, RENEW_S)]
        if self._store.shared:
            duties += [(self._registry.refresh, _TURN_S), (self._presence.refresh, _TURN_S)]
        self._tasks = [asyncio.create_task(_repeat(duty, period_s), name="upkeep") for duty, period_s in duties]

    async def stop(self) -> None:
        """End, and leave nothing for others that is done. Calling it twice is harmless."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _care(self) -> None:
        """Tell that this process lives, and take over from those that don't."""
        await self._process.renew()
        if await self._process.claim("adopt", 2 * RENEW_S):
            await self.adopt(time.time())

    async def adopt(self, now_s: float) -> None:
        """Send what processes have left behind whose leases ended before `now_s`."""
        count = await self._dispatcher.adopt(ALIVE, now_s)
        if count:
            logger.info("%d tasks were sent that a process had stored and not sent before it ended", count)

    async def purge(self) -> None:
        """Forget what is old, a little at a time: everything else gets its turn in between."""
        if not await self._process.claim("purge", _PURGE_S / 2):
            return
        now_s = time.time()
        more = True
        while more:
            step = await self._store.purge(now_s - self._result_life_s, now_s)
            for group in step.groups:
                if group.has_queue:
                    await self._queues.delete_group(group)
            more = step.more
            await asyncio.sleep(_PURGE_PAUSE_S)
        while await self._blobs.purge_some(now_s):
            await asyncio.sleep(_PURGE_PAUSE_S)

    async def fail_strays(self) -> None:
        """End tasks whose endpoint was deleted while they were accepted."""
        if not await self._process.claim("strays", _STRAYS_S / 2):
            return
        for endpoint_id in await self._store.stray_endpoints():
            count = await self._results.fail_unfinished(
                endpoint_id, "EndpointDeleted", "The endpoint was deleted before this task had ended."
            )
            logger.info("%d tasks failed whose user endpoint %s is gone", count, endpoint_id)


async def _repeat(duty: Callable[[], Awaitable[None]], period_s: float) -> None:
    while True:
        try:
            await duty()
            pause_s = period_s
        except Exception:
            # The outermost loop of this task: what failed now is tried again soon.
            logger.exception("The service's upkeep failed; it is tried again")
            pause_s = min(period_s, RENEW_S)
        await asyncio.sleep(pause_s)
