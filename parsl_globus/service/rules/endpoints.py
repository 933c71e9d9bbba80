"""Endpoints: who may register, see, use and delete them, and what is told about them."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from typing import Any

from parsl_globus.errors import RequestRefused
from parsl_globus.service.auth.base import Identity
from parsl_globus.service.results import ResultIntake
from parsl_globus.service.rules import locks, refusals
from parsl_globus.service.rules.credentials import Credentials
from parsl_globus.service.rules.presence import Presence
from parsl_globus.service.rules.queues import Queues
from parsl_globus.service.rules.registry import Registry
from parsl_globus.service.rules.starting import Starter
from parsl_globus.service.store.base import EndpointRecord, Store, TaskCounts, UserEndpointRecord
from parsl_globus.wire import names
from parsl_globus.wire.documents import EndpointRegistered, EndpointRegistration

#: All managers' metadata is kept in memory; a template and a schema of a site fit well.
_METADATA_LIMIT_BYTES = 1024 * 1024


class EndpointRules:
    """What may happen to endpoints.

    Args:
        store: Knows the counts of tasks.
        registry: Knows the endpoints.
        presence: Knows who is there.
        queues: Declares their queues.
        credentials: Writes their logins.
        starter: Is told of managers that return.
        results: Ends the tasks of a deleted endpoint.
        with_tasks: Whether the status tells of tasks and user endpoints, which is an extension of ours.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        presence: Presence,
        queues: Queues,
        credentials: Credentials,
        starter: Starter,
        results: ResultIntake,
        *,
        with_tasks: bool,
    ) -> None:
        self._store = store
        self._registry = registry
        self._presence = presence
        self._queues = queues
        self._credentials = credentials
        self._starter = starter
        self._results = results
        self._with_tasks = with_tasks

    async def register(
        self, caller: Identity, registration: EndpointRegistration, endpoint_id: uuid.UUID | None = None
    ) -> EndpointRegistered:
        """Register a manager, a new one or again.

        Args:
            caller: Who does it.
            registration: What it says.
            endpoint_id: Its id, if it has one; an unknown one is taken as it is.

        Raises:
            RequestRefused: The id is another's, or a user endpoint's; it was stopped from afar a short while ago; or it
                wants what isn't offered here.
        """
        _check_offered(registration)
        if endpoint_id is None:
            return await self._keep(caller.identity_id, registration, uuid.uuid4())
        await self._registry.look_up([endpoint_id], again=True)
        if self._registry.user_endpoint(endpoint_id) is not None:
            raise RequestRefused(http_status=409, code="INVALID_ENDPOINT", reason=f"{endpoint_id} is a user endpoint.")
        known = self._registry.manager(endpoint_id)
        if known is None:
            return await self._keep(caller.identity_id, registration, endpoint_id)
        if not _may_run(caller, known):
            raise refusals.endpoint_forbidden(endpoint_id)
        await self._check_lock(endpoint_id)
        # An administrator of it may register it again, but it stays its owner's.
        registered = await self._keep(known.owner_id, registration, endpoint_id)
        try:
            await self._check_lock(endpoint_id)  # it may have come in between
        except RequestRefused:
            await self._queues.delete_manager(endpoint_id, ())
            raise
        return registered

    async def _keep(
        self, owner_id: uuid.UUID, registration: EndpointRegistration, endpoint_id: uuid.UUID
    ) -> EndpointRegistered:
        now_s = time.time()
        allowed = registration.allowed_functions
        await self._registry.put_manager(
            EndpointRecord(
                endpoint_id=endpoint_id,
                owner_id=owner_id,
                name=registration.endpoint_name,
                display_name=registration.display_name,
                multi_user=registration.multi_user,
                public=registration.public,
                allowed_functions=None if allowed is None else tuple(allowed),
                admins=tuple(registration.admins or ()),
                metadata=registration.metadata,
                registered_s=now_s,
            )
        )
        await self._queues.declare_manager(endpoint_id)
        self._presence.note_registration(endpoint_id, now_s)
        await self._starter.manager_registered(endpoint_id)
        return self._credentials.manager(endpoint_id)

    def usable(self, caller: Identity, endpoint_id: uuid.UUID) -> EndpointRecord:
        """A manager to which the caller may send tasks.

        Raises:
            RequestRefused: It is unknown, another's, or a user endpoint.
        """
        endpoint = self._registry.manager(endpoint_id)
        if endpoint is None:
            user_endpoint = self._registry.user_endpoint(endpoint_id)
            if user_endpoint is not None and user_endpoint.identity_id == caller.identity_id:
                raise refusals.user_endpoint_id_given(endpoint_id, user_endpoint.manager_id)
            raise refusals.unknown_endpoint(endpoint_id)
        if not _may_use(caller, endpoint):
            raise refusals.endpoint_forbidden(endpoint_id)
        return endpoint

    def visible(self, caller: Identity, endpoint_id: uuid.UUID) -> EndpointRecord:
        """A manager of which the caller may know.

        Raises:
            RequestRefused: It is unknown, another's and not public, or a user endpoint.
        """
        endpoint = self._registry.manager(endpoint_id)
        return endpoint if endpoint is not None and endpoint.public else self.usable(caller, endpoint_id)

    def changeable(self, caller: Identity, endpoint_id: uuid.UUID) -> EndpointRecord:
        """A manager that the caller may delete, and share with others.

        Raises:
            RequestRefused: It is unknown or another's.
        """
        endpoint = self._registry.manager(endpoint_id)
        if endpoint is None:
            raise refusals.unknown_endpoint(endpoint_id)
        if not _may_change(caller, endpoint):
            raise refusals.endpoint_forbidden(endpoint_id)
        return endpoint

    def owned_by(self, identity_id: uuid.UUID) -> list[uuid.UUID]:
        """The managers of an identity."""
        return [e.endpoint_id for e in self._registry.managers() if e.owner_id == identity_id]

    async def look_up(self, endpoint_id: uuid.UUID) -> None:
        """Know this id, if anybody does, also when another process made it just now."""
        await self._registry.look_up([endpoint_id])

    def listing(self, caller: Identity, role: str) -> list[dict[str, Any]]:
        """What the caller owns, or with another role than "owner" may know of."""
        return [
            _document(endpoint)
            for endpoint in self._registry.managers()
            if endpoint.owner_id == caller.identity_id or (role != "owner" and _may_see(caller, endpoint))
        ]

    def describe(self, caller: Identity, endpoint_id: uuid.UUID) -> dict[str, Any]:
        """All that the caller may know of an endpoint."""
        endpoint = self.visible(caller, endpoint_id)
        document = _document(endpoint)
        if _may_change(caller, endpoint):
            document["metadata"] = dict(endpoint.metadata)
        return document

    def allowed_functions(self, caller: Identity, endpoint_id: uuid.UUID) -> dict[str, Any]:
        """The functions that an endpoint is restricted to."""
        endpoint = self.visible(caller, endpoint_id)
        allowed = endpoint.allowed_functions
        return {
            "endpoint_id": str(endpoint_id),
            "restricted": allowed is not None,
            "functions": [str(function_id) for function_id in allowed or ()],
        }

    async def status(self, caller: Identity, endpoint_id: uuid.UUID) -> dict[str, Any]:
        """Whether an endpoint is online, and its last report."""
        await self._registry.look_up([endpoint_id])
        await self._presence.look_up([endpoint_id])
        user_endpoint = self._registry.user_endpoint(endpoint_id)
        now_s = time.time()
        online = self._presence.online(endpoint_id, now_s)
        is_callers = user_endpoint is not None and user_endpoint.identity_id == caller.identity_id
        if not is_callers and not _may_use(caller, self.visible(caller, endpoint_id)):
            return {"status": "online" if online else "offline", "details": {}}
        details = dict(self._presence.state(endpoint_id))
        if self._with_tasks and user_endpoint is None:
            details["parsl_globus"] = await self._tasks(caller, endpoint_id, now_s)
        return {"status": "online" if online else "offline", "details": details}

    async def _tasks(self, caller: Identity, manager_id: uuid.UUID, now_s: float) -> dict[str, Any]:
        counts = await self._store.counts()
        total = {"waiting": 0, "running": 0, "done": 0, "failed": 0}
        served = []
        endpoint = self._registry.manager(manager_id)
        sees_all = endpoint is not None and _may_change(caller, endpoint)
        for user_endpoint in self._registry.user_endpoints(manager_id):
            if not sees_all and user_endpoint.identity_id != caller.identity_id:
                continue
            state = self._presence.state(user_endpoint.endpoint_id)
            online = self._presence.online(user_endpoint.endpoint_id, now_s)
            mine = counts.get(user_endpoint.endpoint_id, TaskCounts())
            running = _running(state, mine.unfinished) if online else 0
            total["waiting"] += mine.unfinished - running
            total["running"] += running
            total["done"] += mine.done
            total["failed"] += mine.failed
            served.append(self._user_endpoint(user_endpoint, state, online))
        return {"tasks": total, "user_endpoints": served}

    def _user_endpoint(
        self, user_endpoint: UserEndpointRecord, state: Mapping[str, Any], online: bool
    ) -> dict[str, Any]:
        return {
            "endpoint_id": str(user_endpoint.endpoint_id),
            "name": names.user_endpoint_name(user_endpoint.manager_id, user_endpoint.endpoint_id),
            "online": online,
            "report": dict(state),
        }

    async def lock(self, caller: Identity, endpoint_id: uuid.UUID) -> float:
        """Stop an endpoint from afar; its tasks wait for its return.

        It loses the queue of its commands, which tells it to end, and can't register for a while.

        Returns:
            When it may register again, in seconds since the epoch.

        Raises:
            RequestRefused: It is unknown or another's.
        """
        await self._registry.look_up([endpoint_id], again=True)
        self.changeable(caller, endpoint_id)
        now_s = time.time()
        await locks.lock(self._store, endpoint_id, now_s)
        await self._queues.delete_manager(endpoint_id, ())
        return now_s + locks.LOCK_S

    async def _check_lock(self, endpoint_id: uuid.UUID) -> None:
        if await locks.is_locked(self._store, endpoint_id):
            raise refusals.locked(endpoint_id, locks.LOCK_S)

    async def delete(self, caller: Identity, endpoint_id: uuid.UUID) -> None:
        """Forget an endpoint; its unfinished tasks fail.

        Raises:
            RequestRefused: It is unknown or another's.
        """
        await self._registry.look_up([endpoint_id], again=True)
        self.changeable(caller, endpoint_id)
        served = [user_endpoint.endpoint_id for user_endpoint in await self._registry.served_by([endpoint_id])]
        # Whoever registers this id later has shared it with nobody.
        await self._store.remove_shares(endpoint_id)
        await self._registry.delete_manager(endpoint_id)
        await locks.unlock(self._store, endpoint_id)
        for user_endpoint_id in served:
            await self._results.fail_unfinished(
                user_endpoint_id, "EndpointDeleted", f"Endpoint {endpoint_id} was deleted before this task had ended."
            )
            self._presence.forget(user_endpoint_id)
        self._presence.forget(endpoint_id)
        await self._queues.delete_manager(endpoint_id, served)


