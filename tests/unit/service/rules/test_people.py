"""What follows from who somebody is, over a real service's wires."""

from __future__ import annotations

import asyncio
import json
import time
import uuid

import pytest
from people import People
from service_thread import DEADLINE_S, ServiceThread

from parsl_globus.errors import NotAuthorized, TooManyRequests
from parsl_globus.service.auth.static import StaticAuthenticator
from parsl_globus.service.rules.limits import RateLimits
from parsl_globus.service.store.sqlite import sqlite_store
from parsl_globus.wire.documents import COMPUTE_SCOPE
from parsl_globus.wire.people import ADMIN_SCOPE


@pytest.fixture
def service(tmp_path):
    service = ServiceThread(tmp_path / "data", start_repeat_s=0.0).start()
    yield service
    service.stop()


@pytest.fixture
def people(service):
    people = People(service)
    yield people
    people.close()


def submits(caller, endpoint_id, function_id=None) -> int:
    body = {"tasks": {function_id or caller.function(): ["x"]}}
    return caller.call("POST", f"/v3/endpoints/{endpoint_id}/submit", body).status_code


def endpoint(owner, **more) -> str:
    body = {"endpoint_name": "site", "metadata": {}, **more}
    return owner.good("POST", "/v3/endpoints", body)["endpoint_id"]


# ---- endpoints ------------------------------------------------------------------------------------------------------


def test_a_share_counts_at_once_and_ends_at_once(people):
    owner, ada = people.user("owner"), people.user("ada")
    endpoint_id = endpoint(owner)
    assert submits(ada, endpoint_id) == 403
    owner.good("PUT", f"/v3/endpoints/{endpoint_id}/shares/user/ada")
    assert submits(ada, endpoint_id) == 200
    assert [e["uuid"] for e in ada.good("GET", "/v2/endpoints?role=any")] == [endpoint_id]
    assert ada.good("GET", "/v2/endpoints") == []
    assert owner.good("GET", f"/v3/endpoints/{endpoint_id}/shares")["shares"] == [{"kind": "user", "name": "ada"}]
    owner.good("DELETE", f"/v3/endpoints/{endpoint_id}/shares/user/ada")
    assert submits(ada, endpoint_id) == 403


def test_a_member_that_leaves_the_group_may_no_more(people):
    owner, ada = people.user("owner"), people.user("ada")
    people.group("devs", ada)
    endpoint_id = endpoint(owner)
    owner.good("PUT", f"/v3/endpoints/{endpoint_id}/shares/group/devs")
    assert submits(ada, endpoint_id) == 200
    people.admin.good("DELETE", "/v3/admin/groups/devs/members/ada")
    assert submits(ada, endpoint_id) == 403


@pytest.mark.parametrize("flag", ["public", "multi_user"])
def test_neither_public_nor_multi_user_lets_strangers_send_tasks(people, flag):
    owner, ada = people.user("owner"), people.user("ada")
    endpoint_id = endpoint(owner, **{flag: True})
    assert submits(ada, endpoint_id) == 403
    seen = 200 if flag == "public" else 403
    assert ada.call("GET", f"/v2/endpoints/{endpoint_id}").status_code == seen
    if seen == 200:
        assert ada.good("GET", f"/v2/endpoints/{endpoint_id}/status")["details"] == {}
        assert "metadata" not in ada.good("GET", f"/v2/endpoints/{endpoint_id}")
    owner.good("PUT", f"/v3/endpoints/{endpoint_id}/shares/everyone/everyone")
    assert submits(ada, endpoint_id) == 200


def test_whoever_takes_a_deleted_endpoints_id_has_shared_it_with_nobody(people):
    owner, ada = people.user("owner"), people.user("ada")
    endpoint_id = endpoint(owner)
    owner.good("PUT", f"/v3/endpoints/{endpoint_id}/shares/user/ada")
    owner.good("DELETE", f"/v2/endpoints/{endpoint_id}")
    owner.good("PUT", f"/v3/endpoints/{endpoint_id}", {"endpoint_name": "again", "metadata": {}})
    assert submits(ada, endpoint_id) == 403


