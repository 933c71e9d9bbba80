"""What is refused, and how: one shape for all errors, and logins as Globus Auth's clients expect them."""

from __future__ import annotations

import socket
import stat
import uuid

import pytest
from service_thread import ServiceThread

from parsl_globus.errors import ConfigError
from parsl_globus.wire.documents import COMPUTE_SCOPE


def assert_refused(reply, http_status, code):
    assert reply.status_code == http_status, reply.text
    body = reply.json()
    assert body["code"] == code
    assert body["http_status_code"] == http_status
    assert body["status"] == "Failed"
    assert body["error_args"] == []
    assert body["reason"].endswith((".", "NAME"))
    return body


def test_unknown_things(rest):
    nothing = str(uuid.uuid4())
    body = {"tasks": {nothing: ["x"]}}
    assert_refused(rest.call("POST", f"/v3/endpoints/{nothing}/submit", body), 404, "ENDPOINT_NOT_FOUND")
    assert_refused(rest.call("GET", f"/v2/endpoints/{nothing}/status"), 404, "ENDPOINT_NOT_FOUND")
    assert_refused(rest.call("GET", f"/v2/functions/{nothing}"), 404, "FUNCTION_NOT_FOUND")
    assert_refused(rest.call("GET", f"/v2/taskgroup/{nothing}"), 404, "TASK_GROUP_NOT_FOUND")
    assert_refused(rest.call("GET", f"/v2/tasks/{nothing}"), 404, "TASK_NOT_FOUND")
    assert_refused(rest.call("GET", "/v2/tasks/xyz"), 400, "INVALID_UUID")
    assert rest.call("GET", "/nowhere").json()["code"] == "NOT_FOUND"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"tasks": {"x": ["y"]}}', b'{"tasks": 1}', b"\xff\xfe"])
def test_bodies_that_are_no_submission(rest, closing, body):
    manager = closing(rest.endpoint())
    reply = rest.call("POST", f"/v3/endpoints/{manager.endpoint_id}/submit", data=body)
    assert_refused(reply, 422, "INVALID_REQUEST")


def test_callers_without_a_good_token(rest):
    for header in ("", "Bearer", "Bearer nonsense", "Basic eDp5"):
        reply = rest.call("GET", "/v2/endpoints", headers={"Authorization": header})
        assert_refused(reply, 401, "USER_UNAUTHENTICATED")


def test_large_requests_are_refused_without_being_held(tmp_path, closing):
    service = closing(
        ServiceThread(tmp_path / "data", payload_limit_bytes=100_000, max_tasks_per_request=3).start(), "stop"
    )
    rest = closing(service.rest())
    manager = closing(rest.endpoint())
    function_id = rest.function()
    path = f"/v3/endpoints/{manager.endpoint_id}/submit"
    for size in (100_001, 700_000):
        reply = rest.call("POST", path, {"tasks": {function_id: ["x" * size]}})
        body = assert_refused(reply, 413, "TASK_PAYLOAD_TOO_LARGE")
        assert "100000 bytes" in body["reason"]
    assert_refused(rest.call("POST", path, {"tasks": {function_id: ["x"] * 4}}), 413, "TOO_MANY_TASKS")
    rest.submit(manager.endpoint_id, function_id, ["x"] * 3)


def test_an_endpoint_that_runs_listed_functions_only(rest, closing):
    listed, other = rest.function(), rest.function()
    manager = closing(rest.endpoint(allowed_functions=[listed]))
    rest.submit(manager.endpoint_id, listed, ["x"])
    reply = rest.call("POST", f"/v3/endpoints/{manager.endpoint_id}/submit", {"tasks": {other: ["x"]}})
    assert_refused(reply, 403, "FUNCTION_NOT_PERMITTED")
    allowed = rest.good("GET", f"/v3/endpoints/{manager.endpoint_id}/allowed_functions")
    assert allowed["functions"] == [listed]


