"""What the store in memory knows about people."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from parsl_globus.service.store.people import (
    EVERYONE,
    LoginRecord,
    NameTaken,
    ShareRecord,
    Standing,
    UserGroupRecord,
    UserRecord,
)

if TYPE_CHECKING:
    from parsl_globus.service.store.base import ClientRecord, IdentityRecord, TokenRecord


class MemoryPeople:
    """See `PeopleStore`; a part of `MemoryStore`."""

    _identities: dict[uuid.UUID, IdentityRecord]
    _clients: dict[uuid.UUID, ClientRecord]
    _tokens: dict[str, TokenRecord]

    def __init__(self) -> None:
        self._users: dict[uuid.UUID, UserRecord] = {}
        self._logins: dict[tuple[str, str], LoginRecord] = {}
        self._user_groups: dict[uuid.UUID, UserGroupRecord] = {}
        self._members: set[tuple[uuid.UUID, uuid.UUID]] = set()
        self._shares: dict[tuple[uuid.UUID, uuid.UUID], ShareRecord] = {}

    async def standing(self, identity_id: uuid.UUID) -> Standing:
        user = self._users.get(identity_id)
        groups = frozenset(group for group, member in self._members if member == identity_id)
        mine = {identity_id, EVERYONE, *groups}
        shared = frozenset(share.endpoint_id for share in self._shares.values() if share.grantee_id in mine)
        return Standing(user is not None and user.admin, groups, shared)

    async def add_user(self, user: UserRecord, client: ClientRecord | None, login: LoginRecord | None = None) -> None:
        from parsl_globus.service.store.base import IdentityRecord

        taken = login is not None and (login.issuer, login.subject) in self._logins
        if taken or await self.user_named(user.username) is not None:
            raise NameTaken(name=user.username)
        self._users[user.identity_id] = user
        self._identities[user.identity_id] = IdentityRecord(user.identity_id, user.username)
        if client is not None:
            self._clients[client.client_id] = client
        if login is not None:
            self._logins[(login.issuer, login.subject)] = login

    async def ensure_admin(self, identity_id: uuid.UUID, username: str) -> None:
        known = self._users.get(identity_id)
        if known is None:
            free = await self.user_named(username) is None
            known = UserRecord(identity_id, username if free else f"{identity_id.hex[:8]}.{username}")
        self._users[identity_id] = replace(known, admin=True)

    async def users(self) -> list[UserRecord]:
        return sorted(self._users.values(), key=lambda user: user.username)

    async def user_named(self, username: str) -> UserRecord | None:
        return next((user for user in self._users.values() if user.username == username), None)

    async def replace_clients(self, identity_id: uuid.UUID, client: ClientRecord) -> None:
        self._forget_clients(identity_id)
        self._clients[client.client_id] = client

    def _forget_clients(self, identity_id: uuid.UUID) -> None:
        self._clients = {i: c for i, c in self._clients.items() if c.identity_id != identity_id}
        self._tokens = {h: t for h, t in self._tokens.items() if t.identity_id != identity_id}

    async def remove_user(self, identity_id: uuid.UUID) -> bool:
        self._forget_clients(identity_id)
        await self.remove_logins(identity_id)
        self._members = {(group, member) for group, member in self._members if member != identity_id}
        self._shares = {key: share for key, share in self._shares.items() if share.grantee_id != identity_id}
        self._identities.pop(identity_id, None)
        return self._users.pop(identity_id, None) is not None

    async def login_owner(self, issuer: str, subject: str) -> uuid.UUID | None:
        known = self._logins.get((issuer, subject))
        return None if known is None else known.identity_id

    async def add_login(self, login: LoginRecord) -> uuid.UUID:
        return self._logins.setdefault((login.issuer, login.subject), login).identity_id

    async def logins(self, identity_id: uuid.UUID) -> list[LoginRecord]:
        found = (login for login in self._logins.values() if login.identity_id == identity_id)
        return sorted(found, key=lambda login: (login.issuer, login.subject))

    async def remove_logins(self, identity_id: uuid.UUID) -> None:
        self._logins = {key: login for key, login in self._logins.items() if login.identity_id != identity_id}

    async def add_user_group(self, group: UserGroupRecord) -> None:
        if await self.user_group_named(group.name) is not None:
            raise NameTaken(name=group.name)
        self._user_groups[group.group_id] = group

    async def user_groups(self, group_ids: Sequence[uuid.UUID] | None = None) -> list[UserGroupRecord]:
        found = (group for i, group in self._user_groups.items() if group_ids is None or i in group_ids)
        return sorted(found, key=lambda group: group.name)

    async def user_group_named(self, name: str) -> UserGroupRecord | None:
        return next((group for group in self._user_groups.values() if group.name == name), None)

    async def remove_user_group(self, group_id: uuid.UUID) -> bool:
        self._members = {(group, member) for group, member in self._members if group != group_id}
        self._shares = {key: share for key, share in self._shares.items() if share.grantee_id != group_id}
        return self._user_groups.pop(group_id, None) is not None

    async def members(self) -> dict[uuid.UUID, list[uuid.UUID]]:
        by_group: dict[uuid.UUID, list[uuid.UUID]] = {}
        for group, member in self._members:
            by_group.setdefault(group, []).append(member)
        return by_group

    async def add_member(self, group_id: uuid.UUID, identity_id: uuid.UUID) -> None:
        self._members.add((group_id, identity_id))

    async def remove_member(self, group_id: uuid.UUID, identity_id: uuid.UUID) -> bool:
        there = (group_id, identity_id) in self._members
        self._members.discard((group_id, identity_id))
        return there

    async def add_share(self, share: ShareRecord) -> None:
        self._shares[(share.endpoint_id, share.grantee_id)] = share

    async def remove_share(self, share: ShareRecord) -> bool:
        return self._shares.pop((share.endpoint_id, share.grantee_id), None) is not None

    async def shares(self, endpoint_id: uuid.UUID) -> list[ShareRecord]:
        return [share for share in self._shares.values() if share.endpoint_id == endpoint_id]

    async def remove_shares(self, endpoint_id: uuid.UUID) -> None:
        self._shares = {key: share for key, share in self._shares.items() if share.endpoint_id != endpoint_id}

    async def tokens(self, identity_id: uuid.UUID | None = None) -> list[TokenRecord]:
        found = (token for token in self._tokens.values() if identity_id in (None, token.identity_id))
        return sorted(found, key=lambda token: (token.expires_s, token.token_hash))

    async def remove_token(self, token_hash: str) -> bool:
        return self._tokens.pop(token_hash, None) is not None
