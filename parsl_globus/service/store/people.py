"""What the service asks of a store about people: users, their groups, who shares what with whom, tokens in use."""

from __future__ import annotations

import enum
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from parsl_globus.errors import ServiceError

if TYPE_CHECKING:
    from parsl_globus.service.store.base import ClientRecord, TokenRecord

#: Grantee of shares with everyone: there is no such identity.
EVERYONE = uuid.UUID(int=0)


class NameTaken(ServiceError):
    """A user or a group of this name is there already; nothing was changed.

    Attributes:
        name: The name.
    """

    name: str

    def __init__(self, *, name: str) -> None:
        super().__init__(f"The name '{name}' is taken.", name=name)


class GranteeKind(str, enum.Enum):
    """With whom an endpoint is shared."""

    USER = "user"
    GROUP = "group"
    EVERYONE = "everyone"


@dataclass(frozen=True)
class UserRecord:
    """Someone with a name of its own.

    Attributes:
        identity_id: Who it is.
        username: Its name, nobody else's.
        admin: Whether it may manage the service.
    """

    identity_id: uuid.UUID
    username: str
    admin: bool = False


@dataclass(frozen=True)
class UserGroupRecord:
    """A group of users.

    Attributes:
        group_id: Its id, which functions are registered for.
        name: Its name, no other's.
    """

    group_id: uuid.UUID
    name: str


@dataclass(frozen=True)
class ShareRecord:
    """An endpoint may be used by others than its owner.

    Attributes:
        endpoint_id: The manager.
        kind: With what it is shared.
        grantee_id: The identity or the group; `EVERYONE`.
    """

    endpoint_id: uuid.UUID
    kind: GranteeKind
    grantee_id: uuid.UUID


@dataclass(frozen=True)
class LoginRecord:
    """A user logs in elsewhere.

    Attributes:
        issuer: Where, as an OpenID Connect issuer's URL.
        subject: Who it is there; never given to another one, unlike names.
        identity_id: Who it is here.
    """

    issuer: str
    subject: str
    identity_id: uuid.UUID


@dataclass(frozen=True)
class Standing:
    """All that an identity may do beyond what it owns.

    Attributes:
        admin: Whether it may manage the service.
        groups: The groups it is in.
        shared: The endpoints that are shared with it, with a group it is in, or with everyone.
    """

    admin: bool = False
    groups: frozenset[uuid.UUID] = frozenset()
    shared: frozenset[uuid.UUID] = frozenset()


class PeopleStore(Protocol):
    """This part of a `Store`; its promises hold here as well."""

    async def standing(self, identity_id: uuid.UUID) -> Standing:
        """What an identity may do; nothing for an unknown one."""

    async def add_user(self, user: UserRecord, client: ClientRecord | None, login: LoginRecord | None = None) -> None:
        """Keep a new user with its first client, or its login elsewhere.

        Raises:
            NameTaken: There is one of this name, or the login is another's already.
        """

    async def ensure_admin(self, identity_id: uuid.UUID, username: str) -> None:
        """Make an identity an administrator, under this name, or one that follows from it if that is taken."""

    async def users(self) -> list[UserRecord]:
        """All users, by name."""

    async def user_named(self, username: str) -> UserRecord | None:
        """Look up a user."""

    async def replace_clients(self, identity_id: uuid.UUID, client: ClientRecord) -> None:
        """Keep a client in place of all of this identity's clients and tokens."""

    async def remove_user(self, identity_id: uuid.UUID) -> bool:
        """Forget a user with its clients, logins, tokens, memberships and shares; whether there was one."""

    async def login_owner(self, issuer: str, subject: str) -> uuid.UUID | None:
        """Whose login elsewhere this is."""

    async def add_login(self, login: LoginRecord) -> uuid.UUID:
        """Keep a login unless it is somebody's already; whose it is now."""

    async def logins(self, identity_id: uuid.UUID) -> list[LoginRecord]:
        """An identity's logins elsewhere."""

    async def remove_logins(self, identity_id: uuid.UUID) -> None:
        """Forget an identity's logins elsewhere."""

    async def add_user_group(self, group: UserGroupRecord) -> None:
        """Keep a new group.

        Raises:
            NameTaken: There is one of this name.
        """

    async def user_groups(self, group_ids: Sequence[uuid.UUID] | None = None) -> list[UserGroupRecord]:
        """All groups, or those of `group_ids` that are known, by name."""

    async def user_group_named(self, name: str) -> UserGroupRecord | None:
        """Look up a group."""

    async def remove_user_group(self, group_id: uuid.UUID) -> bool:
        """Forget a group with its memberships and shares; whether there was one."""

    async def members(self) -> dict[uuid.UUID, list[uuid.UUID]]:
        """The identities in each group that has some."""

    async def add_member(self, group_id: uuid.UUID, identity_id: uuid.UUID) -> None:
        """Put an identity into a group; it may be in it already."""

    async def remove_member(self, group_id: uuid.UUID, identity_id: uuid.UUID) -> bool:
        """Take an identity out of a group; whether it was in it."""

    async def add_share(self, share: ShareRecord) -> None:
        """Keep a share; it may be there already."""

    async def remove_share(self, share: ShareRecord) -> bool:
        """Forget a share; whether there was one."""

    async def shares(self, endpoint_id: uuid.UUID) -> list[ShareRecord]:
        """The shares of an endpoint."""

    async def remove_shares(self, endpoint_id: uuid.UUID) -> None:
        """Forget all shares of an endpoint."""

    async def tokens(self, identity_id: uuid.UUID | None = None) -> list[TokenRecord]:
        """All tokens, or those of an identity, those that expire first at the front."""

    async def remove_token(self, token_hash: str) -> bool:
        """Forget a token; whether there was one."""
