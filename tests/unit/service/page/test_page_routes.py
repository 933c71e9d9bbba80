from __future__ import annotations

import json
import time
import uuid
from urllib.parse import urlsplit

import pytest
import requests
from page_scene import TRACEBACK
from service_thread import DEADLINE_S, ServiceThread

PAGES = ("/", "/tasks", "/login", f"/tasks/{uuid.UUID(int=0)}", "/static/page.js", "/static/page.css")


# ---- headers and cookies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES)
def test_every_page_goes_out_with_strict_headers(visitor, rest, path):
    headers = visitor(rest).get(path, allow_redirects=False).headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    if not path.startswith("/static/"):
        assert headers["Cache-Control"] == "no-store"


def test_the_session_cookie_is_out_of_reach(visitor, rest):
    someone = visitor()
    csrf = someone.csrf()
    fields = {"csrf": csrf, "client_id": rest.credentials[0], "client_secret": rest.credentials[1]}
    reply = someone.post("/login", fields, allow_redirects=False)
    assert (reply.status_code, reply.headers["Location"]) == (303, "/")
    cookie = next(c for c in reply.headers["Set-Cookie"].split(", ") if c.startswith("parsl_globus_session="))
    for word in ("HttpOnly", "SameSite=strict", "Path=/", "Max-Age="):
        assert word in cookie
    assert "Secure" not in cookie  # over plain HTTP on this machine, the browser would drop it


def test_behind_a_proxy_cookies_go_over_tls_only_and_metrics_need_a_token(tmp_path, closing):
    service = closing(ServiceThread(tmp_path / "proxied", start_repeat_s=0.0, behind_proxy=True).start(), "stop")
    # The address is the proxy's; this is what the proxy would ask.
    port = urlsplit(service.url).port
    for headers in ({"X-Forwarded-Proto": "https"}, {}):
        reply = requests.get(f"http://127.0.0.1:{port}/login", headers=headers, timeout=DEADLINE_S)
        assert "Strict-Transport-Security" in reply.headers
        assert reply.headers["Set-Cookie"].startswith("__Host-parsl_globus_form=")
        assert "Secure" in reply.headers["Set-Cookie"]
    assert requests.get(f"http://127.0.0.1:{port}/metrics", timeout=DEADLINE_S).status_code == 401


def test_a_session_opens_the_page_and_nothing_else(visitor, rest):
    someone = visitor(rest)
    cookie = someone.session.cookies["parsl_globus_session"]
    bearer = {"Authorization": f"Bearer {cookie}"}
    assert someone.get("/v2/endpoints", headers=bearer).status_code == 403
    assert visitor().get("/v2/endpoints", cookies={"parsl_globus_session": cookie}).status_code == 401
    token = rest.session.headers["Authorization"].partition(" ")[2]
    assert visitor().get("/", cookies={"parsl_globus_session": token}).url.endswith("/login")


# ---- in and out -----------------------------------------------------------------------------------------------


def test_one_who_is_not_logged_in_comes_back_to_where_he_wanted(visitor, rest):
    someone = visitor()
    form = someone.get("/tasks?state=failed")
    assert form.url.endswith("/login?next=%2Ftasks%3Fstate%3Dfailed")
    token = rest.session.headers["Authorization"].partition(" ")[2]
    reply = someone.post("/login?next=%2Ftasks%3Fstate%3Dfailed", {"csrf": someone.csrf(), "token": token})
    assert reply.url == someone.url + "/tasks?state=failed"


@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example", "/\\evil.example", "/tasks\r\nX: y"])
def test_the_login_leads_to_no_other_site(visitor, rest, target):
    someone = visitor()
    token = rest.session.headers["Authorization"].partition(" ")[2]
    fields = {"csrf": someone.csrf(), "token": token}
    reply = someone.post("/login", fields, params={"next": target}, allow_redirects=False)
    assert (reply.status_code, reply.headers["Location"]) == (303, "/")


def test_a_link_works_once(visitor, rest):
    code = rest.good("POST", "/login/link")["path"].partition("#code=")[2]
    first, second = visitor(), visitor()
    assert first.post("/login", {"csrf": first.csrf(), "code": code}).url == first.url + "/"
    refused = second.post("/login", {"csrf": second.csrf(), "code": code})
    assert refused.status_code == 401
    assert "was used already" in refused.text


@pytest.mark.parametrize(
    "fields",
    [
        {"client_id": "nobody", "client_secret": "x"},
        {"token": "x"},
        {"code": "x"},
        {},
        {"client_id": str(uuid.uuid4())},
    ],
)
def test_wrong_credentials_open_nothing(visitor, fields):
    someone = visitor()
    reply = someone.post("/login", {"csrf": someone.csrf(), **fields})
    assert reply.status_code == 401
    assert 'role="alert"' in reply.text
    assert someone.get("/").url.endswith("/login")