def test_a_share_needs_somebody_that_is_there(people):
    owner = people.user("owner")
    endpoint_id = endpoint(owner)
    for grantee in ("user/nobody", "group/nothing", "everyone/else", "robot/r2"):
        reply = owner.call("PUT", f"/v3/endpoints/{endpoint_id}/shares/{grantee}")
        assert (reply.status_code, reply.json()["code"]) == (404, "NAME_NOT_FOUND")
    nowhere = owner.call("PUT", f"/v3/endpoints/{uuid.uuid4()}/shares/user/owner")
    assert (nowhere.status_code, nowhere.json()["code"]) == (404, "ENDPOINT_NOT_FOUND")


@pytest.mark.parametrize("multi_user", [False, True])
def test_a_start_command_says_whose_account_may_run_it(people, multi_user):
    """An agent that maps no identities follows only those of whoever registered it (PROTOCOL.md section 3)."""
    owner, ada, deputy = people.user("owner"), people.user("ada"), people.user("deputy")
    manager = owner.endpoint(multi_user=multi_user, admins=[deputy.identity_id])
    try:
        owner.good("PUT", f"/v3/endpoints/{manager.endpoint_id}/shares/user/ada")
        assert submits(ada, manager.endpoint_id) == 200
        command = manager.command()
        assert submits(owner, manager.endpoint_id) == 200
        owners = manager.command()
    finally:
        manager.close()
    assert command["globus_effective_identity"] == ada.identity_id
    assert command["globus_username"] == "ada"
    subs = [entry["sub"] for entry in command["globus_identity_set"]]
    # A mapping agent would take the owner for the submitter.
    assert subs == ([ada.identity_id] if multi_user else [ada.identity_id, owner.identity_id, deputy.identity_id])
    assert command["kwargs"]["name"] != owners["kwargs"]["name"], "each submitter has a user endpoint of its own"


@pytest.mark.parametrize("setting", [{"authentication_policy": str(uuid.uuid4())}, {"high_assurance": True}])
def test_a_protection_that_is_not_there_is_not_pretended(people, setting):
    body = {"endpoint_name": "site", "metadata": {}, **setting}
    reply = people.root.call("POST", "/v3/endpoints", body)
    assert (reply.status_code, reply.json()["code"]) == (422, "NOT_OFFERED")


# ---- functions ------------------------------------------------------------------------------------------------------


def test_a_function_for_a_group_is_used_by_its_members(people):
    owner, ada, eve = people.user("owner"), people.user("ada"), people.user("eve")
    group_id = people.group("devs", owner, ada)
    function_id, public_id = owner.function(group=group_id), owner.function(public=True)
    for caller, expected in ((ada, 200), (eve, 403)):
        assert caller.call("GET", f"/v2/functions/{function_id}").status_code == expected
        assert submits(caller, endpoint(caller), function_id) == expected
        assert submits(caller, endpoint(caller), public_id) == 200
        assert caller.call("DELETE", f"/v2/functions/{function_id}").status_code == 403
    body = {"function_name": "f", "function_code": "5\n01\nab", "group": group_id}
    reply = eve.call("POST", "/v3/functions", body)
    assert (reply.status_code, reply.json()["code"]) == (403, "GROUP_ACCESS_FORBIDDEN")


# ---- tokens ---------------------------------------------------------------------------------------------------------


