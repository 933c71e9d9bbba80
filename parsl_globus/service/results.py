"""Results in: stored, all of a batch in one commit, and forwarded to their task groups' queues."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import TypeAlias

from parsl_globus.errors import BrokerRefused, DecodeError
from parsl_globus.service.broker.base import Broker, Delivery, Publication
from parsl_globus.service.rules.queues import Queues, group_queue
from parsl_globus.service.store.base import Ended, Ending, GroupRecord, Store
from parsl_globus.wire import codec
from parsl_globus.wire.messages import Result, ResultErrorDetails
from parsl_globus.wire.states import TaskStage

logger = logging.getLogger(__name__)

#: Results that were forwarded by this process, kept to tell repeats; an older repeat is forwarded once more.
_REMEMBER_COUNT = 100_000
#: Tasks ended, or results read back, at a time.
_PAGE = 200
#: Lone tasks of which it is remembered where their results go. Those of more don't come alone.
_LONE_COUNT = 256

#: What goes to the queue of each task group.
_ByGroup: TypeAlias = dict[uuid.UUID, tuple[GroupRecord, list[Publication]]]


def endpoint_of_key(routing_key: str, ending: str) -> uuid.UUID | None:
    """The endpoint that published with this key, which the broker has checked; `None` for a foreign key."""
    text, dot, suffix = routing_key.rpartition(".")
    try:
        return uuid.UUID(text) if dot and suffix == ending else None
    except ValueError:
        return None


class ResultIntake:
    """Takes results.

    A result is acknowledged after it was stored and forwarded. When the process dies in between, it comes again, or
    is read back at the next start: it may reach the client twice, but never not at all.

    It is stored before it is forwarded, as storing tells where it goes. Of a lone task that may be known: then both are
    done at a time, if the broker keeps the result until both are.

    Args:
        store: Keeps them.
        broker: Forwards them.
        queues: Declares their queues.
        kept: Whether the broker keeps what was not acknowledged, also when this process dies. Then a result that comes
            again, but not from the broker, was or will be forwarded by whoever got it first.
    """

    def __init__(self, store: Store, broker: Broker, queues: Queues, *, kept: bool = False) -> None:
        self._kept = kept
        self._store = store
        self._broker = broker
        self._queues = queues
        self._forwarded: OrderedDict[uuid.UUID, None] = OrderedDict()
        #: Where results of lone tasks go, with the endpoint that they were sent to.
        self._lone: OrderedDict[uuid.UUID, tuple[uuid.UUID, GroupRecord]] = OrderedDict()

    def expect(self, task_id: uuid.UUID, user_endpoint_id: uuid.UUID, group: GroupRecord) -> None:
        """A task is stored that was submitted alone, so that its result will probably come alone, too."""
        if not (self._kept and group.has_queue):
            return
        self._lone[task_id] = user_endpoint_id, group
        while len(self._lone) > _LONE_COUNT:
            self._lone.popitem(last=False)

    async def handle(self, deliveries: Sequence[Delivery]) -> None:
        """Take a batch from the queue `results`. See `Handler`."""
        now_s = time.time()
        read = [(ending, d.redelivered) for d in deliveries if (ending := _read(d, now_s)) is not None]
        # Of a failure it may be that the task has ended before, which the store knows.
        lone = len(read) == 1 and not read[0][1] and read[0][0].stage is TaskStage.SUCCESS
        if lone and (group := self._expected(read[0][0])) is not None:
            await self._settle_lone(read[0][0], group)
        elif read:
            again = {ending.task_id for ending, redelivered in read if redelivered}
            await self._settle([ending for ending, _ in read], again)

    async def fail_unfinished(self, user_endpoint_id: uuid.UUID, code: str, text: str) -> int:
        """End all unfinished tasks of a user endpoint with an error; returns how many."""
        count = 0
        while page := await self._store.unfinished_tasks(user_endpoint_id, limit=_PAGE):
            count += len(page)
            await self.fail(user_endpoint_id, [waiting.task.task_id for waiting in page], code, text)
        return count

    async def fail(self, user_endpoint_id: uuid.UUID, task_ids: Sequence[uuid.UUID], code: str, text: str) -> None:
        """End tasks of a user endpoint with an error."""
        now_s = time.time()
        await self._settle(
            [
                Ending(task_id, user_endpoint_id, TaskStage.FAILED, now_s, failure_body(task_id, code, text))
                for task_id in task_ids
            ]
        )

    async def forward_again(self, since_s: float) -> int:
        """Forward results that came at `since_s` or later, for a broker that starts empty; returns how many."""
        count, after = 0, 0
        while page := await self._store.results_since(since_s, after=after, limit=_PAGE):
            after = page[-1].sequence
            count += len(page)
            by_group: _ByGroup = {}
            for result in page:
                _, publications = by_group.setdefault(result.group.group_id, (result.group, []))
                publications.append(_publication(result.group, result.body, result.completed_s))
            await self._forward_all(by_group)
        return count

    def _expected(self, ending: Ending) -> GroupRecord | None:
        user_endpoint_id, group = self._lone.pop(ending.task_id, (None, None))
        return group if user_endpoint_id == ending.user_endpoint_id else None

    async def _settle_lone(self, ending: Ending, group: GroupRecord) -> None:
        storing = asyncio.ensure_future(self._store.finish_tasks([ending]))
        try:
            await self._forward(group, [_publication(group, ending.body, ending.completed_s)])
        finally:
            await storing
        self._remember({ending.task_id: None})

    async def _settle(self, endings: Sequence[Ending], again: Collection[uuid.UUID] = ()) -> None:
        """Store and forward; `again` are tasks whose results the broker had delivered before."""
        for ending in endings:
            self._lone.pop(ending.task_id, None)
        outcome = await self._store.finish_tasks(endings)
        by_group: _ByGroup = {}
        forwarded: dict[uuid.UUID, None] = {}
        for ending, ended in zip(endings, outcome, strict=True):
            if ended is None:
                logger.warning(
                    "A result from %s for task %s was dropped: no such task was sent to it",
                    ending.user_endpoint_id,
                    ending.task_id,
                )
            elif ended.group.has_queue and ended.task_id not in forwarded and not self._is_repeat(ended, again):
                _, publications = by_group.setdefault(ended.group.group_id, (ended.group, []))
                publications.append(_publication(ended.group, ending.body, ended.completed_s))
                forwarded[ended.task_id] = None
        await self._forward_all(by_group)
        self._remember(forwarded)

    def _is_repeat(self, ended: Ended, again: Collection[uuid.UUID]) -> bool:
        if ended.new:
            return False
        return ended.task_id in self._forwarded or (self._kept and ended.task_id not in again)

    def _remember(self, task_ids: Mapping[uuid.UUID, None]) -> None:
        self._forwarded.update(task_ids)
        while len(self._forwarded) > _REMEMBER_COUNT:
            self._forwarded.popitem(last=False)

    async def _forward_all(self, by_group: _ByGroup) -> None:
        """All groups at a time, as each waits for the broker's confirms; none is left behind when one fails."""
        forwards = [self._forward(group, publications) for group, publications in by_group.values()]
        if len(forwards) == 1:
            await forwards[0]
            return
        outcomes = await asyncio.gather(*forwards, return_exceptions=True)
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        for other in failures[1:]:
            logger.warning("Results of another task group could not be forwarded, either: %r", other)
        if failures:
            raise failures[0]

    async def _forward(self, group: GroupRecord, publications: Sequence[Publication]) -> None:
        try:
            await self._broker.publish(publications)
            return
        except BrokerRefused as exc:
            logger.info("Results of task group %s were refused, its queue is declared again: %s", group.group_id, exc)
        await self._queues.declare_groups_again([group])
        for publication in publications:
            try:
                await self._broker.publish([publication])
            except BrokerRefused as exc:
                # Safe in the store, where the client can fetch it; waiting here would hold up everybody's results.
                logger.warning("A result of task group %s can only be fetched by REST: %s", group.group_id, exc)


def failure_body(task_id: uuid.UUID, code: str, text: str) -> bytes:
    """A result message of the service's own, for a task that no endpoint will answer."""
    details = ResultErrorDetails(code=code, user_message=text)
    return codec.pack(Result(task_id=task_id, data=text, error_details=details, task_statuses=[]))


def _read(delivery: Delivery, now_s: float) -> Ending | None:
    endpoint_id = endpoint_of_key(delivery.routing_key, "results")
    if endpoint_id is None:
        logger.warning("A message with the foreign key '%.80s' among the results was dropped", delivery.routing_key)
        return None
    try:
        result = codec.unpack(delivery.body, Result)
    except DecodeError as exc:
        logger.warning("A message from %s was dropped: %s", endpoint_id, exc)
        return None
    stage = TaskStage.FAILED if result.is_error else TaskStage.SUCCESS
    return Ending(result.task_id, endpoint_id, stage, now_s, delivery.body)


def _publication(group: GroupRecord, body: bytes, completed_s: float) -> Publication:
    return Publication(group_queue(group), body, timestamp_s=int(completed_s))
