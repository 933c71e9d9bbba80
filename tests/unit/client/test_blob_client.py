"""Blobs through the client: every failure is a typed error, and what can be tried again is."""

from __future__ import annotations

import io
import os
import threading
import uuid
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from globus_compute_sdk import Client

from parsl_globus.client import blobs as client_blobs
from parsl_globus.client.connect import connect
from parsl_globus.client.home import Credentials
from parsl_globus.client.rest import ServiceClient
from parsl_globus.errors import DecodeError, NotAuthorized, RequestRefused, ServiceUnreachable
from parsl_globus.wire.documents import EXTENSION_BLOBS

BLOB_ID = uuid.uuid4()
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.fixture
def client(parsl_globus_site):
    client = ServiceClient(parsl_globus_site.client())
    yield client
    client.close()


def test_a_value_goes_there_and_back(client, tmp_path):
    version = client.version()
    assert EXTENSION_BLOBS in version.extensions
    assert version.blob_limit_bytes == 1024**3
    data = os.urandom(3_000_000)
    (tmp_path / "data").write_bytes(data)
    with (tmp_path / "data").open("rb") as file:
        file.seek(1_000_000)
        for source, expected in ((data, data), (io.BytesIO(b""), b""), (file, data[1_000_000:])):
            blob_id = client.put_blob(source)
            assert b"".join(client.get_blob(blob_id)) == expected
            client.delete_blob(blob_id)
    chosen = uuid.uuid4()
    for _ in range(2):
        assert client.put_blob(b"x", chosen) == chosen
    pieces = client.get_blob(chosen)
    assert next(pieces) == b"x"
    pieces.close()
    client.delete_blob(chosen)


def test_a_pipe_is_sent_as_it_comes(client):
    readable, writable = os.pipe()
    with os.fdopen(writable, "wb") as end:
        end.write(b"a\nb" * 1000)
    with os.fdopen(readable, "rb") as source:
        blob_id = client.put_blob(source)
    assert b"".join(client.get_blob(blob_id)) == b"a\nb" * 1000
    client.delete_blob(blob_id)


