"""Tasks to their endpoints' queues; what the broker does not take now is sent again later."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Sequence

from pydantic_core import to_json

from parsl_globus.errors import LinkError, ServiceError
from parsl_globus.service.broker.base import Broker, Publication
from parsl_globus.service.rules.functions import FunctionRules, ReadyFunction
from parsl_globus.service.rules.queues import Queues
from parsl_globus.service.store.base import NewTask, Store, WaitingTask
from parsl_globus.wire import names

logger = logging.getLogger(__name__)

#: Tasks read from the store, and sent, at a time.
_PAGE = 200


def task_body(task_id: uuid.UUID, code_json: str, payload: str) -> bytes:
    """A task message, as `wire.codec.pack` would write it.

    The function's code is most of a message, and was escaped when it was registered: a hundred messages cost
    a hundred small copies, not a hundred passes over the code.
    """
    head = (
        f'\x01{{"message_type":"task","data":{{"task_id":"{task_id}","container_id":null,"container":null,'
        f'"task_buffer":"{code_json}'
    ).encode("ascii")
    # Payloads may be megabytes: this is several times as fast as Python's own `json`.
    return b"".join((head, memoryview(to_json(payload))[1:], b"}}"))


def task_publication(
    task: NewTask,
    function: ReadyFunction,
    user_endpoint_id: uuid.UUID,
    resource_specification: str,
    result_serializers: Iterable[str],
) -> Publication:
    """A task as it goes to its user endpoint (PROTOCOL.md section 5)."""
    return Publication(
        names.tasks_queue(user_endpoint_id),
        task_body(task.task_id, function.code_json, task.payload),
        headers={
            **function.headers,
            "task_uuid": str(task.task_id),
            "resource_specification": resource_specification,
            "result_serializers": list(result_serializers),
        },
    )


class Dispatcher:
    """Publishes tasks that are in the store.

    A broker that outlives the service is not filled again when a service process ends. So what that process had stored,
    but not handed over, must be known: each submission bears its sender's name until its tasks are sent.

    Args:
        store: Where they are.
        broker: Where they go.
        queues: Declares the endpoints' queues.
        functions: Knows their functions.
        sender: This process's name in the submissions; `None` where they bear none.

    Attributes:
        sender: See above.
    """

    def __init__(
        self, store: Store, broker: Broker, queues: Queues, functions: FunctionRules, sender: str | None = None
    ) -> None:
        self.sender = sender
        self._store = store
        self._broker = broker
        self._queues = queues
        self._functions = functions
        #: Stored tasks that the broker has not taken yet, by user endpoint. While there are some, newer ones wait
        #: behind them.
        self._behind: dict[uuid.UUID, set[uuid.UUID]] = {}
        #: Submissions of those tasks.
        self._unsent: dict[uuid.UUID, set[uuid.UUID]] = {}
        #: Submissions that were sent, which is not stored yet.
        self._sent: list[uuid.UUID] = []

    async def send(
        self,
        user_endpoint_id: uuid.UUID,
        publications: Sequence[Publication],
        ids: list[uuid.UUID],
        submission_id: uuid.UUID | None = None,
    ) -> None:
        """Publish stored tasks, or keep in mind that they must be.

        Args:
            user_endpoint_id: Where they go.
            publications: The messages.
            ids: Their tasks' ids.
            submission_id: Their submission, if these are all that is left to send of it.
        """
        if user_endpoint_id not in self._behind:
            try:
                await self._broker.publish(publications)
            except LinkError as exc:
                logger.warning("%d tasks for %s are sent later: %s", len(ids), user_endpoint_id, exc)
            else:
                if submission_id is not None and self.sender is not None:
                    self._sent.append(submission_id)
                return
        self._behind.setdefault(user_endpoint_id, set()).update(ids)
        if submission_id is not None:
            self._unsent.setdefault(user_endpoint_id, set()).add(submission_id)

    async def note_sent(self) -> None:
        """Store which submissions were sent since this was called last."""
        if self.sender is None or not self._sent:
            return
        sent, self._sent = self._sent, []
        try:
            await self._store.mark_sent(self.sender, sent)
        except ServiceError:
            self._sent += sent
            raise

    async def adopt(self, senders: str, now_s: float) -> int:
        """Send what processes have left behind that are gone; returns how many tasks.

        Args:
            senders: See `Store.adopt_unsent`.
            now_s: Processes whose leases ended before are gone.
        """
        count = 0
        while self.sender is not None and (adopted := await self._store.adopt_unsent(self.sender, senders, now_s)):
            for submission_id in adopted:
                count += await self._send_submission(submission_id)
        return count

    async def _send_submission(self, submission_id: uuid.UUID) -> int:
        count, after = 0, 0
        page = await self._store.unfinished_tasks(submission_id=submission_id, limit=_PAGE)
        if not page:
            self._sent.append(submission_id)
        while page:
            count, after = count + len(page), page[-1].sequence
            following = await self._store.unfinished_tasks(submission_id=submission_id, after=after, limit=_PAGE)
            endpoint_id = page[0].user_endpoint_id
            ids = [waiting.task.task_id for waiting in page]
            await self._queues.declare_user_endpoint(endpoint_id)
            await self.send(endpoint_id, await self._publications(page), ids, None if following else submission_id)
            page = following
        return count

    async def send_all_unfinished(self) -> int:
        """Publish every unfinished task, for a broker that starts empty; returns how many."""
        count, after = 0, 0
        while page := await self._store.unfinished_tasks(after=after, limit=_PAGE):
            after = page[-1].sequence
            count += len(page)
            by_endpoint: dict[uuid.UUID, list[WaitingTask]] = {}
            for waiting in page:
                by_endpoint.setdefault(waiting.user_endpoint_id, []).append(waiting)
            for endpoint_id, tasks in by_endpoint.items():
                await self._queues.declare_user_endpoint(endpoint_id)
                await self.send(endpoint_id, await self._publications(tasks), [w.task.task_id for w in tasks])
        return count

    async def start_over(self, user_endpoint_id: uuid.UUID) -> None:
        """Have the queue of a user endpoint that is away hold its unfinished tasks, and none that have ended.

        What ended without the endpoint, since it could not start, must not run when it can.
        """
        try:
            await self._queues.empty_user_endpoint(user_endpoint_id)
        except LinkError as exc:
            logger.warning("Ended tasks for %s may still run: %s", user_endpoint_id, exc)
            return
        after = 0
        while page := await self._store.unfinished_tasks(user_endpoint_id, after=after, limit=_PAGE):
            after = page[-1].sequence
            await self.send(user_endpoint_id, await self._publications(page), [w.task.task_id for w in page])

    async def _publications(self, tasks: Sequence[WaitingTask]) -> list[Publication]:
        ready = await self._functions.ready(list({waiting.task.function_id for waiting in tasks}))
        return [
            task_publication(
                waiting.task,
                ready[waiting.task.function_id],
                waiting.user_endpoint_id,
                waiting.resource_specification,
                waiting.result_serializers,
            )
            for waiting in tasks
        ]

    async def retry(self) -> None:
        """Send what the broker did not take before, as far as it does now."""
        for endpoint_id in list(self._behind):
            await self._retry(endpoint_id)

    async def _retry(self, endpoint_id: uuid.UUID) -> None:
        after = 0
        while page := await self._store.unfinished_tasks(endpoint_id, after=after, limit=_PAGE):
            after = page[-1].sequence
            behind = self._behind[endpoint_id]
            late = [waiting for waiting in page if waiting.task.task_id in behind]
            if not late:
                continue
            try:
                await self._queues.declare_user_endpoint_again(endpoint_id)
                await self._broker.publish(await self._publications(late))
            except LinkError:
                return  # Said once, when it began; what was taken of this page comes twice, which endpoints sort out.
            behind.difference_update(waiting.task.task_id for waiting in late)
        # Ids that are left ended meanwhile, or were added after the last page was read.
        left = {
            record.task_id
            for record in await self._store.tasks(list(self._behind[endpoint_id]), with_body=False)
            if not record.stage.final
        }
        if left:
            self._behind[endpoint_id] = left
        else:
            del self._behind[endpoint_id]
            self._sent += self._unsent.pop(endpoint_id, ())
            logger.info("The broker has taken all tasks for %s", endpoint_id)