def _running(state: Mapping[str, Any], unfinished: int) -> int:
    outstanding, pending = state.get("outstanding_tasks"), state.get("pending_tasks")
    if not (isinstance(outstanding, int) and isinstance(pending, int)):
        return 0
    return max(0, min(outstanding - pending, unfinished))


def _check_offered(registration: EndpointRegistration) -> None:
    if registration.authentication_policy is not None:
        raise refusals.not_offered("authentication policies")
    if registration.high_assurance:
        raise refusals.not_offered("high assurance")
    try:
        size_bytes = len(json.dumps(registration.metadata, allow_nan=False))
    except ValueError as exc:
        raise refusals.invalid("The endpoint's metadata holds a number that JSON doesn't have.") from exc
    if size_bytes > _METADATA_LIMIT_BYTES:
        raise refusals.too_big("The endpoint's metadata", _METADATA_LIMIT_BYTES)


def _may_run(caller: Identity, endpoint: EndpointRecord) -> bool:
    """Whether the caller may act as the endpoint: its registration gives the endpoint's own logins."""
    return caller.identity_id == endpoint.owner_id or caller.identity_id in endpoint.admins


def _may_change(caller: Identity, endpoint: EndpointRecord) -> bool:
    return caller.admin or _may_run(caller, endpoint)


def _may_use(caller: Identity, endpoint: EndpointRecord) -> bool:
    # Neither `public` nor `multi_user` is a grant: the first lets others see it, the second says that the site maps
    # identities to accounts once tasks come; who may send some is for its owner to say.
    return endpoint.endpoint_id in caller.shared or _may_change(caller, endpoint)


def _may_see(caller: Identity, endpoint: EndpointRecord) -> bool:
    return endpoint.public or _may_use(caller, endpoint)


def _document(endpoint: EndpointRecord) -> dict[str, Any]:
    allowed = endpoint.allowed_functions
    return {
        "uuid": str(endpoint.endpoint_id),
        "name": endpoint.name,
        "display_name": endpoint.display_name or endpoint.name,
        "owner": str(endpoint.owner_id),
        "multi_user": endpoint.multi_user,
        "public": endpoint.public,
        "allowed_functions": None if allowed is None else [str(function_id) for function_id in allowed],
    }
