"""Blobs over HTTP: whole or not at all, limited, and never kept from their owner."""

from __future__ import annotations

import hashlib
import os
import socket
import sqlite3
import threading
import time
import uuid
from contextlib import closing as closed_at_end

import pytest
import requests
from people import People
from service_thread import DEADLINE_S, ServiceThread

from parsl_globus.service.routes import blobs as blob_routes
from parsl_globus.service.rules import blobs as blob_rules

MIB = 1024**2
LIMIT = 3 * MIB
QUOTA = 7 * MIB


class Blobs:
    """A service and its owner, who puts blobs."""

    def __init__(self, folder) -> None:
        self.service = ServiceThread(folder, blob_limit_bytes=LIMIT, blob_quota_bytes=QUOTA, blob_quota_count=4).start()
        self.people = People(self.service)
        self.rest = self.people.root

    def put(self, data, blob_id=None, *, rest=None, **options):
        path = f"/v3/blobs/{blob_id or uuid.uuid4()}"
        return (rest or self.rest).call("PUT", path, data=data, **options)

    def get(self, blob_id, *, rest=None, **options):
        return (rest or self.rest).call("GET", f"/v3/blobs/{blob_id}", **options)

    def delete(self, blob_id, *, rest=None):
        return (rest or self.rest).call("DELETE", f"/v3/blobs/{blob_id}")

    def rows(self) -> tuple[int, int]:
        """How many blobs and uploads there are, and how many parts."""
        with closed_at_end(sqlite3.connect(self.service.config.data_dir / "service.db")) as database:
            return tuple(database.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in NAMES)

    def wait_rows(self, expected: tuple[int, int]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while self.rows() != expected:
            assert time.monotonic() < deadline, self.rows()

    def connect(self, method: str, blob_id, *headers: str) -> socket.socket:
        """A request without its body."""
        host, port = self.service.url.removeprefix("http://").split(":")
        authorization = str(self.rest.session.headers["Authorization"])
        lines = [f"Host: {host}", f"Authorization: {authorization}", *headers, "", ""]
        peer = socket.create_connection((host, int(port)), timeout=DEADLINE_S)
        peer.sendall("\r\n".join([f"{method} /v3/blobs/{blob_id} HTTP/1.1", *lines]).encode())
        return peer


NAMES = ("blobs", "blob_parts")


@pytest.fixture(scope="module")
def _blobs(tmp_path_factory):
    blobs = Blobs(tmp_path_factory.mktemp("blobs") / "data")
    yield blobs
    blobs.people.close()
    blobs.service.stop()


@pytest.fixture
def blobs(_blobs):
    assert _blobs.rows() == (0, 0)
    return _blobs


def assert_refused(reply, http_status: int, code: str, words: str) -> None:
    assert (reply.status_code, reply.json()["code"]) == (http_status, code), reply.text
    assert words in reply.json()["reason"]


def pieces(data: bytes, size: int = 100_000):
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, LIMIT])
def test_a_blob_comes_back_as_it_was_put(blobs, size):
    data, blob_id = os.urandom(size), uuid.uuid4()
    digest = hashlib.sha256(data).hexdigest()
    # With its length first; once more without, as if the first answer had been lost.
    for body in (data, pieces(data)) if data else (data, iter([b""])):
        put = blobs.put(body, blob_id).json()
        assert (put["blob_id"], put["size_bytes"], put["sha256"]) == (str(blob_id), size, digest)
        assert put["expires_s"] == pytest.approx(time.time() + 14 * 86_400, abs=600)
    assert blobs.rows() == (1, max(1, -(-size // MIB)))
    got = blobs.get(blob_id)
    assert got.content == data
    assert got.headers["Content-Length"] == str(size)
    assert got.headers["ETag"] == f'"{digest}"'
    assert got.headers["Content-Type"] == "application/octet-stream"
    assert got.headers["X-Content-Type-Options"] == "nosniff"
    assert blobs.delete(blob_id).json() == {"result": 200}
    assert_refused(blobs.get(blob_id), 404, "BLOB_NOT_FOUND", str(blob_id))
    assert_refused(blobs.delete(blob_id), 404, "BLOB_NOT_FOUND", str(blob_id))


def test_a_blob_does_not_change(blobs):
    blob_id = uuid.uuid4()
    other = blobs.people.user(f"u{uuid.uuid4().hex}")
    assert blobs.put(b"one", blob_id).ok
    for body in (b"two", pieces(os.urandom(LIMIT))):
        assert_refused(blobs.put(body, blob_id), 409, "BLOB_EXISTS", "under a new id")
    # Nor does another learn, by its content, what it is.
    assert_refused(blobs.put(b"one", blob_id, rest=other), 409, "BLOB_EXISTS", "under a new id")
    assert_refused(blobs.get(blob_id, rest=other), 404, "BLOB_NOT_FOUND", "isn't for you")
    assert_refused(blobs.delete(blob_id, rest=other), 404, "BLOB_NOT_FOUND", "isn't for you")
    assert blobs.get(blob_id).content == b"one"
    assert blobs.delete(blob_id).ok


def test_two_that_put_the_same_id_at_once(blobs):
    blob_id = uuid.uuid4()
    first = os.urandom(2 * MIB)
    meet = threading.Barrier(2)
    replies: list[requests.Response] = []

    def put_slowly(content, rest):
        def together():
            yield content[:MIB]
            meet.wait(DEADLINE_S)
            yield content[MIB:]

        replies.append(blobs.put(together(), blob_id, rest=rest))

    rests = [blobs.rest, blobs.people.caller(blobs.rest.session.headers["Authorization"].split()[1])]
    for second, expected in ((first, [200, 200]), (os.urandom(2 * MIB), [200, 409])):
        replies.clear()
        threads = [threading.Thread(target=put_slowly, args=pair) for pair in zip((first, second), rests, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(reply.status_code for reply in replies) == expected
        blobs.wait_rows((1, 2))
        assert blobs.delete(blob_id).ok


def test_what_is_too_large_is_refused_and_leaves_nothing(blobs):
    large = os.urandom(LIMIT + 1)
    for body in (large, pieces(large), pieces(large * 4)):
        assert_refused(blobs.put(body), 413, "BLOB_TOO_LARGE", f"larger than {LIMIT} bytes")
        assert blobs.rows() == (0, 0)
    # Whoever sends far too much is answered, and then not listened to any more.
    with blobs.connect("PUT", uuid.uuid4(), "Transfer-Encoding: chunked") as peer:
        piece = b"%x\r\n%s\r\n" % (MIB, bytes(MIB))
        with pytest.raises(OSError):
            for _ in range(1000):
                peer.sendall(piece)
        try:
            answer = peer.recv(65536)
        except OSError:
            answer = b""
        # The system may forget what had come when the connection is broken.
        assert answer[:13] in (b"", b"HTTP/1.1 413 ")
    assert blobs.rows() == (0, 0)


def test_an_identity_has_a_quota(blobs):
    ids = [uuid.uuid4() for _ in range(5)]
    for blob_id in ids[:2]:
        assert blobs.put(os.urandom(LIMIT), blob_id).ok
    for body in (os.urandom(2 * MIB), pieces(os.urandom(2 * MIB))):
        assert_refused(blobs.put(body), 413, "BLOB_QUOTA_EXCEEDED", f"4 of {QUOTA} bytes are allowed")
    assert blobs.rows() == (2, 6)
    assert all(blobs.put(b"", blob_id).ok for blob_id in ids[2:4])
    assert_refused(blobs.put(b"", ids[4]), 413, "BLOB_QUOTA_EXCEEDED", "you would have 5 blobs")
    other = blobs.people.user(f"u{uuid.uuid4().hex}")
    assert blobs.put(b"mine", ids[4], rest=other).ok
    assert blobs.delete(ids[4], rest=other).ok
    assert all(blobs.delete(blob_id).ok for blob_id in ids[:4])


@pytest.mark.parametrize("header", [f"Content-Length: {2 * MIB}", "Transfer-Encoding: chunked"])
def test_an_upload_that_breaks_off_leaves_nothing(blobs, header):
    blob_id = uuid.uuid4()
    sent = os.urandom(MIB + MIB // 2)
    with blobs.connect("PUT", blob_id, header) as peer:
        peer.sendall(sent if "Length" in header else b"%x\r\n%s\r\n" % (len(sent), sent))
        blobs.wait_rows((1, 1))
        assert blobs.get(blob_id).status_code == 404
    blobs.wait_rows((0, 0))
    assert blobs.get(blob_id).status_code == 404


def test_an_upload_that_does_not_go_on_is_given_up(blobs, monkeypatch):
    monkeypatch.setattr(blob_routes, "_STALL_S", 2.0)
    with blobs.connect("PUT", uuid.uuid4(), f"Content-Length: {2 * MIB}") as peer:
        peer.sendall(bytes(MIB + 1))
        answer = b""
        while b"UPLOAD_STALLED" not in answer:
            part = peer.recv(65536)
            assert part, answer
            answer += part
        assert answer.startswith(b"HTTP/1.1 408 ")
    assert blobs.rows() == (0, 0)


def test_a_download_that_breaks_off_lets_go_and_is_no_error(blobs, monkeypatch, caplog):
    monkeypatch.setattr(blob_rules, "_TRANSFERS", 1)
    other = blobs.people.user(f"u{uuid.uuid4().hex}")
    blob_id = uuid.uuid4()
    assert blobs.put(os.urandom(LIMIT), blob_id, rest=other).ok
    for _ in range(3):
        with blobs.get(blob_id, rest=other, stream=True) as reply:
            next(reply.iter_content(10))
    # The one turn there is came back each time.
    assert len(blobs.get(blob_id, rest=other).content) == LIMIT
    assert blobs.delete(blob_id, rest=other).ok
    ours = ("parsl_globus", "uvicorn", "asyncio")
    assert [record for record in caplog.records if record.levelname == "ERROR" and record.name.startswith(ours)] == []


def test_who_has_many_transfers_waits_or_comes_again(blobs, monkeypatch):
    monkeypatch.setattr(blob_rules, "_TRANSFERS", 1)
    monkeypatch.setattr(blob_rules, "_TURN_WAIT_S", 0.2)
    other = blobs.people.user(f"u{uuid.uuid4().hex}")
    blob_id = uuid.uuid4()
    assert blobs.put(b"x", blob_id, rest=other).ok
    begun, go_on = threading.Event(), threading.Event()

    def slow():
        yield b"a" * (MIB + 1)
        begun.set()
        go_on.wait(DEADLINE_S)
        yield b"b"

    second = blobs.people.caller(other.session.headers["Authorization"].split()[1])
    slow_id = uuid.uuid4()
    thread = threading.Thread(target=blobs.put, args=(slow(), slow_id), kwargs={"rest": second})
    thread.start()
    try:
        assert begun.wait(DEADLINE_S)
        blobs.wait_rows((2, 2))
        for reply in (blobs.get(blob_id, rest=other), blobs.put(b"y", rest=other)):
            assert_refused(reply, 429, "TOO_MANY_REQUESTS", "at once")
            assert int(reply.headers["Retry-After"]) >= 1
        assert blobs.put(b"mine", owners_id := uuid.uuid4()).ok
    finally:
        go_on.set()
        thread.join()
    assert blobs.get(blob_id, rest=other).content == b"x"
    assert blobs.get(slow_id, rest=other).content == b"a" * (MIB + 1) + b"b"
    assert blobs.delete(owners_id).ok
    assert all(blobs.delete(i, rest=other).ok for i in (blob_id, slow_id))


def test_blobs_end_and_give_room(tmp_path, closing):
    service = closing(ServiceThread(tmp_path / "data", blob_life_s=0.5, blob_quota_count=1).start(), "stop")
    rest = closing(service.rest())
    blob_id = uuid.uuid4()
    assert rest.call("PUT", f"/v3/blobs/{blob_id}", data=b"x").ok
    deadline = time.monotonic() + DEADLINE_S
    while rest.call("GET", f"/v3/blobs/{blob_id}").ok:
        assert time.monotonic() < deadline
    # Not swept yet, but in nobody's way.
    assert rest.call("PUT", f"/v3/blobs/{blob_id}", data=b"y").ok


def test_the_public_protocol_has_none(tmp_path, closing):
    service = closing(ServiceThread(tmp_path / "data", public_only=True).start(), "stop")
    rest = closing(service.rest())
    for method in ("PUT", "GET", "DELETE"):
        assert rest.call(method, f"/v3/blobs/{uuid.uuid4()}").json()["code"] == "NOT_FOUND"