def test_a_form_of_another_site_is_not_taken(visitor, rest):
    token = rest.session.headers["Authorization"].partition(" ")[2]
    someone = visitor()
    csrf = someone.csrf()
    for fields, headers in (
        ({"token": token}, {}),
        ({"token": token, "csrf": "0" * 64}, {}),
        ({"token": token, "csrf": "ö"}, {}),
        ({"token": token, "csrf": csrf}, {"Origin": "https://evil.example"}),
        ({"token": token, "csrf": csrf}, {"Sec-Fetch-Site": "cross-site"}),
    ):
        assert someone.post("/login", fields, headers=headers).status_code == 403
    assert someone.get("/").url.endswith("/login")


def test_logging_out_ends_the_session_everywhere(visitor, rest):
    someone, copy = visitor(rest), visitor()
    copy.session.cookies.update(someone.session.cookies)
    assert copy.post("/logout", {"csrf": "0" * 64}).url == copy.url + "/"  # no form of ours
    assert someone.post("/logout", {"csrf": someone.csrf("/")}).url.endswith("/login")
    assert copy.get("/").url.endswith("/login")


def test_guessing_is_slowed_down(visitor):
    someone = visitor()
    csrf = someone.csrf()
    codes = [someone.post("/login", {"csrf": csrf, "code": f"guess {i}"}).status_code for i in range(22)]
    assert codes[:20] == [401] * 20
    assert codes[20:] == [429] * 2


def test_a_long_form_is_not_kept(visitor):
    someone = visitor()
    assert someone.post("/login", {"csrf": someone.csrf(), "code": "x" * 100_000}).status_code == 403


# ---- what is shown --------------------------------------------------------------------------------------------


def test_endpoints_with_all_that_they_reported(visitor, rest, scene):
    page = visitor(rest).get("/").text
    for text in ("Polaris", "online", "GlobusComputeEngine", "SlurmProvider", "login1.example.org", "128"):
        assert text in page
    assert f'id="endpoint-{scene.manager.endpoint_id}"' in page
    assert f'id="user-endpoint-{scene.user_endpoint.endpoint_id}"' in page


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", {0, 1, 2}),
        ("?state=waiting", {2}),
        ("?state=done", {0}),
        ("?state=failed", {1}),
        ("?state=nonsense", {0, 1, 2}),
        ("?q=oaks+of+DODONA", {1}),
        ("?q=regrow", {0, 1, 2}),
        ("?q=polar", {0, 1, 2}),
        ("?q=no+such+thing", set()),
        ("?before=1", set()),
        ("?before=-1", {0, 1, 2}),
        ("?q=%00", {0, 1, 2}),
    ],
)
def test_tasks_are_found(visitor, rest, scene, query, found):
    page = visitor(rest).get(f"/tasks{query}").text
    assert {i for i, task_id in enumerate(scene.task_ids) if f'id="task-{task_id}"' in page} == found


def test_tasks_are_found_by_id(visitor, rest, scene):
    someone = visitor(rest)
    for text in (scene.task_ids[2], scene.task_ids[2][:10], scene.task_ids[2].upper()):
        page = someone.get("/tasks", params={"q": text}).text
        assert f'id="task-{scene.task_ids[2]}"' in page
        assert f'id="task-{scene.task_ids[0]}"' not in page
    page = someone.get("/tasks", params={"q": scene.manager.endpoint_id}).text
    assert all(f'id="task-{task_id}"' in page for task_id in scene.task_ids)


def test_a_failed_task_tells_its_traceback_and_a_done_one_no_value(visitor, rest, scene):
    someone = visitor(rest)
    failed = someone.get(f"/tasks/{scene.task_ids[1]}").text
    assert TRACEBACK.splitlines()[0] in failed
    assert "KeyError: &#39;the oaks of Dodona&#39;" in failed
    assert "on the worker" in failed
    assert "nid004711" in failed
    done = someone.get(f"/tasks/{scene.task_ids[0]}").text
    assert "this service opens no values" in done
    assert "00\nvalue" not in done
    assert "not yet" in someone.get(f"/tasks/{scene.task_ids[2]}").text


def test_what_others_wrote_is_text(visitor, rest, scene):
    evil = "<script>alert(1)</script>"
    scene.answer(scene.task_ids[2], data=evil, error=evil, code=evil)
    scene.user_endpoint.report({"heartbeat_period": 30, "engine_type": evil, "error": evil, "node_info": evil})
    named = rest.endpoint("evil", display_name=evil)
    someone = visitor(rest)
    for path in ("/", f"/tasks/{scene.task_ids[2]}", f"/tasks?q={evil}"):
        page = someone.get(path).text
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert" in page
    named.close()


def test_a_stranger_sees_nothing_of_anothers(visitor, rest, scene, stranger):
    someone = visitor(stranger)
    seen = someone.get("/").text + someone.get("/tasks").text
    for query in ("regrow", "Polaris", "Dodona", scene.task_ids[1], scene.manager.endpoint_id):
        seen += (
            someone.get("/tasks", params={"q": query}).text.replace(f'value="{query}"', "").replace(f"q={query}", "")
        )
    for secret in ("Polaris", "regrow", "login1", "owner@localhost", *scene.task_ids, scene.manager.endpoint_id):
        assert secret not in seen
    for task_id in (*scene.task_ids, uuid.uuid4()):
        assert someone.get(f"/tasks/{task_id}").status_code == 404
    assert "0 tasks ended" in seen


