"""What every store promises about people (`PeopleStore`), over all of them."""

from __future__ import annotations

import uuid

import pytest
from test_store import new_store, run  # noqa: F401

from parsl_globus.service.store.base import ClientRecord, FunctionRecord, TokenRecord
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

ENDPOINT, OTHER_ENDPOINT = uuid.uuid4(), uuid.uuid4()


async def add(store, name: str, *, admin: bool = False) -> UserRecord:
    user = UserRecord(uuid.uuid4(), name, admin)
    await store.add_user(user, ClientRecord(uuid.uuid4(), user.identity_id, "hash"))
    return user


def token(user: UserRecord, text: str, expires_s: float = 100.0) -> TokenRecord:
    return TokenRecord(text * 64, user.identity_id, uuid.uuid4(), frozenset({"a", "b"}), expires_s)


def test_a_name_is_one_users_only(run):  # noqa: F811
    async def scenario(store):
        ada = await add(store, "ada", admin=True)
        with pytest.raises(NameTaken, match="'ada'"):
            await add(store, "ada")
        bob = await add(store, "bob")
        assert await store.users() == [ada, bob]
        assert await store.user_named("ada") == ada
        assert await store.user_named("Ada") is None
        (known,) = await store.identities([ada.identity_id])
        assert known.username == "ada"

    run(scenario)


def test_whoever_runs_the_service_is_an_administrator(run):  # noqa: F811
    async def scenario(store):
        first, second = uuid.uuid4(), uuid.uuid4()
        for _ in range(2):
            await store.ensure_admin(first, "owner")
        await store.ensure_admin(second, "owner")
        bob = await add(store, "bob")
        await store.ensure_admin(bob.identity_id, "owner")
        assert {(user.identity_id, user.username, user.admin) for user in await store.users()} == {
            (first, "owner", True),
            (second, f"{second.hex[:8]}.owner", True),
            (bob.identity_id, "bob", True),
        }
        assert (await store.standing(first)).admin

    run(scenario)


def test_standing_comes_from_shares_with_users_groups_and_everyone(run):  # noqa: F811
    async def scenario(store):
        ada, bob = await add(store, "ada"), await add(store, "bob")
        group = UserGroupRecord(uuid.uuid4(), "devs")
        await store.add_user_group(group)
        with pytest.raises(NameTaken):
            await store.add_user_group(UserGroupRecord(uuid.uuid4(), "devs"))
        for _ in range(2):
            await store.add_member(group.group_id, ada.identity_id)
            await store.add_share(ShareRecord(ENDPOINT, GranteeKind.GROUP, group.group_id))
        await store.add_share(ShareRecord(OTHER_ENDPOINT, GranteeKind.USER, bob.identity_id))
        assert await store.standing(ada.identity_id) == Standing(
            False, frozenset({group.group_id}), frozenset({ENDPOINT})
        )
        assert await store.standing(bob.identity_id) == Standing(shared=frozenset({OTHER_ENDPOINT}))
        assert await store.standing(uuid.uuid4()) == Standing()
        assert await store.members() == {group.group_id: [ada.identity_id]}
        everyone = ShareRecord(ENDPOINT, GranteeKind.EVERYONE, EVERYONE)
        await store.add_share(everyone)
        assert (await store.standing(uuid.uuid4())).shared == {ENDPOINT}
        assert len(await store.shares(ENDPOINT)) == 2
        assert await store.remove_share(everyone)
        assert not await store.remove_share(everyone)
        assert await store.remove_member(group.group_id, ada.identity_id)
        assert await store.standing(ada.identity_id) == Standing()
        await store.remove_shares(ENDPOINT)
        assert await store.shares(ENDPOINT) == []

    run(scenario)


def test_what_is_removed_leaves_nothing_behind(run):  # noqa: F811
    async def scenario(store):
        ada = await add(store, "ada")
        group = UserGroupRecord(uuid.uuid4(), "devs")
        await store.add_user_group(group)
        await store.add_member(group.group_id, ada.identity_id)
        await store.add_share(ShareRecord(ENDPOINT, GranteeKind.USER, ada.identity_id))
        await store.add_share(ShareRecord(ENDPOINT, GranteeKind.GROUP, group.group_id))
        await store.add_tokens([token(ada, "a")])
        assert await store.remove_user(ada.identity_id)
        assert not await store.remove_user(ada.identity_id)
        assert await store.members() == {}
        assert await store.tokens() == []
        assert [share.kind for share in await store.shares(ENDPOINT)] == [GranteeKind.GROUP]
        assert await store.identities([ada.identity_id]) == []
        assert await store.remove_user_group(group.group_id)
        assert not await store.remove_user_group(group.group_id)
        assert await store.shares(ENDPOINT) == []
        assert await store.user_group_named("devs") is None
        await add(store, "ada")

    run(scenario)