def test_a_login_kept_for_other_programs_is_not_used(client, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("default login somebody password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    blob_id = client.put_blob(b"x")
    assert b"".join(client.get_blob(blob_id)) == b"x"
    client.delete_blob(blob_id)


def test_refusals_are_typed(client, tmp_path):
    blob_id = client.put_blob(b"x")
    with pytest.raises(RequestRefused, match="under a new id") as caught:
        client.put_blob(b"y", blob_id)
    assert (caught.value.http_status, caught.value.code) == (409, "BLOB_EXISTS")
    client.delete_blob(blob_id)
    for call in (client.delete_blob, lambda i: list(client.get_blob(i))):
        with pytest.raises(RequestRefused) as caught:
            call(blob_id)
        assert (caught.value.http_status, caught.value.code) == (404, "BLOB_NOT_FOUND")
    # One that the service will not take isn't even sent.
    with (tmp_path / "large").open("w+b") as file:
        file.truncate(1024**3 + 1)
        with pytest.raises(RequestRefused, match="1073741824 at most") as caught:
            client.put_blob(file)
    assert (caught.value.http_status, caught.value.code) == (413, "BLOB_TOO_LARGE")


def test_a_token_the_service_does_not_know_any_more_is_renewed(parsl_globus_site):
    sdk = parsl_globus_site.client()
    client = ServiceClient(sdk)
    blob_id = client.put_blob(io.BytesIO(b"x"))
    for call, expected in (
        (lambda: client.put_blob(io.BytesIO(b"x"), blob_id), blob_id),
        (lambda: list(client.get_blob(blob_id)), [b"x"]),
        (lambda: client.delete_blob(blob_id), None),
    ):
        sdk.authorizer.access_token = "forgotten"
        assert call() == expected
        assert sdk.authorizer.access_token != "forgotten"
    client.close()


class Answers:
    """A server that answers as it is told, one answer per request."""

    def __init__(self) -> None:
        self.given: list[tuple[int, dict[str, str], bytes]] = []
        self.bodies: list[bytes] = []
        given, bodies = self.given, self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                bodies.append(self.rfile.read(int(self.headers.get("Content-Length", 0))))
                status, headers, body = given.pop(0)
                if not status:
                    return
                self.send_response(status)
                for name, value in {
                    "Content-Type": "application/json",
                    "Content-Length": str(len(body)),
                    **headers,
                }.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_PUT = do_DELETE = do_GET

            def log_message(self, *_):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)


@pytest.fixture
def answers(monkeypatch):
    monkeypatch.setattr(client_blobs, "_FIRST_PAUSE_S", 0.001)
    answers = Answers()
    answers.thread.start()
    yield answers
    answers.server.shutdown()
    answers.thread.join()
    answers.server.server_close()
    assert answers.given == []


@pytest.fixture
def told(answers, parsl_globus_site):
    """A client of the server that answers as it is told."""
    sdk = parsl_globus_site.client()
    url = f"http://127.0.0.1:{answers.server.server_port}"
    client = ServiceClient(Client(authorizer=sdk.authorizer, do_version_check=False, local_compute_services=False))
    client.url = url
    yield client
    client.close()


def reply(status: int, body: bytes = b'{"code": "X", "reason": "because."}', **headers: str):
    return status, {name.replace("_", "-"): value for name, value in headers.items()}, body


STORED = reply(200, b'{"blob_id": "%s"}' % str(BLOB_ID).encode())
LOST = reply(0)


def test_what_may_help_is_tried_again_from_the_beginning(answers, told):
    answers.given += [LOST, reply(503), reply(429, Retry_After="0.01"), STORED]
    source = io.BytesIO(b"..content")
    source.seek(2)
    assert told.put_blob(source) == BLOB_ID
    assert answers.bodies == [b"content"] * 4
    answers.given += [reply(429), LOST, reply(200, b"abc", ETag=f'"{ABC}"')]
    assert list(told.get_blob(BLOB_ID)) == [b"abc"]
    # The first answer was lost, so it is gone.
    for first in (LOST, reply(502), reply(503), reply(504)):
        answers.given += [first, reply(429), reply(404)]
        told.delete_blob(BLOB_ID)


def test_a_blob_that_never_was_is_told_whatever_came_before(answers, told):
    """Neither a request that was not taken nor a token that was not good has removed anything."""
    for first in (reply(429), reply(401)):
        answers.given += [first, reply(404)]
        with pytest.raises(RequestRefused) as caught:
            told.delete_blob(BLOB_ID)
        assert caught.value.http_status == 404


def test_a_token_for_blobs_does_nothing_else(parsl_globus_site, client):
    made = client.new_blob_token(60.0)
    assert made.token not in repr(made)
    other = ServiceClient(connect(parsl_globus_site.url, credentials=Credentials(token=made.token)))
    blob_id = other.put_blob(b"x")
    assert b"".join(client.get_blob(blob_id)) == b"x"
    assert b"".join(other.get_blob(blob_id)) == b"x"
    for call in (other.endpoints, other.result_access, lambda: other.new_blob_token(60.0)):
        with pytest.raises(NotAuthorized):
            call()
    other.delete_blob(blob_id)
    client.revoke_token(made.token_id)
    with pytest.raises(NotAuthorized):
        other.put_blob(b"x")
    with pytest.raises(RequestRefused) as caught:
        client.revoke_token(made.token_id)
    assert caught.value.http_status == 404
    other.close()


def test_what_can_not_help_is_not_tried_again(answers, told):
    readable, writable = os.pipe()
    os.close(writable)
    answers.given += [reply(503)]
    with os.fdopen(readable, "rb") as pipe, pytest.raises(RequestRefused, match="because"):
        told.put_blob(pipe)
    for status, kind in ((500, RequestRefused), (403, NotAuthorized), (404, RequestRefused)):
        answers.given += [reply(status)]
        with pytest.raises(kind, match="because"):
            told.delete_blob(BLOB_ID)
    answers.given += [LOST] * 6
    with pytest.raises(ServiceUnreachable):
        told.delete_blob(BLOB_ID)


def test_a_download_that_is_not_what_was_put_is_no_success(answers, told):
    answers.given += [reply(200, b"abd", ETag=f'"{ABC}"')]
    with pytest.raises(DecodeError, match="checksum"):
        list(told.get_blob(BLOB_ID))
    answers.given += [reply(200, b"ab", ETag=f'"{ABC}"', Content_Length="3")]
    pieces = told.get_blob(BLOB_ID)
    with pytest.raises(ServiceUnreachable):
        list(pieces)
    answers.given += [reply(200, b"stored")]
    with pytest.raises(DecodeError):
        told.put_blob(b"x")
