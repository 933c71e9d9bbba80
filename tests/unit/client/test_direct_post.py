"""Submissions, which go past globus_sdk: by the same ways, with the same login, and never twice."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import uuid
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import certifi
import pytest
import urllib3
from globus_sdk.authorizers import GlobusAuthorizer

from parsl_globus.client.direct_post import never_connected
from parsl_globus.client.rest import ServiceClient
from parsl_globus.errors import DecodeError, NotAuthorized, RequestRefused, ServiceUnreachable

ENDPOINT_ID, FUNCTION_ID, TASK_ID = uuid.uuid4(), uuid.uuid4(), uuid.uuid4()
PAYLOAD = "ü\n" + "x" * 1_000_000
SUBMITTED = {
    "tasks": {str(FUNCTION_ID): [str(TASK_ID)]},
    "task_group_id": str(uuid.uuid4()),
    "request_id": str(uuid.uuid4()),
    "endpoint_id": str(ENDPOINT_ID),
}


class Authorizer(GlobusAuthorizer):
    """Shows a token, and another one once it is told that the first is no good."""

    def __init__(self):
        self.number = 1

    def get_authorization_header(self):
        return f"Bearer {self.number}"

    def handle_missing_authorization(self):
        self.number += 1
        return self.number == 2


@pytest.fixture
def server():
    """Answers with what it is given, or breaks off where it is given nothing; remembers what it was asked."""
    asked, answers = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(SimpleNamespace(path=self.path, headers=self.headers, body=json.loads(body)))
            answer = answers.pop(0)
            if answer is None:
                self.close_connection = True
                return
            status, content, *location = answer
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            for address in location:
                self.send_header("Location", address)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{http.server_port}"
        yield SimpleNamespace(url=url, asked=asked, answers=answers)
        http.shutdown()
        thread.join()


@pytest.fixture
def service():
    made = []

    def make(url):
        made.append(ServiceClient(SimpleNamespace(web_service_address=url, app=None, authorizer=Authorizer())))
        return made[-1]

    yield make
    for one in made:
        one.close()


def submit(service):
    body = [b'{"tasks":{"', str(FUNCTION_ID).encode(), b'":[', json.dumps(PAYLOAD).encode(), b"]}}"]
    return service.submit(ENDPOINT_ID, body, idempotency_key=TASK_ID, per_task=True)


def test_a_submission_and_its_answer(server, service):
    server.answers += [(200, SUBMITTED)] * 2
    calls = service(server.url)
    for _ in range(2):
        assert submit(calls).tasks == {FUNCTION_ID: [TASK_ID]}
    one = server.asked[0]
    assert one.path == f"/v3/endpoints/{ENDPOINT_ID}/submit"
    assert one.body == {"tasks": {str(FUNCTION_ID): [PAYLOAD]}}
    assert one.headers["Authorization"] == "Bearer 1"
    assert one.headers["Content-Type"] == "application/json"
    assert one.headers["Idempotency-Key"] == str(TASK_ID)
    assert one.headers["User-Agent"].startswith("globus-sdk")


def test_a_login_is_renewed_once(server, service):
    refused = (401, {"code": "USER_UNAUTHENTICATED", "reason": "No."})
    server.answers += [refused, (200, SUBMITTED)]
    submit(service(server.url))
    assert [one.headers["Authorization"] for one in server.asked] == ["Bearer 1", "Bearer 2"]
    server.answers += [refused, refused, refused]
    with pytest.raises(NotAuthorized, match="No"):
        submit(service(server.url))
    assert len(server.answers) == 1


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        ((409, {"code": "TAKEN", "reason": "It is there."}), RequestRefused, "It is there.*TAKEN"),
        ((503, b"<html>"), RequestRefused, "Service Unavailable"),
        ((302, b""), RequestRefused, "Found"),
        ((200, b"[]"), DecodeError, "submission reply"),
        ((200, b"hello"), DecodeError, "submission reply"),
    ],
)
def test_other_answers(server, service, answer, kind, words):
    server.answers.append(answer)
    with pytest.raises(kind, match=words):
        submit(service(server.url))
    assert len(server.asked) == 1


def test_it_goes_where_the_service_says_it_is(server, service):
    path = f"/v3/endpoints/{ENDPOINT_ID}/submit"
    server.answers += [(308, b"", f"/behind{path}"), (200, SUBMITTED), (200, SUBMITTED)]
    calls = service(server.url)
    for _ in range(2):
        assert submit(calls).tasks == {FUNCTION_ID: [TASK_ID]}
    assert [one.path for one in server.asked] == [path, f"/behind{path}", f"/behind{path}"]
    assert server.asked[1].body == server.asked[0].body


@pytest.mark.parametrize("place", ["http://elsewhere.invalid{path}", "/login", "{path}?next=1", "ftp:{path}", ""])
def test_but_with_its_login_to_no_other_place(server, service, place):
    server.answers.append((307, b"", place.format(path=f"/v3/endpoints/{ENDPOINT_ID}/submit")))
    with pytest.raises(RequestRefused, match="Temporary Redirect"):
        submit(service(server.url))
    assert len(server.asked) == 1


def test_certificates_are_those_that_requests_would_ask(service, monkeypatch, tmp_path):
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PARSL_GLOBUS_CA_FILE"):
        monkeypatch.delenv(name, raising=False)
    post = service("https://service.invalid")._submitting
    post._connect()
    assert (post._pool.ca_certs, post._pool.cert_reqs) == (certifi.where(), "CERT_REQUIRED")
    monkeypatch.setenv("CURL_CA_BUNDLE", str(tmp_path / "missing.pem"))
    with pytest.raises(ServiceUnreachable, match=r"missing\.pem"):
        submit(service("https://service.invalid"))


def test_a_certificate_that_is_refused_leaves_no_doubt():
    error = urllib3.exceptions.SSLError(ssl.SSLCertVerificationError("self-signed"))
    assert never_connected(error)
    assert not never_connected(urllib3.exceptions.SSLError(ssl.SSLEOFError("broken off")))


def test_without_an_answer_it_may_have_been_received(server, service):
    server.answers.append(None)
    with pytest.raises(ServiceUnreachable) as caught:
        submit(service(server.url))
    assert caught.value.maybe_received
    assert len(server.asked) == 1


def test_without_a_connection_it_was_not_received(service):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(ServiceUnreachable, match="refused") as caught:
        submit(service(url))
    assert not caught.value.maybe_received


def test_when_it_is_closed_nothing_is_sent_any_more(server, service):
    server.answers.append((200, SUBMITTED))
    calls = service(server.url)
    submit(calls)
    calls.close()
    with pytest.raises(ServiceUnreachable) as caught:
        submit(calls)
    assert not caught.value.maybe_received
    assert len(server.asked) == 1


def test_by_a_proxy(server, service, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url.replace("//", "//me:secret@"))
    monkeypatch.setenv("no_proxy", "")
    server.answers.append((200, SUBMITTED))
    submit(service("http://service.invalid/base"))
    assert server.asked[0].path == f"http://service.invalid/base/v3/endpoints/{ENDPOINT_ID}/submit"
    assert server.asked[0].headers["Proxy-Authorization"].startswith("Basic ")
    assert server.asked[0].headers["Authorization"] == "Bearer 1"


def test_a_proxy_that_is_not_there_has_received_nothing(service, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed.getsockname()[1]}")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(ServiceUnreachable) as caught:
        submit(service("http://service.invalid"))
    assert not caught.value.maybe_received