def test_tokens_are_listed_and_removed_one_by_one(run):  # noqa: F811
    async def scenario(store):
        ada, bob = await add(store, "ada"), await add(store, "bob")
        late, soon, other = token(ada, "a", 300.0), token(ada, "b", 200.0), token(bob, "c", 250.0)
        await store.add_tokens([late, soon, other])
        assert await store.tokens() == [soon, other, late]
        assert await store.tokens(ada.identity_id) == [soon, late]
        assert await store.remove_token(soon.token_hash)
        assert not await store.remove_token(soon.token_hash)
        fresh = ClientRecord(uuid.uuid4(), ada.identity_id, "new hash")
        await store.replace_clients(ada.identity_id, fresh)
        assert await store.tokens() == [other]
        assert await store.client(fresh.client_id) == fresh

    run(scenario)


def test_groups_are_looked_up_by_id_and_name(run):  # noqa: F811
    async def scenario(store):
        groups = [UserGroupRecord(uuid.uuid4(), name) for name in ("b", "a", "c")]
        for group in groups:
            await store.add_user_group(group)
        assert [group.name for group in await store.user_groups()] == ["a", "b", "c"]
        assert await store.user_groups([groups[0].group_id, uuid.uuid4()]) == [groups[0]]
        assert await store.user_groups([]) == []
        assert await store.user_group_named("c") == groups[2]

    run(scenario)


def test_a_function_keeps_its_group(run):  # noqa: F811
    async def scenario(store):
        function = FunctionRecord(uuid.uuid4(), uuid.uuid4(), "f", "code", group_id=uuid.uuid4())
        await store.add_function(function)
        assert await store.functions([function.function_id]) == {function.function_id: function}

    run(scenario)


# ---- logins elsewhere -----------------------------------------------------------------------------------------------

ISSUER = "https://issuer.example"


def test_a_login_elsewhere_is_one_users_only(run):  # noqa: F811
    async def scenario(store):
        ada, bob = UserRecord(uuid.uuid4(), "ada"), await add(store, "bob")
        login = LoginRecord(ISSUER, "5", ada.identity_id)
        assert await store.login_owner(ISSUER, "5") is None
        await store.add_user(ada, None, login)
        assert await store.login_owner(ISSUER, "5") == ada.identity_id
        assert await store.login_owner("https://other.example", "5") is None
        assert await store.login_owner(ISSUER, "55") is None
        # Whoever comes second learns whose it is; a user with it isn't made at all.
        assert await store.add_login(LoginRecord(ISSUER, "5", bob.identity_id)) == ada.identity_id
        with pytest.raises(NameTaken):
            await store.add_user(UserRecord(uuid.uuid4(), "eve"), None, LoginRecord(ISSUER, "5", uuid.uuid4()))
        with pytest.raises(NameTaken):
            await store.add_user(UserRecord(uuid.uuid4(), "bob"), None, LoginRecord(ISSUER, "6", uuid.uuid4()))
        assert await store.users() == [ada, bob]
        assert await store.login_owner(ISSUER, "6") is None
        assert await store.logins(ada.identity_id) == [login]

    run(scenario)


def test_logins_elsewhere_end_with_their_user_or_before(run):  # noqa: F811
    async def scenario(store):
        ada, bob = await add(store, "ada"), await add(store, "bob")
        logins = [LoginRecord(ISSUER, subject, ada.identity_id) for subject in ("Ada", "ada")]
        for login in logins:
            assert await store.add_login(login) == ada.identity_id
        assert await store.add_login(LoginRecord(ISSUER, "bob", bob.identity_id)) == bob.identity_id
        assert await store.logins(ada.identity_id) == logins
        await store.remove_logins(ada.identity_id)
        assert await store.logins(ada.identity_id) == []
        await store.remove_user(bob.identity_id)
        assert await store.login_owner(ISSUER, "bob") is None
        assert await store.user_named("ada") is not None

    run(scenario)
