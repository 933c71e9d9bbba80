"""Logins of the command line by way of the page: who is logged in there takes a code from it to the terminal."""

from __future__ import annotations

import re
import secrets
import time
import uuid
from typing import Any

from parsl_globus.errors import NotAuthorized
from parsl_globus.service.auth.base import Authenticator
from parsl_globus.service.auth.oidc.attempt import challenge_of
from parsl_globus.service.auth.static import NO_CLIENT, hash_token
from parsl_globus.service.rules.people import PeopleRules
from parsl_globus.service.store.base import Store, TokenRecord

_SCOPE = "urn:parsl-globus:scope:command-login:"
#: For the way from the browser to the terminal.
CODE_LIFE_S = 300.0
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")


def is_challenge(text: str) -> bool:
    """Whether a command may have said this."""
    return _CHALLENGE.fullmatch(text) is not None


class CommandLogins:
    """Gives out codes and changes them into tokens.

    A code is good once, for minutes, and only together with what the command kept to itself; the page has seen the
    hash of that, so that whoever else gets to see the code can do nothing with it.

    Args:
        store: Keeps the codes.
        auth: Knows the callers.
        people: Makes tokens.
    """

    def __init__(self, store: Store, auth: Authenticator, people: PeopleRules) -> None:
        self._store = store
        self._auth = auth
        self._people = people

    async def new_code(self, identity_id: uuid.UUID, challenge: str) -> str:
        """A code for the command that said `challenge`."""
        code = secrets.token_urlsafe(24)
        scopes = frozenset([_SCOPE + challenge])
        expires_s = time.time() + CODE_LIFE_S
        await self._store.add_tokens([TokenRecord(hash_token(code), identity_id, NO_CLIENT, scopes, expires_s)])
        return code

    async def redeem(self, code: str, verifier: str) -> dict[str, Any]:
        """A token for a code.

        Raises:
            NotAuthorized: It is unknown, was used, has expired, or is another command's.
        """
        record = await self._store.token(hash_token(code))
        # Of several who show it at a time, one removes it.
        if (
            record is not None
            and _SCOPE + challenge_of(verifier) in record.scopes
            and await self._store.remove_token(record.token_hash)
        ):
            known = await self._auth.identities([record.identity_id])
            if known and record.expires_s > time.time():
                return await self._people.log_in(known[0])
        raise NotAuthorized(
            http_status=401,
            code="CODE_REFUSED",
            reason="This code is not the one for this command, was used already, or has expired. Log in again.",
        )
