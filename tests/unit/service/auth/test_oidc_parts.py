"""An issuer's answers as they shouldn't be, its keys, and the attempts of browsers."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from jwt.algorithms import ECAlgorithm, OKPAlgorithm

from parsl_globus.errors import ConfigError, NotAuthorized, RequestRefused
from parsl_globus.service.auth.oidc import attempt, id_token
from parsl_globus.service.auth.oidc.attempt import Attempt
from parsl_globus.service.auth.oidc.issuer import Issuer, check_issuer
from parsl_globus.service.config import OidcConfig

ISSUER = "https://issuer.example"
KEY = b"k" * 32


def claims(**more):
    now_s = int(time.time())
    return {"iss": ISSUER, "aud": "lab", "sub": "s", "iat": now_s, "exp": now_s + 60, "nonce": "n", **more}


def judge(token: str, keys):
    header = id_token.read_header(token)
    key = id_token.choose_key(keys, header)
    assert key is not None
    return id_token.verify(token, key, header, issuer=ISSUER, client_id="lab", nonce="n")


KEYS: dict[str, tuple[Any, Any]] = {
    "ES256": (ec.generate_private_key(ec.SECP256R1()), ECAlgorithm),
    "EdDSA": (ed25519.Ed25519PrivateKey.generate(), OKPAlgorithm),
}


@pytest.mark.parametrize("algorithm", KEYS)
def test_other_kinds_of_keys_are_taken(algorithm):
    private, kind = KEYS[algorithm]
    public = json.loads(kind.to_jwk(private.public_key()))
    # Without a name, the only one that fits is meant.
    token = jwt.encode(claims(), private, algorithm)
    assert judge(token, [public, {"kty": "RSA", "kid": "x"}])["sub"] == "s"
    assert judge(jwt.encode(claims(aud=["lab", "other"], azp="lab"), private, algorithm), [public])["sub"] == "s"


def test_a_key_that_might_be_meant_is_none():
    header = id_token.Header("RS256", None)
    plain = {"kty": "RSA", "kid": "a"}
    assert id_token.choose_key([plain], header) == plain
    assert id_token.choose_key([plain, {**plain, "kid": "b"}], header) is None
    for other in ({"kty": "EC"}, {"use": "enc"}, {"alg": "RS512"}):
        assert id_token.choose_key([{**plain, **other}], header) is None
    assert id_token.choose_key([{"kty": "oct", "kid": "a"}], id_token.Header("RS256", "a")) is None


@pytest.mark.parametrize("text", ["", "a.b", "a.b.c", "e30.e30.e30", "é.é.é"])
def test_what_is_no_token_is_refused(text):
    with pytest.raises(NotAuthorized):
        id_token.read_header(text)


@pytest.mark.parametrize("algorithm", [None, 5, ["RS256"], "none", "HS256", "rs256"])
def test_a_signature_that_is_not_taken_is_refused(algorithm):
    encoded = jwt.utils.base64url_encode(json.dumps({"alg": algorithm}).encode()).decode()
    with pytest.raises(NotAuthorized):
        id_token.read_header(f"{encoded}.e30.e30")


# ---- attempts -------------------------------------------------------------------------------------------------------


def test_another_process_knows_an_attempt_by_its_cookie_and_the_key():
    begun = Attempt.begin(KEY, "/tasks?q=ö")
    found = Attempt.of(KEY, begun.cookie)
    assert (found.target, found.state, found.nonce, found.verifier) == (
        *("/tasks?q=ö", begun.state),
        *(begun.nonce, begun.verifier),
    )
    assert found.has_state(begun.state)
    assert not found.has_state("")
    assert not found.has_state("\udcff")
    assert len({begun.state, begun.nonce, begun.verifier, begun.challenge}) == 4
    assert not Attempt.of(b"o" * 32, begun.cookie).has_state(begun.state)
    assert begun.cookie not in repr(begun)
    assert Attempt.of(KEY, Attempt.begin(KEY, "/tasks?q=" + "x" * 600).cookie).target == "/"


@pytest.mark.parametrize("cookie", ["", "a.b", "a.b.c", "a.1.c", "a.999999999999.!", "a" * 2000, f"a.{'9' * 900}.Lw"])
def test_what_is_no_attempt_is_none(cookie):
    found = Attempt.of(KEY, cookie)
    assert found is None or not found.has_state(Attempt.begin(KEY, "/").state)


def test_an_attempt_that_is_old_is_none(monkeypatch):
    begun = Attempt.begin(KEY, "/")
    now_s = time.time()
    monkeypatch.setattr(attempt.time, "time", lambda: now_s + attempt.LIFE_S + 2)
    assert Attempt.of(KEY, begun.cookie) is None


# ---- answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("https://login.example.org/realms/lab", True),
        ("http://localhost:8080", True),
        ("http://[::1]:8080", True),
        ("http://login.example.org", False),
        ("ldaps://login.example.org", False),
        ("https://", False),
        ("https://login.example.org/?realm=lab", False),
        ("https://[broken", False),
    ],
)
def test_an_issuer_is_asked_in_the_clear_on_this_machine_only(url, good):
    if good:
        check_issuer(OidcConfig(url, "lab"))
    else:
        with pytest.raises(ConfigError, match="--oidc-issuer"):
            check_issuer(OidcConfig(url, "lab"))


@contextmanager
def answering(status: int, body: bytes, headers: dict[str, str] | None = None, length: int | None = None):
    """A server that says this to everybody; `{url}` in the body is its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            said = body.replace(b"{url}", url.encode())
            self.send_response(status)
            for name, value in {"Content-Length": str(length or len(said)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(said)
            self.close_connection = True

        def log_message(self, *_) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield url
        finally:
            server.shutdown()
            thread.join()


def ask(url: str):
    async def scenario():
        issuer = Issuer(OidcConfig(url, "lab"))
        try:
            return await issuer.metadata()
        finally:
            issuer.close()

    return asyncio.run(scenario())


GOOD = {"issuer": "{url}", "authorization_endpoint": "{url}/a", "token_endpoint": "{url}/t", "jwks_uri": "{url}/k"}


def test_a_good_answer_is_taken():
    with answering(200, json.dumps(GOOD).encode()) as url:
        found = ask(url)
    assert (found.authorization, found.device, found.secret_in_form) == (f"{url}/a", None, False)


@pytest.mark.parametrize(
    ("status", "body", "told", "more"),
    [
        (500, b"{}", "HTTP status 500", {}),
        (200, b"<html>", "HTTP status 200, and no JSON object", {}),
        (200, b"[]", "no JSON object", {}),
        pytest.param(200, b"{" + b" " * (1 << 20) + b"}", "too long", {}, id="too long"),
        (200, b"{}", "IncompleteRead", {"length": 1000}),
        (302, b"{}", "HTTP status 302", {"headers": {"Location": "http://127.0.0.1:9/"}}),
        (200, json.dumps({**GOOD, "issuer": "https://other.example"}).encode(), "https://other.example", {}),
        (200, json.dumps({**GOOD, "issuer": "{url}/"}).encode(), "--oidc-issuer must be the same", {}),
        (200, json.dumps({**GOOD, "token_endpoint": "http://other.example/t"}).encode(), "not encrypted", {}),
        (200, json.dumps({**GOOD, "jwks_uri": 5}).encode(), "names no jwks_uri", {}),
    ],
)
def test_an_answer_that_is_no_issuers_is_told(status, body, told, more):
    with answering(status, body, **more) as url, pytest.raises(RequestRefused, match=told) as caught:
        ask(url)
    assert (caught.value.http_status, caught.value.code) == (503, "OIDC_ISSUER_UNAVAILABLE")


def test_nobody_there_is_told():
    with pytest.raises(RequestRefused, match="Connection refused"):
        ask("http://127.0.0.1:9")
