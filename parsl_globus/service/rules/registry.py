"""The endpoints that are known, in memory, in step with the store."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from parsl_globus.service.store.base import EndpointGone, EndpointRecord, Store, UserEndpointRecord
from parsl_globus.wire import names


class Registry:
    """All managers and user endpoints; they are few, and each task and each heartbeat asks for some.

    What is written goes to the store first. Where other processes write there, too, `refresh` takes their changes in,
    about once a second; what must not be missed until then is asked for with `look_up` or `served_by`.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._version = ""
        self._managers: dict[uuid.UUID, EndpointRecord] = {}
        self._user_endpoints: dict[uuid.UUID, UserEndpointRecord] = {}

    async def load(self) -> None:
        """Read all from the store."""
        # The version first: what changes meanwhile is read once more at the next refresh.
        version = await self._store.endpoints_version()
        managers, user_endpoints = await self._store.endpoints(), await self._store.user_endpoints()
        self._managers = {endpoint.endpoint_id: endpoint for endpoint in managers}
        self._user_endpoints = {u.endpoint_id: u for u in user_endpoints}
        self._version = version

    async def refresh(self) -> None:
        """Take in what other processes have changed."""
        if self._store.shared and await self._store.endpoints_version() != self._version:
            await self.load()

    async def look_up(self, endpoint_ids: Collection[uuid.UUID], *, again: bool = False) -> None:
        """Know these ids, if anybody does.

        Args:
            endpoint_ids: Of managers or user endpoints.
            again: Ask for those that are known, too: they may have changed just now.
        """
        if not self._store.shared:
            return
        wanted = [i for i in endpoint_ids if again or not (i in self._managers or i in self._user_endpoints)]
        if not wanted:
            return
        managers = {e.endpoint_id: e for e in await self._store.endpoints(wanted)}
        user_endpoints = {u.endpoint_id: u for u in await self._store.user_endpoints(endpoint_ids=wanted)}
        for endpoint_id in wanted:
            _set(self._managers, endpoint_id, managers.get(endpoint_id))
            _set(self._user_endpoints, endpoint_id, user_endpoints.get(endpoint_id))

    async def served_by(
        self, managers: Collection[uuid.UUID], endpoint_ids: Collection[uuid.UUID] = ()
    ) -> Sequence[UserEndpointRecord]:
        """The user endpoints of these managers, and those of these ids, also when they were made just now."""
        if not self._store.shared:
            known = self._user_endpoints.values()
            return [u for u in known if u.manager_id in managers or u.endpoint_id in endpoint_ids]
        found = {u.endpoint_id: u for i in managers for u in await self._store.user_endpoints(i)}
        if endpoint_ids:
            found.update((u.endpoint_id, u) for u in await self._store.user_endpoints(endpoint_ids=list(endpoint_ids)))
        self._user_endpoints.update(found)
        return list(found.values())

    def manager(self, endpoint_id: uuid.UUID) -> EndpointRecord | None:
        """Look up a manager."""
        return self._managers.get(endpoint_id)

    def managers(self) -> list[EndpointRecord]:
        """All managers, by name."""
        return sorted(self._managers.values(), key=lambda endpoint: (endpoint.name, endpoint.endpoint_id.hex))

    def user_endpoint(self, endpoint_id: uuid.UUID) -> UserEndpointRecord | None:
        """Look up a user endpoint."""
        return self._user_endpoints.get(endpoint_id)

    def user_endpoints(self, manager_id: uuid.UUID | None = None) -> list[UserEndpointRecord]:
        """The user endpoints of a manager, or all."""
        return [u for u in self._user_endpoints.values() if manager_id in (None, u.manager_id)]

    async def put_manager(self, endpoint: EndpointRecord) -> None:
        """Keep a manager, in place of any of the same id."""
        await self._store.put_endpoint(endpoint)
        self._managers[endpoint.endpoint_id] = endpoint

    async def delete_manager(self, endpoint_id: uuid.UUID) -> None:
        """Forget a manager and its user endpoints."""
        await self._store.delete_endpoint(endpoint_id)
        self._managers.pop(endpoint_id, None)
        for user_endpoint in self.user_endpoints(endpoint_id):
            del self._user_endpoints[user_endpoint.endpoint_id]

    async def ensure_user_endpoint(
        self,
        manager_id: uuid.UUID,
        identity_id: uuid.UUID,
        config: Mapping[str, Any] | None,
        user_runtime: Mapping[str, Any] | None,
    ) -> UserEndpointRecord:
        """The user endpoint for this identity and configuration, made on first use.

        Raises:
            EndpointGone: Another process has deleted the manager.
        """
        endpoint_id = names.user_endpoint_id(manager_id, identity_id, config)
        known = self._user_endpoints.get(endpoint_id)
        if known is not None and (user_runtime is None or known.user_runtime == user_runtime):
            return known
        await self.look_up([manager_id], again=True)
        if manager_id not in self._managers:
            raise EndpointGone(endpoint_id=endpoint_id)
        record = UserEndpointRecord(endpoint_id, manager_id, identity_id, config or {}, user_runtime or {})
        await self._store.put_user_endpoint(record)
        self._user_endpoints[endpoint_id] = record
        return record


def _set(records: dict[uuid.UUID, Any], key: uuid.UUID, value: Any) -> None:
    if value is None:
        records.pop(key, None)
    else:
        records[key] = value
