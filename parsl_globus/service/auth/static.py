"""Client credentials and bearer tokens of our own, in Globus Auth's shape."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
import uuid
from collections.abc import Sequence
from functools import partial

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from parsl_globus.errors import NotAuthorized
from parsl_globus.service.auth.base import Identity, IssuedToken
from parsl_globus.service.store.base import ClientRecord, IdentityRecord, Store, TokenRecord
from parsl_globus.wire.documents import AUTH_RESOURCE_SERVER, COMPUTE_RESOURCE_SERVER, COMPUTE_SCOPE
from parsl_globus.wire.people import ADMIN_SCOPE, OWN_SCOPES, SCOPES

#: Verified tokens are remembered this long, so that not every request costs a look-up. What was changed by another
#: process of the service, a token revoked or an endpoint shared, is seen after this time at the latest.
_REMEMBER_S = 2.0
_REMEMBER_COUNT = 1000

#: A token to manage the service is asked for by each command that does; it need not outlive it by much.
_ADMIN_LIFE_S = 900.0
_ADMIN_RESOURCE_SERVER = "parsl_globus"
#: In place of a client, in the records of tokens that were not given out to one.
NO_CLIENT = uuid.UUID(int=0)


def _refused(code: str, reason: str, http_status: int = 401) -> NotAuthorized:
    return NotAuthorized(http_status=http_status, code=code, reason=reason)


def hash_token(token: str) -> str:
    """What is stored of a token: it is random and long, so a plain hash is as good as a slow one."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


