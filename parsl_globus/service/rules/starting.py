"""Start commands: a user endpoint with tasks but no sign of life is started by its manager."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Collection

from parsl_globus.errors import BrokerRefused, LinkError
from parsl_globus.service.auth.base import Authenticator
from parsl_globus.service.broker.base import Broker, Publication
from parsl_globus.service.rules import locks
from parsl_globus.service.rules.credentials import Credentials
from parsl_globus.service.rules.presence import Presence
from parsl_globus.service.rules.queues import Queues
from parsl_globus.service.rules.registry import Registry
from parsl_globus.service.store.base import Store, TaskCounts, UserEndpointRecord
from parsl_globus.wire import names
from parsl_globus.wire.documents import START_COMMAND, StartArguments, StartCommand

logger = logging.getLogger(__name__)


class Starter:
    """Sends start commands.

    Args:
        store: Knows whose tasks wait.
        registry: Knows the user endpoints.
        broker: Carries them.
        queues: Declares the queue they wait in.
        credentials: Writes the logins into them.
        presence: Knows who is there.
        auth: Knows the identities' names.
        repeat_s: How long a command is given before the next one.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        broker: Broker,
        queues: Queues,
        credentials: Credentials,
        presence: Presence,
        auth: Authenticator,
        *,
        repeat_s: float,
    ) -> None:
        self._store = store
        self._registry = registry
        self._broker = broker
        self._queues = queues
        self._credentials = credentials
        self._presence = presence
        self._auth = auth
        self._repeat_s = repeat_s

    async def wake(self, user_endpoint: UserEndpointRecord) -> None:
        """Have the user endpoint started, unless it is there or about to be.

        A command to a manager that sleeps would only go stale (PROTOCOL.md section 5), so it waits for the manager's
        next heartbeat or registration, see `wake_waiting`.
        """
        manager_id = user_endpoint.manager_id
        # Its tasks are stored by now. So either this sees what another process was told of the endpoint and its manager
        # just now, or that process sees the tasks.
        await self._presence.look_up([manager_id, user_endpoint.endpoint_id])
        now_s = time.time()
        if self._presence.online(user_endpoint.endpoint_id, now_s):
            return
        await self._look_up_registration(manager_id)
        if self._presence.reachable(manager_id, now_s):
            await self._wake(user_endpoint, now_s)

    async def _look_up_registration(self, manager_id: uuid.UUID) -> None:
        await self._registry.look_up([manager_id], again=True)
        manager = self._registry.manager(manager_id)
        if manager is not None:
            self._presence.note_registration(manager_id, manager.registered_s)

    async def wake_waiting(self, managers: Collection[uuid.UUID], ended: Collection[uuid.UUID] = ()) -> None:
        """Have user endpoints started that have unfinished tasks but are away.

        Args:
            managers: Managers that have just shown that they live.
            ended: User endpoints that have just said good-bye.
        """
        served = await self._registry.served_by(managers, ended)
        await self._presence.look_up([user_endpoint.endpoint_id for user_endpoint in served])
        now_s = time.time()
        candidates = [u for u in served if not self._presence.online(u.endpoint_id, now_s)]
        if not candidates:
            return
        counts = await self._store.counts()
        for user_endpoint in candidates:
            if counts.get(user_endpoint.endpoint_id, TaskCounts()).unfinished > 0:
                await self._wake(user_endpoint, now_s)

    async def _wake(self, user_endpoint: UserEndpointRecord, now_s: float) -> None:
        endpoint_id = user_endpoint.endpoint_id
        if self._presence.online(endpoint_id, now_s):
            return
        # Of all processes, one gets the claim.
        if not await self._store.claim_start(endpoint_id, now_s, now_s - self._repeat_s):
            return
        # It has lost its queue, which tells it to end: with another one, it would go on. At its return, this is done.
        if await locks.is_locked(self._store, user_endpoint.manager_id):
            return
        try:
            await self._send(user_endpoint, int(now_s))
        except LinkError as exc:
            await self._store.forget_starts([endpoint_id])
            # Not lost: the next submission or heartbeat tries again.
            logger.warning("The start command for user endpoint %s could not be sent: %s", endpoint_id, exc)

    async def manager_registered(self, manager_id: uuid.UUID) -> None:
        """A manager is new or has returned: what was sent to it before may be lost."""
        served = await self._registry.served_by([manager_id])
        if served:
            await self._store.forget_starts([user_endpoint.endpoint_id for user_endpoint in served])
        await self.wake_waiting([manager_id])

    async def ended(self, endpoint_id: uuid.UUID) -> None:
        """The user endpoint could not start, so that its next start need not wait."""
        await self._store.forget_starts([endpoint_id])

    async def _send(self, user_endpoint: UserEndpointRecord, now_s: int) -> None:
        command = await self._command(user_endpoint)
        await self._queues.declare_manager(user_endpoint.manager_id)
        body = command.model_dump_json(by_alias=True, exclude_none=True).encode()
        queue = names.commands_queue(user_endpoint.manager_id)
        publication = Publication(queue, body, content_type="application/json", timestamp_s=now_s)
        try:
            await self._broker.publish([publication])
        except BrokerRefused:
            await self._queues.declare_manager_again(user_endpoint.manager_id)
            await self._broker.publish([publication])
        logger.info("User endpoint %s: start command sent to %s", user_endpoint.endpoint_id, user_endpoint.manager_id)

    async def _command(self, user_endpoint: UserEndpointRecord) -> StartCommand:
        identity_id = user_endpoint.identity_id
        ids = self._honoured(user_endpoint)
        usernames = {identity.identity_id: identity.username for identity in await self._auth.identities(ids)}
        return StartCommand(
            command=START_COMMAND,
            arguments=StartArguments(
                name=names.user_endpoint_name(user_endpoint.manager_id, user_endpoint.endpoint_id),
                amqp_creds=self._credentials.user_endpoint(user_endpoint.endpoint_id),
                user_opts=dict(user_endpoint.config),
                user_runtime=dict(user_endpoint.user_runtime),
            ),
            globus_username=usernames.get(identity_id, ""),
            globus_effective_identity=identity_id,
            globus_identity_set=[_identity_entry(i, usernames.get(i, "")) for i in ids],
        )

    def _honoured(self, user_endpoint: UserEndpointRecord) -> list[uuid.UUID]:
        """Whose command it is: the submitter's.

        A manager that maps no identities follows commands for whoever registered it only (PROTOCOL.md section 3), its
        owner or one of its administrators. They have let the submitter use it, so the command is theirs as well: its
        tasks run in their account. One that does map must see the submitter alone, or it would take its owner for the
        submitter.
        """
        ids = [user_endpoint.identity_id]
        manager = self._registry.manager(user_endpoint.manager_id)
        if manager is not None and not manager.multi_user:
            ids += [manager.owner_id, *manager.admins]
        return list(dict.fromkeys(ids))


def _identity_entry(identity_id: uuid.UUID, username: str) -> dict[str, str]:
    # Identity mappings know an identity by `id`, and look only at those that were logged in with.
    known = {"sub": str(identity_id), "id": str(identity_id), "status": "used"}
    return {**known, "username": username, "name": username, "email": username}