def test_one_it_is_shared_with_sees_the_endpoint_but_not_its_tasks(visitor, rest, scene, stranger):
    rest.good("PUT", f"/v3/endpoints/{scene.manager.endpoint_id}/shares/user/eve")
    page = visitor(stranger).get("/").text
    assert "Polaris" in page
    assert "login1" not in page
    assert scene.user_endpoint.endpoint_id not in page


@pytest.mark.parametrize("path", ["/tasks/x", "/static/../page.py", "/static/page.py"])
def test_there_is_nothing_elsewhere(visitor, rest, path):
    assert visitor(rest).get(path).status_code == 404


# ---- live -----------------------------------------------------------------------------------------------------


def events(visit, page, have=""):
    """The events of a page, each as a dictionary."""
    with visit.get("/events", params={"page": page, "have": have}, stream=True) as reply:
        assert reply.headers["Content-Type"].startswith("text/event-stream")
        for line in reply.iter_lines():
            if line.startswith(b"data: "):
                yield json.loads(line.removeprefix(b"data: "))


def test_a_change_is_sent_and_only_it(visitor, rest, scene):
    stream = events(visitor(rest), "/")
    assert {"totals", "endpoints", "hour", "failures"} <= set(next(stream))
    scene.manager.report({"heartbeat_period": 0})
    row = f"endpoint-{scene.manager.endpoint_id}"
    news = next(change for change in stream if row in change)
    assert "offline" in news[row]
    assert not {"endpoints", "failures"} & set(news)
    stream.close()


def test_events_are_for_those_who_are_logged_in(visitor):
    assert visitor().get("/events", params={"page": "/"}).status_code == 401


@pytest.mark.parametrize("page", ["/nowhere", "/login", "/tasks?q=x", "/tasks?before=5", "//[", ""])
def test_events_of_no_page(visitor, rest, page):
    assert visitor(rest).get("/events", params={"page": page}).status_code == 404


def test_the_service_stops_at_once_though_pages_are_open(visitor, rest, service):
    streams = [events(visitor(rest), "/") for _ in range(3)]
    for stream in streams:
        next(stream)
    began_s = time.monotonic()
    service.stop()
    assert time.monotonic() - began_s < 1.0
    assert [list(stream) for stream in streams] == [[], [], []]


# ---- metrics and health ---------------------------------------------------------------------------------------


def test_metrics_tell_what_happened(visitor, rest, scene):
    text = visitor().get("/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert values["parsl_globus_tasks_accepted_total"] == "3.0"
    assert values["parsl_globus_tasks_finished_total"] == "2.0"
    assert values["parsl_globus_tasks_failed_total"] == "1.0"
    assert values["parsl_globus_endpoints_online"] == "1.0"
    label = f'{{endpoint="{scene.manager.endpoint_id}",name="Polaris"}}'
    assert values[f"parsl_globus_endpoint_workers{label}"] == "128.0"
    assert values[f"parsl_globus_endpoint_unfinished{label}"] == "1.0"
    assert float(values['parsl_globus_broker_messages_total{direction="received"}']) >= 4
    assert float(values["parsl_globus_store_commit_seconds_count"]) > 4
    route = 'method="POST",route="/v3/endpoints/{endpoint_id}/submit",status="200"'
    assert values[f"parsl_globus_request_seconds_count{{{route}}}"] == "1.0"


def test_metrics_through_a_proxy_need_an_administrators_token(visitor, rest, stranger):
    far = {"X-Forwarded-For": "10.1.2.3"}
    assert visitor().get("/metrics", headers=far).status_code == 401
    for caller, status in ((rest, 200), (stranger, 403)):
        headers = {**far, "Authorization": caller.session.headers["Authorization"]}
        assert visitor().get("/metrics", headers=headers).status_code == status


def test_a_token_for_metrics_opens_nothing_else(visitor, rest):
    token = _metrics_token(rest)
    headers = {"X-Forwarded-For": "10.1.2.3", "Authorization": f"Bearer {token}"}
    assert visitor().get("/metrics", headers=headers).status_code == 200
    assert visitor().get("/v2/endpoints", headers=headers).status_code == 403


def _metrics_token(rest) -> str:
    from parsl_globus.wire.people import METRICS_SCOPE

    return rest.login(*rest.credentials, METRICS_SCOPE).json()["access_token"]


def test_health_tells_of_store_and_broker(service):
    reply = requests.get(f"{service.url}/healthz", timeout=DEADLINE_S)
    assert (reply.status_code, reply.json()) == (200, {"status": "ok", "store": "ok", "broker": "ok"})