def test_tasks_go_to_a_manager_not_to_its_user_endpoint(rest, closing):
    manager = closing(rest.endpoint())
    function_id = rest.function()
    rest.submit(manager.endpoint_id, function_id, ["x"])
    user_endpoint_id = manager.command()["kwargs"]["amqp_creds"]["endpoint_id"]
    reply = rest.call("POST", f"/v3/endpoints/{user_endpoint_id}/submit", {"tasks": {function_id: ["x"]}})
    assert manager.endpoint_id in assert_refused(reply, 400, "INVALID_ENDPOINT")["reason"]


def test_logging_in(service, rest):
    owner = service.address.owner
    manage = "urn:globus:auth:scope:auth.globus.org:manage_projects"
    reply = rest.login(str(owner.client_id), owner.client_secret, f"openid {COMPUTE_SCOPE} {manage}").json()
    assert (reply["resource_server"], reply["scope"]) == ("funcx_service", COMPUTE_SCOPE)
    (other,) = reply["other_tokens"]
    assert (other["resource_server"], other["scope"]) == ("auth.globus.org", f"openid {manage}")
    headers = {"Authorization": f"Bearer {other['access_token']}"}
    info = rest.good("GET", "/v2/oauth2/userinfo", headers=headers)
    assert info["sub"] == str(owner.identity_id)
    assert [identity["sub"] for identity in info["identity_set"]] == [info["sub"]]
    found = rest.good("GET", f"/v2/api/identities?ids={info['sub']},{uuid.uuid4()},x", headers=headers)
    assert [identity["id"] for identity in found["identities"]] == [info["sub"]]
    assert_refused(rest.call("GET", "/v2/endpoints", headers=headers), 403, "INSUFFICIENT_SCOPE")
    for client_id, secret in ((str(owner.client_id), "wrong"), (str(uuid.uuid4()), "x"), ("x", "y"), ("", "")):
        refused = rest.login(client_id, secret, COMPUTE_SCOPE)
        assert (refused.status_code, refused.json()["error"]) == (401, "invalid_client")


def test_a_token_ends(tmp_path, closing):
    service = closing(ServiceThread(tmp_path / "data", token_life_s=0.0).start(), "stop")
    rest = closing(service.rest())
    assert_refused(rest.call("GET", "/v2/endpoints"), 401, "USER_UNAUTHENTICATED")


def test_extensions_are_listed_and_can_be_switched_off(tmp_path, closing, rest):
    assert rest.good("GET", "/v2/version?service=all")["parsl_globus"]["extensions"] == [
        "idempotency",
        "per-task",
        "cancel",
        "control",
        "versions",
        "blobs",
    ]
    public = closing(ServiceThread(tmp_path / "public", public_only=True).start(), "stop")
    rest = closing(public.rest())
    assert "parsl_globus" not in rest.good("GET", "/v2/version?service=all")
    assert_refused(rest.call("POST", "/v3/tasks/cancel", {"task_ids": []}), 404, "NOT_FOUND")
    manager = closing(rest.endpoint())
    function_id = rest.function(meta={"python_version": "3.11"})
    headers = {"Idempotency-Key": "no uuid", "Prefer": "per-task"}
    rest.submit(manager.endpoint_id, function_id, ["x"], headers)
    assert "control_queue_info" not in manager.command()["kwargs"]["amqp_creds"]
    assert "parsl_globus" not in rest.good("GET", f"/v2/endpoints/{manager.endpoint_id}/status")["details"]


def test_secrets_are_the_owners_alone(service):
    folder = service.address.data_dir
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in ("owner.json", "secret.key", "service.db"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert service.address.owner.client_secret not in repr(service.address)


def test_a_port_in_use_is_named_with_the_option_that_changes_it(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port} .*--port"):
            ServiceThread(tmp_path / "a", port=port).start()
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port} .*--amqp-port"):
            ServiceThread(tmp_path / "b", amqp_port=port).start()


def test_one_service_per_folder(service):
    with pytest.raises(ConfigError, match="Another service uses"):
        ServiceThread(service.address.data_dir).start()


def test_a_folder_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--data"):
        ServiceThread(tmp_path / "file").start()


def test_nothing_but_loopback_without_being_told(tmp_path):
    with pytest.raises(ConfigError, match="--insecure"):
        ServiceThread(tmp_path / "data", host="0.0.0.0").start()
