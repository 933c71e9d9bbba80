"""What the service asks of an authenticator: who calls, and for what."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Identity:
    """A caller who has shown a good token.

    Attributes:
        identity_id: Who it is.
        username: A name for people.
        scopes: What the token may be used for.
        admin: Whether it may manage the service.
        groups: The groups it is in.
        shared: The endpoints of others that are shared with it.
    """

    identity_id: uuid.UUID
    username: str
    scopes: frozenset[str] = frozenset()
    admin: bool = False
    groups: frozenset[uuid.UUID] = frozenset()
    shared: frozenset[uuid.UUID] = frozenset()


@dataclass(frozen=True)
class IssuedToken:
    """A token as it is handed out, once.

    Attributes:
        resource_server: What it is for, in the terms of Globus Auth.
        scopes: What it may be used for there.
        access_token: The token.
        expires_in_s: How long it is good for.
    """

    resource_server: str
    scopes: tuple[str, ...]
    access_token: str = field(repr=False)
    expires_in_s: int = 0


class Authenticator(Protocol):
    """Judges tokens, and gives them out where it can."""

    async def verify(self, token: str, scope: str) -> Identity:
        """Who holds `token`.

        Raises:
            NotAuthorized: It is unknown, has expired (401), or isn't for `scope` (403).
        """

    async def issue(self, client_id: str, client_secret: str, scopes: Sequence[str]) -> list[IssuedToken]:
        """Log a client in: one token per resource server, the one for Globus Compute first.

        Raises:
            NotAuthorized: The client is unknown, or the secret is wrong.
        """

    async def revoke(self, client_id: str, client_secret: str, token: str) -> None:
        """Make a token void that this client got; nothing happens to any other.

        Raises:
            NotAuthorized: The client is unknown, or the secret is wrong.
        """

    async def identities(self, identity_ids: Sequence[uuid.UUID]) -> list[Identity]:
        """Those of `identity_ids` that are known."""

    def forget(self) -> None:
        """Who may do what has changed: what is remembered of callers counts no more in this process."""