class StaticAuthenticator:
    """Knows the clients in the store. See `Authenticator`.

    Args:
        store: Keeps clients, with argon2 hashes of their secrets, and tokens, with SHA-256 hashes.
        token_life_s: How long a token is good for.
    """

    def __init__(self, store: Store, *, token_life_s: float) -> None:
        self._store = store
        self._token_life_s = token_life_s
        self._hasher = PasswordHasher()
        self._remembered: dict[str, tuple[float, Identity]] = {}
        # argon2 takes 64 MiB and some 50 ms each time; a crowd of logins must not multiply that.
        self._hashing = asyncio.Semaphore(2)

    async def add_client(self, identity_id: uuid.UUID, username: str) -> tuple[uuid.UUID, str]:
        """Make a client with a new secret for an identity, which is made as well if need be.

        Returns:
            The client's id and its secret, which can't be had again.
        """
        client_id, secret = uuid.uuid4(), secrets.token_urlsafe(32)
        await self.set_client(client_id, secret, identity_id, username)
        return client_id, secret

    async def new_client(self, identity_id: uuid.UUID) -> tuple[ClientRecord, str]:
        """A client with a new secret, to be stored by the caller; the secret can't be had again."""
        secret = secrets.token_urlsafe(32)
        return ClientRecord(uuid.uuid4(), identity_id, await self._hash_secret(secret)), secret

    async def set_client(self, client_id: uuid.UUID, secret: str, identity_id: uuid.UUID, username: str) -> None:
        """Let `client_id` log in as an identity with `secret` from now on."""
        hashed = await self._hash_secret(secret)
        await self._store.add_identity(IdentityRecord(identity_id, username))
        await self._store.add_client(ClientRecord(client_id, identity_id, hashed))

    async def _hash_secret(self, secret: str) -> str:
        async with self._hashing:
            return await asyncio.get_running_loop().run_in_executor(None, self._hasher.hash, secret)

    async def verify(self, token: str, scope: str) -> Identity:
        now_s = time.time()
        hashed = hash_token(token)
        until_s, identity = self._remembered.get(hashed, (0.0, None))
        if identity is None or until_s <= now_s:
            until_s, identity = await self._look_up(hashed, now_s)
            if len(self._remembered) >= _REMEMBER_COUNT:
                self._remembered.clear()
            self._remembered[hashed] = (until_s, identity)
        if scope not in identity.scopes:
            raise _refused("INSUFFICIENT_SCOPE", f"This token was not given out for the scope '{scope}'.", 403)
        return identity

    async def _look_up(self, hashed: str, now_s: float) -> tuple[float, Identity]:
        record = await self._store.token(hashed)
        if record is None or record.expires_s <= now_s:
            raise _refused("USER_UNAUTHENTICATED", "The access token is unknown or has expired; log in again.")
        known = await self.identities([record.identity_id])
        if not known:
            raise _refused("USER_UNAUTHENTICATED", "The access token belongs to nobody known; log in again.")
        standing = await self._store.standing(record.identity_id)
        scopes = record.scopes if standing.admin else record.scopes - {ADMIN_SCOPE}
        identity = Identity(
            record.identity_id,
            known[0].username,
            scopes,
            admin=standing.admin,
            groups=standing.groups,
            shared=standing.shared,
        )
        return min(record.expires_s, now_s + _REMEMBER_S), identity

    async def issue(self, client_id: str, client_secret: str, scopes: Sequence[str]) -> list[IssuedToken]:
        client = await self._client(client_id, client_secret)
        if ADMIN_SCOPE in scopes and not (await self._store.standing(client.identity_id)).admin:
            raise _refused("access_denied", "Only administrators of this service get a token to manage it.", 403)
        _check_scopes(scopes)
        now_s = time.time()
        issued, records = [], []
        for server, granted in _by_resource_server(scopes):
            token = secrets.token_urlsafe(32)
            life_s = min(self._token_life_s, _ADMIN_LIFE_S) if ADMIN_SCOPE in granted else self._token_life_s
            issued.append(IssuedToken(server, granted, token, int(life_s)))
            records.append(
                TokenRecord(
                    hash_token(token),
                    client.identity_id,
                    client.client_id,
                    frozenset(granted),
                    now_s + life_s,
                )
            )
        await self._store.add_tokens(records)
        return issued

    async def revoke(self, client_id: str, client_secret: str, token: str) -> None:
        client = await self._client(client_id, client_secret)
        hashed = hash_token(token)
        record = await self._store.token(hashed)
        if record is not None and record.client_id == client.client_id:
            await self._store.remove_token(hashed)
            self._remembered.pop(hashed, None)

    async def mint(self, identity_id: uuid.UUID, scopes: Sequence[str], life_s: float) -> tuple[str, TokenRecord]:
        """A token without a login; the caller has decided that it may be given out. It can't be had again."""
        token = secrets.token_urlsafe(32)
        record = TokenRecord(hash_token(token), identity_id, NO_CLIENT, frozenset(scopes), time.time() + life_s)
        await self._store.add_tokens([record])
        return token, record

    def forget(self) -> None:
        self._remembered.clear()

    async def _client(self, client_id: str, client_secret: str) -> ClientRecord:
        try:
            client = await self._store.client(uuid.UUID(client_id))
        except ValueError:
            client = None
        if client is None:
            raise _refused("invalid_client", "The client id is unknown here, or its secret is wrong.")
        check = partial(self._hasher.verify, client.secret_hash, client_secret)
        try:
            async with self._hashing:
                await asyncio.get_running_loop().run_in_executor(None, check)
        except (VerificationError, InvalidHashError) as exc:
            raise _refused("invalid_client", "The client id is unknown here, or its secret is wrong.") from exc
        return client

    async def identities(self, identity_ids: Sequence[uuid.UUID]) -> list[Identity]:
        return [Identity(i.identity_id, i.username) for i in await self._store.identities(identity_ids)]


def _check_scopes(scopes: Sequence[str]) -> None:
    """Scopes of others mean nothing here and harm nobody; of our own, some are never asked for by clients."""
    ours = {scope for scope in scopes if scope.startswith(OWN_SCOPES)}
    if not ours.issubset(SCOPES.values()):
        raise _refused("invalid_scope", "Clients don't get tokens for this scope of the service.", 400)


def _by_resource_server(scopes: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """The scopes asked for, by whom they are for; the compute service's first (PROTOCOL.md section 3)."""
    compute = tuple(scope for scope in dict.fromkeys(scopes) if scope == COMPUTE_SCOPE)
    admin = tuple(scope for scope in dict.fromkeys(scopes) if scope == ADMIN_SCOPE)
    other = tuple(scope for scope in dict.fromkeys(scopes) if scope not in (COMPUTE_SCOPE, ADMIN_SCOPE))
    all_of_them = ((COMPUTE_RESOURCE_SERVER, compute), (AUTH_RESOURCE_SERVER, other), (_ADMIN_RESOURCE_SERVER, admin))
    return [(server, granted) for server, granted in all_of_them if granted]