def test_another_process_sees_a_revocation_and_a_share_within_moments(people, service):
    ada = people.user("ada")
    owned = endpoint(people.root)
    made = ada.good("POST", "/v3/tokens", {})

    async def scenario():
        store = sqlite_store(service.config.data_dir / "service.db")
        await store.open()
        try:
            auth = StaticAuthenticator(store, token_life_s=100)

            async def until(done):
                deadline = time.monotonic() + DEADLINE_S
                began = time.monotonic()
                while not await done():
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.05)
                return time.monotonic() - began

            async def sees_share():
                return uuid.UUID(owned) in (await auth.verify(made["access_token"], COMPUTE_SCOPE)).shared

            async def is_revoked():
                try:
                    await auth.verify(made["access_token"], COMPUTE_SCOPE)
                except NotAuthorized:
                    return True
                return False

            assert not await sees_share()
            people.root.good("PUT", f"/v3/endpoints/{owned}/shares/user/ada")
            assert await until(sees_share) < 3.0
            ada.good("DELETE", f"/v3/tokens/{made['token_id']}")
            assert await until(is_revoked) < 3.0
        finally:
            await store.close()

    asyncio.run(scenario())


def test_tokens_show_what_they_are_not_what_they_consist_of(people):
    ada, eve = people.user("ada"), people.user("eve")
    made = ada.good("POST", "/v3/tokens", {"scopes": ["compute"], "life_s": 3600})
    assert abs(made["expires_s"] - time.time() - 3600) < 60
    listed = ada.good("GET", "/v3/tokens")["tokens"]
    assert {entry["token_id"]: entry["login"] for entry in listed}[made["token_id"]] is False
    assert made["access_token"] not in json.dumps(listed)
    assert made["token_id"] not in json.dumps(eve.good("GET", "/v3/tokens"))
    assert made["token_id"] in json.dumps(people.admin.good("GET", "/v3/tokens?all=true"))
    for query in ("?all=true", "?user=ada"):
        assert eve.call("GET", f"/v3/tokens{query}").json()["code"] == "ADMINS_ONLY"
    assert eve.call("DELETE", f"/v3/tokens/{made['token_id']}").status_code == 404
    assert people.admin.good("DELETE", f"/v3/tokens/{made['token_id']}") == {}
    assert people.caller(made["access_token"]).call("GET", "/v3/me").status_code == 401


def test_a_token_is_good_for_no_more_than_whoever_made_it(people):
    ada, root = people.user("ada"), people.root
    for caller, wanted, code in (
        (ada, {"scopes": ["admin"]}, "INSUFFICIENT_SCOPE"),
        (root, {"scopes": ["admin"]}, "INSUFFICIENT_SCOPE"),  # an administrator's workflow
        (root, {"user": "ada"}, "ADMINS_ONLY"),
        (people.admin, {"user": "ada", "scopes": ["admin"]}, "ADMINS_ONLY"),
        (people.admin, {"user": "nobody"}, "NAME_NOT_FOUND"),
        (ada, {"scopes": ["urn:parsl-globus:scope:page"]}, "INVALID_REQUEST"),
        (ada, {"scopes": []}, "INVALID_REQUEST"),
        (ada, {"life_s": 0}, "INVALID_REQUEST"),
        (ada, {"life_s": 1e9}, "INVALID_REQUEST"),
    ):
        assert caller.call("POST", "/v3/tokens", wanted).json()["code"] == code, wanted
    made = people.admin.good("POST", "/v3/tokens", {"user": "ada", "scopes": ["compute"]})
    assert people.caller(made["access_token"]).good("GET", "/v3/me")["username"] == "ada"


def test_only_administrators_log_in_to_manage_and_not_for_long(people):
    ada, boss = people.user("ada"), people.user("boss", admin=True)
    refused = ada.login(ada.client_id, ada.client_secret, ADMIN_SCOPE)
    assert (refused.status_code, refused.json()["error"]) == (403, "access_denied")
    reply = boss.login(boss.client_id, boss.client_secret, f"{ADMIN_SCOPE} {COMPUTE_SCOPE}").json()
    assert reply["scope"] == COMPUTE_SCOPE
    (other,) = reply["other_tokens"]
    assert (other["scope"], other["expires_in"]) == (ADMIN_SCOPE, 900)
    odd = boss.login(boss.client_id, boss.client_secret, "urn:parsl-globus:scope:page")
    assert (odd.status_code, odd.json()["error"]) == (400, "invalid_scope")


