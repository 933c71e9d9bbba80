"""People: users, groups and tokens, and with whom endpoints are shared."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from typing import Any, Protocol

from parsl_globus.service.auth.base import Authenticator, Identity
from parsl_globus.service.rules import refusals
from parsl_globus.service.rules.endpoints import EndpointRules
from parsl_globus.service.store.base import ClientRecord, Store, TokenRecord
from parsl_globus.service.store.people import (
    EVERYONE,
    GranteeKind,
    NameTaken,
    ShareRecord,
    UserGroupRecord,
    UserRecord,
)
from parsl_globus.wire.documents import COMPUTE_SCOPE
from parsl_globus.wire.people import ADMIN_SCOPE, BLOBS_SCOPE, SCOPES, NewToken

logger = logging.getLogger(__name__)

#: Characters of a token's hash that name it in listings; its holder can't be asked for the token itself.
_TOKEN_ID_LENGTH = 16
#: The name in place of one, where an endpoint is shared with everyone.
_EVERYONE_NAME = "everyone"


class Secrets(Authenticator, Protocol):
    """An authenticator that makes the secrets; `StaticAuthenticator` does."""

    async def new_client(self, identity_id: uuid.UUID) -> tuple[ClientRecord, str]:
        """A client with a new secret, not stored yet."""

    async def mint(self, identity_id: uuid.UUID, scopes: Sequence[str], life_s: float) -> tuple[str, TokenRecord]:
        """A new token, stored."""


class PeopleRules:
    """What may happen to users, groups, tokens and shares. Whoever calls has shown a token for the right scope.

    What changes counts at once in this process, and in others when what they remember of a caller ends, 2 s later at
    the latest.

    Args:
        store: Where they are.
        auth: Makes secrets; is told to forget.
        endpoints: Knows whose endpoints are.
        token_life_s: How long a token lives if nothing is said.
    """

    def __init__(self, store: Store, auth: Authenticator, endpoints: EndpointRules, *, token_life_s: float) -> None:
        self._store = store
        self._auth = auth
        self._endpoints = endpoints
        self._token_life_s = token_life_s

    async def about(self, caller: Identity) -> dict[str, Any]:
        """What the service knows of the caller."""
        groups = await self._store.user_groups(list(caller.groups))
        return {
            "identity_id": str(caller.identity_id),
            "username": caller.username,
            "admin": caller.admin,
            "scopes": sorted(caller.scopes),
            "groups": [_group(group) for group in groups],
            "shared_endpoints": sorted(str(endpoint_id) for endpoint_id in caller.shared),
        }

    # ---- users --------------------------------------------------------------------------------------------------

    async def add_user(self, username: str, *, admin: bool) -> dict[str, Any]:
        """Make a user with a client.

        Returns:
            Its credentials, which can't be had again.

        Raises:
            RequestRefused: The name is taken.
        """
        user = UserRecord(uuid.uuid4(), username, admin)
        client, secret = await self._secrets().new_client(user.identity_id)
        try:
            await self._store.add_user(user, client)
        except NameTaken as exc:
            raise refusals.name_taken("user", username) from exc
        logger.info("User '%s' was added as %s", username, user.identity_id)
        return {**_user(user), "client_id": str(client.client_id), "client_secret": secret}

    async def new_secret(self, username: str) -> dict[str, Any]:
        """Give a user a new client; the old ones, and all its tokens, are gone."""
        user = await self.user(username)
        client, secret = await self._secrets().new_client(user.identity_id)
        await self._store.replace_clients(user.identity_id, client)
        self._auth.forget()
        return {**_user(user), "client_id": str(client.client_id), "client_secret": secret}

    async def users(self) -> list[dict[str, Any]]:
        """All users."""
        return [_user(user) for user in await self._store.users()]

    async def remove_user(self, caller: Identity, username: str) -> None:
        """Forget a user. Its endpoints are deleted, so that their logins on the broker are good for nothing."""
        user = await self.user(username)
        await self._store.remove_user(user.identity_id)
        self._auth.forget()
        for endpoint_id in self._endpoints.owned_by(user.identity_id):
            await self._endpoints.delete(caller, endpoint_id)
        logger.info("User '%s' (%s) was removed", username, user.identity_id)

    async def user(self, username: str) -> UserRecord:
        """The user of this name.

        Raises:
            RequestRefused: There is none.
        """
        user = await self._store.user_named(username)
        if user is None:
            raise refusals.unknown_name("user", username)
        return user

    def _secrets(self) -> Secrets:
        auth: Any = self._auth
        if not hasattr(auth, "new_client"):
            raise refusals.not_here("This service's users are managed where they log in, not here.")
        made: Secrets = auth
        return made

    # ---- groups -------------------------------------------------------------------------------------------------

    async def add_group(self, name: str) -> dict[str, Any]:
        """Make a group without members.

        Raises:
            RequestRefused: The name is taken.
        """
        group = UserGroupRecord(uuid.uuid4(), name)
        try:
            await self._store.add_user_group(group)
        except NameTaken as exc:
            raise refusals.name_taken("group", name) from exc
        return {**_group(group), "members": []}

    async def groups(self) -> list[dict[str, Any]]:
        """All groups with their members' names."""
        names = {user.identity_id: user.username for user in await self._store.users()}
        members = await self._store.members()
        return [
            {
                **_group(group),
                "members": sorted(names.get(member, str(member)) for member in members.get(group.group_id, ())),
            }
            for group in await self._store.user_groups()
        ]

    async def remove_group(self, name: str) -> None:
        """Forget a group."""
        await self._store.remove_user_group((await self._group(name)).group_id)
        self._auth.forget()

    async def set_member(self, group_name: str, username: str, *, member: bool) -> None:
        """Put a user into a group, or take it out."""
        group, user = await self._group(group_name), await self.user(username)
        if member:
            await self._store.add_member(group.group_id, user.identity_id)
        else:
            await self._store.remove_member(group.group_id, user.identity_id)
        self._auth.forget()

    async def _group(self, name: str) -> UserGroupRecord:
        group = await self._store.user_group_named(name)
        if group is None:
            raise refusals.unknown_name("group", name)
        return group

    # ---- tokens -------------------------------------------------------------------------------------------------

    async def add_token(self, caller: Identity, wanted: NewToken) -> dict[str, Any]:
        """Make a token, for the caller, or by an administrator for another user.

        Raises:
            RequestRefused: The user is unknown, or the token would be good for more than the caller's.
        """
        scopes = [SCOPES.get(scope, scope) for scope in wanted.scopes]
        if not set(scopes).issubset(SCOPES.values()):
            raise refusals.invalid(f"Tokens are made for the scopes {', '.join(sorted(SCOPES))}.")
        manages = caller.admin and ADMIN_SCOPE in caller.scopes
        identity_id, username = caller.identity_id, caller.username
        if wanted.user is not None and wanted.user != caller.username:
            if not manages:
                raise refusals.admins_only()
            user = await self.user(wanted.user)
            identity_id, username = user.identity_id, user.username
            if ADMIN_SCOPE in scopes and not user.admin:
                raise refusals.admins_only()
        elif not manages and not _all_it_may(caller.scopes).issuperset(scopes):
            raise refusals.scope_not_held()
        life_s = wanted.life_s or self._token_life_s
        token, record = await self._secrets().mint(identity_id, scopes, life_s)
        return {**_token(record, username), "access_token": token}

    async def log_in(self, identity: Identity) -> dict[str, Any]:
        """A token for somebody who has shown elsewhere who it is."""
        token, record = await self._secrets().mint(identity.identity_id, [COMPUTE_SCOPE], self._token_life_s)
        return {**_token(record, identity.username), "access_token": token}

    async def tokens(self, caller: Identity, username: str | None, *, everybody: bool) -> list[dict[str, Any]]:
        """Tokens of the caller, or by an administrator those of a user or of all."""
        names = {caller.identity_id: caller.username}
        wanted: uuid.UUID | None = caller.identity_id
        if everybody or username not in (None, caller.username):
            if not (caller.admin and ADMIN_SCOPE in caller.scopes):
                raise refusals.admins_only()
            names = {user.identity_id: user.username for user in await self._store.users()}
            wanted = None if username is None else (await self.user(username)).identity_id
        found = await self._store.tokens(wanted)
        return [_token(record, names.get(record.identity_id, str(record.identity_id))) for record in found]

    async def revoke_token(self, caller: Identity, token_id: str) -> None:
        """Revoke a token of the caller's own, or by an administrator any.

        Raises:
            RequestRefused: There is none.
        """
        everybody = caller.admin and ADMIN_SCOPE in caller.scopes
        for record in await self._store.tokens(None if everybody else caller.identity_id):
            if record.token_hash[:_TOKEN_ID_LENGTH] == token_id:
                await self._store.remove_token(record.token_hash)
                self._auth.forget()
                return
        raise refusals.unknown_token(token_id)

    # ---- shares -------------------------------------------------------------------------------------------------

    async def shares(self, caller: Identity, endpoint_id: uuid.UUID) -> list[dict[str, str]]:
        """With whom an endpoint that the caller may change is shared."""
        self._endpoints.changeable(caller, endpoint_id)
        users = {user.identity_id: user.username for user in await self._store.users()}
        groups = {group.group_id: group.name for group in await self._store.user_groups()}
        names = {**users, **groups, EVERYONE: _EVERYONE_NAME}
        found = [
            {"kind": share.kind.value, "name": names.get(share.grantee_id, str(share.grantee_id))}
            for share in await self._store.shares(endpoint_id)
        ]
        return sorted(found, key=lambda share: (share["kind"], share["name"]))

    async def set_share(self, caller: Identity, endpoint_id: uuid.UUID, kind: str, name: str, *, shared: bool) -> None:
        """Share an endpoint that the caller may change, or end that.

        Raises:
            RequestRefused: The endpoint is another's, or there is no such user or group.
        """
        self._endpoints.changeable(caller, endpoint_id)
        share = ShareRecord(endpoint_id, *await self._grantee(kind, name))
        if shared:
            await self._store.add_share(share)
        else:
            await self._store.remove_share(share)
        self._auth.forget()
        word = "shared with" if shared else "no longer shared with"
        logger.info("Endpoint %s is %s %s '%s'", endpoint_id, word, kind, name)

    async def _grantee(self, kind: str, name: str) -> tuple[GranteeKind, uuid.UUID]:
        if kind == GranteeKind.USER.value:
            return GranteeKind.USER, (await self.user(name)).identity_id
        if kind == GranteeKind.GROUP.value:
            return GranteeKind.GROUP, (await self._group(name)).group_id
        if kind == GranteeKind.EVERYONE.value and name == _EVERYONE_NAME:
            return GranteeKind.EVERYONE, EVERYONE
        raise refusals.unknown_name(kind, name)


def _all_it_may(scopes: frozenset[str]) -> frozenset[str]:
    """What a token is good for: one for `compute` does all that one for `blobs` does."""
    return scopes | {BLOBS_SCOPE} if COMPUTE_SCOPE in scopes else scopes


def _user(user: UserRecord) -> dict[str, Any]:
    return {"identity_id": str(user.identity_id), "username": user.username, "admin": user.admin}


def _group(group: UserGroupRecord) -> dict[str, Any]:
    return {"group_id": str(group.group_id), "name": group.name}


def _token(record: TokenRecord, username: str) -> dict[str, Any]:
    short = {scope: name for name, scope in SCOPES.items()}
    return {
        "token_id": record.token_hash[:_TOKEN_ID_LENGTH],
        "user": username,
        "scopes": sorted(short.get(scope, scope) for scope in record.scopes),
        "expires_s": record.expires_s,
        "login": record.client_id.int != 0,
    }
