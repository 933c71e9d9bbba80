"""Which queues exist when: declared before anyone is told of them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable

from parsl_globus.errors import LinkError
from parsl_globus.service.broker.base import Broker
from parsl_globus.service.store.base import GroupRecord
from parsl_globus.wire import names


class Queues:
    """Declares queues, each once, or once in a while.

    Args:
        broker: Where.
        control: Whether user endpoints have a control queue (extension `control`).
        sure_s: How long a queue that was declared is taken to be there. Where other processes remove queues, or fill a
            broker again that has lost everything, nobody can be sure for ever.
    """

    def __init__(self, broker: Broker, *, control: bool, sure_s: float = float("inf")) -> None:
        self._broker = broker
        self._control = control
        self._sure_s = sure_s
        #: Until when each is taken to be there, by `time.monotonic`.
        self._declared: dict[str, float] = {}

    def forget(self) -> None:
        """The broker has lost everything: nothing counts as declared any more."""
        self._declared.clear()

    async def declare_own(self) -> None:
        """What the service itself consumes."""
        for exchange, queue, binding in (
            (names.RESULTS_EXCHANGE, names.RESULTS_QUEUE, names.RESULTS_BINDING),
            (names.HEARTBEATS_EXCHANGE, names.HEARTBEATS_QUEUE, names.HEARTBEATS_BINDING),
        ):
            await self._broker.declare_exchange(exchange)
            await self._broker.declare_queue(queue, exchange=exchange, binding_key=binding)

    async def declare_manager(self, manager_id: uuid.UUID) -> None:
        """A manager's command queue."""
        await self._declare(names.commands_queue(manager_id))

    async def declare_user_endpoint(self, endpoint_id: uuid.UUID) -> None:
        """A user endpoint's queues."""
        await self._declare(names.tasks_queue(endpoint_id))
        if self._control:
            await self._declare(names.control_queue(endpoint_id))

    async def empty_user_endpoint(self, endpoint_id: uuid.UUID) -> None:
        """Drop all tasks that wait for a user endpoint; a consumer has to come again."""
        await self._delete(names.tasks_queue(endpoint_id))
        await self.declare_user_endpoint(endpoint_id)

    async def declare_group(self, group: GroupRecord) -> None:
        """A task group's queue."""
        await self._declare(group_queue(group))

    async def declare_groups_again(self, groups: Iterable[GroupRecord]) -> None:
        """Queues that the broker seems to have lost."""
        for group in groups:
            await self._declare(group_queue(group), again=True)

    async def declare_manager_again(self, manager_id: uuid.UUID) -> None:
        """The same for a manager's."""
        await self._declare(names.commands_queue(manager_id), again=True)

    async def declare_user_endpoint_again(self, endpoint_id: uuid.UUID) -> None:
        """The same for a user endpoint's."""
        await self._declare(names.tasks_queue(endpoint_id), again=True)
        if self._control:
            await self._declare(names.control_queue(endpoint_id), again=True)

    async def _declare(self, name: str, *, again: bool = False) -> None:
        now_s = time.monotonic()
        until_s = self._declared.get(name)
        if until_s is not None and until_s > now_s and not again:
            return
        try:
            await self._broker.declare_queue(name)
        except LinkError:
            # A broker that is away takes no tasks either; these are sent when it is back, and then this is repeated.
            if again or until_s is None:
                raise
        else:
            self._declared[name] = now_s + self._sure_s

    async def delete_manager(self, manager_id: uuid.UUID, user_endpoint_ids: Iterable[uuid.UUID]) -> None:
        """All queues of a manager and its user endpoints."""
        await self._delete(names.commands_queue(manager_id))
        for endpoint_id in user_endpoint_ids:
            await self._delete(names.tasks_queue(endpoint_id))
            await self._delete(names.control_queue(endpoint_id))

    async def delete_group(self, group: GroupRecord) -> None:
        """A task group's queue."""
        await self._delete(group_queue(group))

    async def _delete(self, name: str) -> None:
        self._declared.pop(name, None)
        await self._broker.delete_queue(name)


def group_queue(group: GroupRecord) -> str:
    """The name of a task group's queue."""
    return names.group_queue(group.owner_id, group.group_id)