# ---- users ----------------------------------------------------------------------------------------------------------


def test_a_removed_user_is_out_with_all_that_was_its(people):
    ada = people.user("ada")
    people.group("devs", ada)
    endpoint_id = endpoint(ada)
    people.admin.good("DELETE", "/v3/admin/users/ada")
    assert ada.call("GET", "/v3/me").status_code == 401
    assert ada.login(ada.client_id, ada.client_secret, COMPUTE_SCOPE).status_code == 401
    assert people.root.call("GET", f"/v2/endpoints/{endpoint_id}").status_code == 404
    (group,) = people.admin.good("GET", "/v3/admin/groups")["groups"]
    assert group["members"] == []
    again = people.user("ada")
    assert again.identity_id != ada.identity_id


def test_a_new_secret_ends_the_old_one(people):
    ada = people.user("ada")
    made = people.admin.good("POST", "/v3/admin/users/ada/secret")
    assert made["identity_id"] == ada.identity_id
    assert ada.call("GET", "/v3/me").status_code == 401
    assert ada.login(ada.client_id, ada.client_secret, COMPUTE_SCOPE).status_code == 401
    assert ada.login(made["client_id"], made["client_secret"], COMPUTE_SCOPE).status_code == 200


@pytest.mark.parametrize("name", ["", "a b", "group:x", "/", "-x", "x" * 200, "é", "a\0b", 7, None])
def test_names_are_plain(people, name):
    for path, key in (("/v3/admin/users", "username"), ("/v3/admin/groups", "name")):
        reply = people.admin.call("POST", path, {key: name})
        assert (reply.status_code, reply.json()["code"]) == (422, "INVALID_REQUEST")


def test_a_public_only_service_has_none_of_this(tmp_path):
    service = ServiceThread(tmp_path / "public", public_only=True).start()
    rest = service.rest()
    try:
        for path in ("/v3/me", "/v3/admin/users", "/v3/tokens"):
            assert rest.call("GET", path).status_code == 404
    finally:
        rest.close()
        service.stop()


# ---- limits ---------------------------------------------------------------------------------------------------------


def test_too_many_requests_of_one_identity(tmp_path):
    service = ServiceThread(tmp_path / "limited", rate_limit_requests=5, rate_limit_window_s=1000.0).start()
    people = People(service)
    try:
        ada = people.user("ada")
        statuses = [ada.call("GET", "/v2/endpoints").status_code for _ in range(8)]
        assert statuses == [200] * 5 + [429] * 3
        reply = ada.call("GET", "/v2/endpoints")
        assert reply.json()["code"] == "TOO_MANY_REQUESTS"
        assert 0 < int(reply.headers["Retry-After"]) <= 200
        assert people.root.call("GET", "/v2/endpoints").status_code == 200
        assert ada.call("GET", "/healthz").status_code == 200
    finally:
        people.close()
        service.stop()


