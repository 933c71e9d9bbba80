"""The endpoints of new tasks are woken after the answer, so that no submission waits for a look at who is there."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable

from parsl_globus.errors import ServiceError
from parsl_globus.service.store.base import UserEndpointRecord

logger = logging.getLogger(__name__)

#: How long after the first of some tasks it is looked whether an endpoint is still there that was there last.
LOOK_AGAIN_S = 1.0
#: How long a look that is under way is waited for at the end.
_GRACE_S = 1.0


class Waker:
    """Has endpoints started that have got tasks and are away.

    An endpoint that is taken to be there may just have said good-bye to another process. It is looked at as well, but
    a little later, for all tasks that come meanwhile. When this process ends before it did, nothing is lost: the
    manager's heartbeats wake, too.

    Args:
        is_there: Whether an endpoint is there as far as is known, without a look.
        wake: Looks whether one is there, and has it started if not.
    """

    def __init__(
        self, is_there: Callable[[uuid.UUID], bool], wake: Callable[[UserEndpointRecord], Awaitable[None]]
    ) -> None:
        self._is_there = is_there
        self._wake = wake
        self._now = _Looks(self._look, 0.0)
        self._later = _Looks(self._look, LOOK_AGAIN_S)

    def wake(self, user_endpoint: UserEndpointRecord) -> None:
        """Soon have the endpoint started, unless it is there; its tasks are stored."""
        looks = self._later if self._is_there(user_endpoint.endpoint_id) else self._now
        looks.add(user_endpoint)

    async def _look(self, user_endpoint: UserEndpointRecord) -> None:
        try:
            await self._wake(user_endpoint)
        except ServiceError as exc:
            logger.warning("Endpoint %s is woken at a later heartbeat: %s", user_endpoint.endpoint_id, exc)
        except Exception:
            # The outermost loop of its task: one failure must not keep the other endpoints asleep.
            logger.exception("Endpoint %s could not be woken; it is at a later heartbeat", user_endpoint.endpoint_id)

    async def stop(self) -> None:
        """End what is under way. Calling it twice is harmless."""
        await self._now.stop()
        await self._later.stop()


class _Looks:
    """One task at a time that looks at all endpoints which came until it does."""

    def __init__(self, look: Callable[[UserEndpointRecord], Awaitable[None]], after_s: float) -> None:
        self._look = look
        self._after_s = after_s
        self._due: dict[uuid.UUID, UserEndpointRecord] = {}
        self._task: asyncio.Task[None] | None = None
        self._asleep = False

    def add(self, user_endpoint: UserEndpointRecord) -> None:
        self._due[user_endpoint.endpoint_id] = user_endpoint
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="wake endpoints")

    async def _run(self) -> None:
        try:
            while self._due:
                self._asleep = True
                await asyncio.sleep(self._after_s)
                self._asleep = False
                due, self._due = self._due, {}
                for user_endpoint in due.values():
                    await self._look(user_endpoint)
        finally:
            self._task = None

    async def stop(self) -> None:
        task = self._task
        if task is None:
            return
        if not self._asleep:
            # A command that was claimed, but not sent, would hold up those of other processes.
            await asyncio.wait([task], timeout=_GRACE_S)
        task.cancel()
        await asyncio.wait([task])
