"""The queries about people, for the SQL stores."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa

from parsl_globus.service.store.people import (
    EVERYONE,
    GranteeKind,
    LoginRecord,
    NameTaken,
    ShareRecord,
    Standing,
    UserGroupRecord,
    UserRecord,
)
from parsl_globus.service.store.people_tables import LOGINS, MEMBERS, SHARES, USER_GROUPS, USERS
from parsl_globus.service.store.tables import CLIENTS, IDENTITIES, TOKENS

if TYPE_CHECKING:
    from parsl_globus.service.store.base import ClientRecord, TokenRecord

_T = TypeVar("_T")


class SqlPeople:
    """See `PeopleStore`; a part of `SqlStore`, whose transactions it uses."""

    if TYPE_CHECKING:

        async def _write(self, work: Callable[[sa.Connection], _T]) -> _T: ...

        async def _read(self, work: Callable[[sa.Connection], _T]) -> _T: ...

    async def standing(self, identity_id: uuid.UUID) -> Standing:
        is_admin = sa.select(USERS.c.admin).where(USERS.c.identity_id == identity_id)
        in_groups = sa.select(MEMBERS.c.group_id).where(MEMBERS.c.identity_id == identity_id)

        def work(connection: sa.Connection) -> Standing:
            admin = connection.execute(is_admin).scalar_one_or_none()
            groups = frozenset(connection.execute(in_groups).scalars())
            grantees = [identity_id, EVERYONE]
            mine = SHARES.c.grantee_id.in_(grantees) | SHARES.c.grantee_id.in_(in_groups)
            shared = connection.execute(sa.select(SHARES.c.endpoint_id).where(mine)).scalars()
            return Standing(bool(admin), groups, frozenset(shared))

        return await self._read(work)

    # ---- users --------------------------------------------------------------------------------------------------

    async def add_user(self, user: UserRecord, client: ClientRecord | None, login: LoginRecord | None = None) -> None:
        tried = False

        def work(connection: sa.Connection) -> None:
            nonlocal tried
            again, tried = tried, True
            if again and _is_there(connection, USERS.c.identity_id == user.identity_id):
                return
            connection.execute(sa.insert(USERS), vars(user))
            connection.execute(sa.insert(IDENTITIES), {"identity_id": user.identity_id, "username": user.username})
            if client is not None:
                connection.execute(sa.insert(CLIENTS), vars(client))
            if login is not None:
                connection.execute(sa.insert(LOGINS), vars(login))

        await self._unique(user.username, work)

    async def ensure_admin(self, identity_id: uuid.UUID, username: str) -> None:
        same = USERS.c.identity_id == identity_id

        def work(connection: sa.Connection) -> None:
            if connection.execute(sa.update(USERS).where(same).values(admin=True)).rowcount == 0:
                taken = sa.select(USERS.c.identity_id).where(USERS.c.username == username)
                free = connection.execute(taken).first() is None
                name = username if free else f"{identity_id.hex[:8]}.{username}"
                connection.execute(sa.insert(USERS), {"identity_id": identity_id, "username": name, "admin": True})

        await self._unique(username, work)

    async def _unique(self, name: str, work: Callable[[sa.Connection], None]) -> None:
        try:
            await self._write(work)
        except sa.exc.IntegrityError as exc:
            raise NameTaken(name=name) from exc

    async def users(self) -> list[UserRecord]:
        query = sa.select(USERS).order_by(USERS.c.username)
        return await self._read(lambda c: [UserRecord(**row._mapping) for row in c.execute(query)])

    async def user_named(self, username: str) -> UserRecord | None:
        query = sa.select(USERS).where(USERS.c.username == username)
        row = await self._read(lambda c: c.execute(query).one_or_none())
        return None if row is None else UserRecord(**row._mapping)

    async def replace_clients(self, identity_id: uuid.UUID, client: ClientRecord) -> None:
        def work(connection: sa.Connection) -> None:
            for table in (CLIENTS, TOKENS):
                connection.execute(sa.delete(table).where(table.c.identity_id == identity_id))
            connection.execute(sa.insert(CLIENTS), vars(client))

        await self._write(work)

    async def remove_user(self, identity_id: uuid.UUID) -> bool:
        def work(connection: sa.Connection) -> bool:
            for table in (CLIENTS, LOGINS, TOKENS, MEMBERS, IDENTITIES):
                connection.execute(sa.delete(table).where(table.c.identity_id == identity_id))
            connection.execute(sa.delete(SHARES).where(SHARES.c.grantee_id == identity_id))
            return connection.execute(sa.delete(USERS).where(USERS.c.identity_id == identity_id)).rowcount > 0

        return await self._write(work)

    # ---- logins elsewhere ---------------------------------------------------------------------------------------

    async def login_owner(self, issuer: str, subject: str) -> uuid.UUID | None:
        here = (LOGINS.c.issuer == issuer) & (LOGINS.c.subject == subject)
        query = sa.select(LOGINS.c.identity_id).where(here)
        return await self._read(lambda c: c.execute(query).scalar_one_or_none())

    async def add_login(self, login: LoginRecord) -> uuid.UUID:
        await self._put(LOGINS, vars(login))
        owner = await self.login_owner(login.issuer, login.subject)
        return login.identity_id if owner is None else owner

    async def logins(self, identity_id: uuid.UUID) -> list[LoginRecord]:
        query = sa.select(LOGINS).where(LOGINS.c.identity_id == identity_id).order_by(LOGINS.c.issuer, LOGINS.c.subject)
        return await self._read(lambda c: [LoginRecord(**row._mapping) for row in c.execute(query)])

    async def remove_logins(self, identity_id: uuid.UUID) -> None:
        statement = sa.delete(LOGINS).where(LOGINS.c.identity_id == identity_id)
        await self._write(lambda c: c.execute(statement))

    # ---- groups -------------------------------------------------------------------------------------------------

    async def add_user_group(self, group: UserGroupRecord) -> None:
        tried = False

        def work(connection: sa.Connection) -> None:
            nonlocal tried
            again, tried = tried, True
            if again and _is_there(connection, USER_GROUPS.c.group_id == group.group_id):
                return
            connection.execute(sa.insert(USER_GROUPS), vars(group))

        await self._unique(group.name, work)

    async def user_groups(self, group_ids: Sequence[uuid.UUID] | None = None) -> list[UserGroupRecord]:
        query = sa.select(USER_GROUPS).order_by(USER_GROUPS.c.name)
        found = await self._read(lambda c: [UserGroupRecord(**row._mapping) for row in c.execute(query)])
        return found if group_ids is None else [group for group in found if group.group_id in set(group_ids)]

    async def user_group_named(self, name: str) -> UserGroupRecord | None:
        query = sa.select(USER_GROUPS).where(USER_GROUPS.c.name == name)
        row = await self._read(lambda c: c.execute(query).one_or_none())
        return None if row is None else UserGroupRecord(**row._mapping)

    async def remove_user_group(self, group_id: uuid.UUID) -> bool:
        def work(connection: sa.Connection) -> bool:
            connection.execute(sa.delete(MEMBERS).where(MEMBERS.c.group_id == group_id))
            connection.execute(sa.delete(SHARES).where(SHARES.c.grantee_id == group_id))
            return connection.execute(sa.delete(USER_GROUPS).where(USER_GROUPS.c.group_id == group_id)).rowcount > 0

        return await self._write(work)

    async def members(self) -> dict[uuid.UUID, list[uuid.UUID]]:
        found = await self._read(lambda c: c.execute(sa.select(MEMBERS)).all())
        by_group: dict[uuid.UUID, list[uuid.UUID]] = {}
        for row in found:
            by_group.setdefault(row.group_id, []).append(row.identity_id)
        return by_group

    async def add_member(self, group_id: uuid.UUID, identity_id: uuid.UUID) -> None:
        await self._put(MEMBERS, {"group_id": group_id, "identity_id": identity_id})

    async def remove_member(self, group_id: uuid.UUID, identity_id: uuid.UUID) -> bool:
        here = (MEMBERS.c.group_id == group_id) & (MEMBERS.c.identity_id == identity_id)
        return await self._write(lambda c: c.execute(sa.delete(MEMBERS).where(here)).rowcount > 0)

    # ---- shares -------------------------------------------------------------------------------------------------

    async def add_share(self, share: ShareRecord) -> None:
        await self._put(SHARES, {**vars(share), "kind": share.kind.value})

    async def remove_share(self, share: ShareRecord) -> bool:
        here = (SHARES.c.endpoint_id == share.endpoint_id) & (SHARES.c.grantee_id == share.grantee_id)
        return await self._write(lambda c: c.execute(sa.delete(SHARES).where(here)).rowcount > 0)

    async def shares(self, endpoint_id: uuid.UUID) -> list[ShareRecord]:
        query = sa.select(SHARES).where(SHARES.c.endpoint_id == endpoint_id)
        found = await self._read(lambda c: c.execute(query).all())
        return [ShareRecord(row.endpoint_id, GranteeKind(row.kind), row.grantee_id) for row in found]

    async def remove_shares(self, endpoint_id: uuid.UUID) -> None:
        statement = sa.delete(SHARES).where(SHARES.c.endpoint_id == endpoint_id)
        await self._write(lambda c: c.execute(statement))

    async def _put(self, table: sa.Table, values: dict[str, Any]) -> None:
        """Insert a row unless there is one of this key; another process may do the same at the same time."""
        same = sa.and_(*(column == values[column.name] for column in table.primary_key.columns))

        def work(connection: sa.Connection) -> None:
            if connection.execute(sa.select(sa.literal(1)).select_from(table).where(same)).first() is None:
                connection.execute(sa.insert(table), values)

        try:
            await self._write(work)
        except sa.exc.IntegrityError:
            return  # the other one was quicker

    # ---- tokens -------------------------------------------------------------------------------------------------

    async def tokens(self, identity_id: uuid.UUID | None = None) -> list[TokenRecord]:
        from parsl_globus.service.store.base import TokenRecord

        query = sa.select(TOKENS).order_by(TOKENS.c.expires_s, TOKENS.c.token_hash)
        if identity_id is not None:
            query = query.where(TOKENS.c.identity_id == identity_id)
        found = await self._read(lambda c: c.execute(query).all())
        return [TokenRecord(**{**row._mapping, "scopes": frozenset(row.scopes.split())}) for row in found]

    async def remove_token(self, token_hash: str) -> bool:
        statement = sa.delete(TOKENS).where(TOKENS.c.token_hash == token_hash)
        return await self._write(lambda c: c.execute(statement).rowcount > 0)


def _is_there(connection: sa.Connection, which: sa.ColumnElement[bool]) -> bool:
    """Whether it was added before, when the answer of a commit was lost: it is no other one that has the name."""
    return connection.execute(sa.select(sa.exists().where(which))).scalar_one()