def test_the_bucket_fills_up_again(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("parsl_globus.service.rules.limits.time.monotonic", lambda: clock[0])
    limits, ada = RateLimits(4, 10.0), uuid.uuid4()
    for _ in range(4):
        limits.count(ada)
    with pytest.raises(TooManyRequests, match=r"At most 4 requests in 10 s") as caught:
        limits.count(ada)
    assert caught.value.retry_after_s == 3
    clock[0] += 2.5
    limits.count(ada)
    with pytest.raises(TooManyRequests):
        limits.count(ada)
    clock[0] += 1000
    for _ in range(4):
        limits.count(ada)
    RateLimits(0, 10.0).count(ada)


def test_whoever_asked_most_is_remembered_however_many_ask(monkeypatch):
    monkeypatch.setattr("parsl_globus.service.rules.limits._REMEMBER_COUNT", 100)
    limits, ada = RateLimits(4, 3600.0), uuid.uuid4()
    for _ in range(4):
        limits.count(ada)
    for _ in range(1000):
        limits.count(uuid.uuid4())
        with pytest.raises(TooManyRequests):
            limits.count(ada)
    assert len(limits._left) <= 101


DEEP = {}
for _ in range(300):
    DEEP = {"a": DEEP}


@pytest.mark.parametrize(
    "change",
    [
        {"user_endpoint_config": {"a": "x" * 40_000}},
        {"resource_specification": {"a": ["x"] * 20_000}},
        {"user_runtime": {"a": "x" * 40_000}},
        {"user_endpoint_config": DEEP},
        {"result_serializers": ["x"] * 101},
        {"result_serializers": ["x" * 256]},
        {"task_group_id": "no uuid"},
        {"tasks": {"no uuid": ["x"]}},
        {"tasks": {str(uuid.uuid4()): [7]}},
    ],
)
def test_what_is_too_big_too_deep_or_no_id_is_told(people, change):
    root = people.root
    endpoint_id, function_id = endpoint(root), root.function()
    body = {"tasks": {function_id: ["x"]}, **change}
    reply = root.call("POST", f"/v3/endpoints/{endpoint_id}/submit", body)
    assert (reply.status_code, reply.json()["code"]) == (422, "INVALID_REQUEST")
    assert len(reply.json()["reason"]) < 900


def test_numbers_that_json_does_not_have(people):
    root = people.root
    endpoint_id, function_id = endpoint(root), root.function()
    text = f'{{"tasks": {{"{function_id}": ["x"]}}, "resource_specification": {{"a": NaN}}}}'
    reply = root.call("POST", f"/v3/endpoints/{endpoint_id}/submit", data=text)
    assert (reply.status_code, reply.json()["code"]) == (422, "INVALID_REQUEST")
    reply = root.call("POST", "/v3/endpoints", data='{"endpoint_name": "x", "metadata": {"a": NaN}}')
    assert (reply.status_code, reply.json()["code"]) == (422, "INVALID_REQUEST")


def test_registrations_have_limits(people):
    root = people.root
    for change in (
        {"metadata": {"a": "x" * 2_000_000}},
        {"endpoint_name": "x" * 256},
        {"display_name": "x" * 256},
        {"admins": [str(uuid.uuid4())] * 1_001},
        {"admins": ["x"]},
        {"metadata": DEEP},
    ):
        body = {"endpoint_name": "site", "metadata": {}, **change}
        assert root.call("POST", "/v3/endpoints", body).json()["code"] == "INVALID_REQUEST", list(change)
    for change in ({"function_name": "x" * 256}, {"description": "x" * 70_000}, {"group": "x"}):
        body = {"function_name": "f", "function_code": "5\n01\nab", **change}
        assert root.call("POST", "/v3/functions", body).json()["code"] == "INVALID_REQUEST", list(change)


def test_a_login_form_has_limits(people):
    reply = people.root.session.post(f"{people.url}/v2/oauth2/token", data={"grant_type": "x" * 100_000}, timeout=20)
    assert (reply.status_code, reply.json()["error"]) == (413, "invalid_request")
    owner = people.root
    for scope in (" ".join(f"s{n}" for n in range(50)), "x" * 300):
        reply = owner.login("x", "y", scope)
        assert (reply.status_code, reply.json()["error"]) == (400, "invalid_scope")


def test_configurations_are_not_made_without_end(people, monkeypatch):
    monkeypatch.setattr("parsl_globus.service.rules.tasks.MOST_CONFIGURATIONS", 2)
    root = people.root
    endpoint_id, function_id = endpoint(root), root.function()
    for number, code in ((1, None), (2, None), (3, "TOO_MANY_CONFIGURATIONS"), (1, None)):
        body = {"tasks": {function_id: ["x"]}, "user_endpoint_config": {"number": number}}
        assert root.call("POST", f"/v3/endpoints/{endpoint_id}/submit", body).json().get("code") == code
