"""Who looks at the page: logins, sessions, and one-time codes.

A session is a token of its own, good for the page and nothing else: the cookie opens no REST call, its hash is in the
store, so that it holds in every process, ends by itself and can be taken back.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
import uuid
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from parsl_globus.errors import NotAuthorized
from parsl_globus.service.auth.base import Authenticator, Identity
from parsl_globus.service.auth.static import NO_CLIENT, hash_token
from parsl_globus.service.store.base import Store, TokenRecord
from parsl_globus.wire.documents import COMPUTE_SCOPE

PAGE_SCOPE = "urn:parsl-globus:scope:page"
LINK_SCOPE = "urn:parsl-globus:scope:page-login"

SESSION_LIFE_S = 12 * 3600.0
LINK_LIFE_S = 300.0
#: For a token that the store doesn't know, so that its end isn't known either.
_UNKNOWN_LIFE_S = 3600.0


@dataclass(frozen=True)
class Opened:
    """A session as it is handed out, once.

    Attributes:
        cookie: What the browser shows from now on.
        life_s: For how long.
    """

    cookie: str = field(repr=False)
    life_s: float


def csrf_token(cookie: str) -> str:
    """What a form must show beside `cookie`; other sites can't read either, nor make one of the other."""
    return hmac.new(cookie.encode(), b"parsl_globus page form", hashlib.sha256).hexdigest()


class Sessions:
    """Opens, finds and closes sessions.

    Args:
        store: Keeps them.
        auth: Judges clients and tokens.
    """

    def __init__(self, store: Store, auth: Authenticator) -> None:
        self._store = store
        self._auth = auth

    async def open_with_client(self, client_id: str, client_secret: str) -> Opened:
        """Log in with client credentials.

        Raises:
            NotAuthorized: They are wrong.
        """
        issued = await self._auth.issue(client_id, client_secret, [COMPUTE_SCOPE])
        if not issued:
            raise _refused("The client can't log in here.")
        # The token served only to learn whose client this is; nobody has seen it.
        identity = await self._auth.verify(issued[0].access_token, COMPUTE_SCOPE)
        record = await self._store.token(hash_token(issued[0].access_token))
        await self._store.remove_token(hash_token(issued[0].access_token))
        return await self._open(identity, record, SESSION_LIFE_S)

    async def open_with_token(self, token: str) -> Opened:
        """Log in with an access token; the session ends no later than it.

        Raises:
            NotAuthorized: It is no good.
        """
        identity = await self._auth.verify(token, COMPUTE_SCOPE)
        record = await self._store.token(hash_token(token))
        left_s = _UNKNOWN_LIFE_S if record is None else record.expires_s - time.time()
        return await self._open(identity, record, min(left_s, SESSION_LIFE_S))

    async def open_with_code(self, code: str) -> Opened:
        """Log in with a one-time code.

        Raises:
            NotAuthorized: It is unknown, was used, or has expired.
        """
        record = await self._store.token(hash_token(code))
        # Of several who show it at a time, one removes it.
        if record is not None and LINK_SCOPE in record.scopes and await self._store.remove_token(record.token_hash):
            known = await self._auth.identities([record.identity_id])
            if known and record.expires_s > time.time():
                return await self._open(known[0], record, SESSION_LIFE_S)
        raise _refused("This link was used already, or has expired. Get another: parsl-globus service page")

    async def open_for(self, identity: Identity) -> Opened:
        """Log in somebody who has shown elsewhere who it is."""
        return await self._open(identity, None, SESSION_LIFE_S)

    async def new_code(self, identity_id: uuid.UUID) -> str:
        """A code that logs an identity in, once, within `LINK_LIFE_S`."""
        return await self._add(identity_id, NO_CLIENT, LINK_SCOPE, LINK_LIFE_S)

    async def find(self, cookie: str) -> Identity | None:
        """Who has this session; `None` when it is unknown, closed or has expired."""
        record = await self._store.token(hash_token(cookie))
        if record is None or PAGE_SCOPE not in record.scopes or record.expires_s <= time.time():
            return None
        known = await self._auth.identities([record.identity_id])
        if not known:
            return None
        standing = await self._store.standing(record.identity_id)
        return Identity(
            record.identity_id,
            known[0].username,
            record.scopes,
            admin=standing.admin,
            groups=standing.groups,
            shared=standing.shared,
        )

    async def close(self, cookie: str) -> None:
        """End a session, everywhere and at once."""
        await self._store.remove_token(hash_token(cookie))

    async def _open(self, identity: Identity, record: TokenRecord | None, life_s: float) -> Opened:
        client_id = NO_CLIENT if record is None else record.client_id
        return Opened(await self._add(identity.identity_id, client_id, PAGE_SCOPE, life_s), life_s)

    async def _add(self, identity_id: uuid.UUID, client_id: uuid.UUID, scope: str, life_s: float) -> str:
        token = secrets.token_urlsafe(32)
        expires_s = time.time() + life_s
        await self._store.add_tokens(
            [TokenRecord(hash_token(token), identity_id, client_id, frozenset([scope]), expires_s)]
        )
        return token


def _refused(reason: str) -> NotAuthorized:
    return NotAuthorized(http_status=401, code="USER_UNAUTHENTICATED", reason=reason)


class Throttle:
    """Refuses those who failed too often lately.

    Args:
        most: So many failures.
        within_s: In this time.
        remembered: Of so many addresses; the oldest are forgotten.
    """

    def __init__(self, most: int = 20, within_s: float = 60.0, remembered: int = 10_000) -> None:
        self._most = most
        self._within_s = within_s
        self._remembered = remembered
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def allows(self, address: str, now_s: float) -> bool:
        """Whether this address may try."""
        failures = self._failures.get(address)
        return failures is None or len(failures) < self._most or now_s - failures[0] > self._within_s

    def failed(self, address: str, now_s: float) -> None:
        """This address has failed."""
        self._failures.setdefault(address, deque(maxlen=self._most)).append(now_s)
        self._failures.move_to_end(address)
        while len(self._failures) > self._remembered:
            self._failures.popitem(last=False)
