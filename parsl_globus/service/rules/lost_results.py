"""Results that a message broker has lost: endpoints are asked what they have answered, so that no task waits on."""

from __future__ import annotations

import logging
import time
import uuid

from parsl_globus.errors import BrokerRefused, LinkError
from parsl_globus.service.broker.base import Broker, Publication
from parsl_globus.service.rules.queues import Queues
from parsl_globus.service.store.base import Store
from parsl_globus.wire import names
from parsl_globus.wire.control import LOST_RESULTS, pack_control

logger = logging.getLogger(__name__)

#: By then, endpoints have sent again what the broker had not confirmed, and it is stored. More than what an endpoint
#: takes for too new to be lost, see `endpoint/outbox.py`.
ASK_AFTER_S = 120.0
#: Tasks read from the store, and asked for, at a time.
_PAGE = 200


class LostResults:
    """Asks endpoints about unfinished tasks some time after the broker has lost all that it held.

    A broker of its own confirms a result before the service has it. Once it is lost, nobody has it: the endpoint has
    forgotten it, and takes the task, which is sent again, for one that it has done.

    Args:
        store: Knows which tasks have not ended.
        broker: Carries the questions.
        queues: Declares the endpoints' queues.
        asks: Whether endpoints are asked at all (extension `control`).
    """

    def __init__(self, store: Store, broker: Broker, queues: Queues, *, asks: bool) -> None:
        self._store = store
        self._broker = broker
        self._queues = queues
        self._asks = asks
        #: When endpoints are to be asked, by `time.monotonic`, and after which task they were asked.
        self._due_s: float | None = None
        self._after = 0

    def broker_lost_all(self) -> None:
        """The broker was just filled again."""
        if self._asks:
            self._due_s, self._after = time.monotonic() + ASK_AFTER_S, 0

    async def look(self) -> None:
        """Ask if it is time to. Results that wait in the broker come first."""
        due_s = self._due_s
        if due_s is None or time.monotonic() < due_s:
            return
        try:
            if await self._broker.queue_length(names.RESULTS_QUEUE):
                return
            count = await self._ask()
        except LinkError as exc:
            logger.debug("The endpoints are asked for lost results later: %s", exc)
            return
        if self._due_s == due_s:  # otherwise it has lost all once more
            self._due_s = None
        if count:
            logger.info("Endpoints were asked about %d tasks, whose results the message broker may have lost", count)

    async def _ask(self) -> int:
        count, due_s = 0, self._due_s
        while page := await self._store.unfinished_tasks(after=self._after, limit=_PAGE):
            by_endpoint: dict[uuid.UUID, list[uuid.UUID]] = {}
            for waiting in page:
                by_endpoint.setdefault(waiting.user_endpoint_id, []).append(waiting.task.task_id)
            for endpoint_id, task_ids in by_endpoint.items():
                count += await self._ask_one(endpoint_id, task_ids)
            if self._due_s != due_s:
                break
            self._after = page[-1].sequence
        return count

    async def _ask_one(self, endpoint_id: uuid.UUID, task_ids: list[uuid.UUID]) -> int:
        await self._queues.declare_user_endpoint(endpoint_id)
        body = pack_control(LOST_RESULTS, task_ids)
        try:
            await self._broker.publish(
                [Publication(names.control_queue(endpoint_id), body, content_type="application/json")]
            )
        except BrokerRefused as exc:
            # Such as of an endpoint that takes nothing from it, until it is full.
            logger.warning("User endpoint %s could not be asked for lost results: %s", endpoint_id, exc)
            return 0
        return len(task_ids)
