"""An issuer that does what a test says: tokens as no honest one makes them, and device logins."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

CLIENT, SECRET = "lab", "labs-secret-0123456789"


def new_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


class ForgedIssuer:
    """Logs in whoever comes as `claims`, without a question.

    Attributes:
        claims: What it says of the user, over what belongs into a token.
        sign: Makes the token of the claims; by default with its key.
        userinfo: What it says when asked with an access token.
        devices: Whether it has device logins.
        polls: What it answers to a device, one after the other, before it grants; errors of RFC 8628.
        down: Whether it answers with a 502 only.
        asked: The paths that it was asked for.
    """

    def __init__(self) -> None:
        self.key = new_key()
        self.down = False
        self.devices = True
        self.asked: list[str] = []
        self.reset()
        self._codes: dict[str, dict[str, str]] = {}
        handler = type("Handler", (_Handler,), {"issuer": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def reset(self) -> None:
        """Be honest again."""
        self.claims: dict[str, Any] = {"sub": "s-ada", "preferred_username": "ada"}
        self.userinfo: dict[str, Any] = {}
        self.sign: Callable[[dict[str, Any]], str] = self.signed
        self.polls: list[str] = []
        self.redirect: dict[str, str] = {}

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def signed(self, claims: dict[str, Any], key: Any = None, algorithm: str = "RS256", kid: str = "one") -> str:
        return jwt.encode(claims, self.key if key is None else key, algorithm, headers={"kid": kid})

    def public_key(self) -> dict[str, Any]:
        return {**json.loads(RSAAlgorithm.to_jwk(self.key.public_key())), "kid": "one", "use": "sig", "alg": "RS256"}

    # ---- what it answers ------------------------------------------------------------------------------------------

    def get(self, path: str, query: dict[str, str], bearer: str) -> tuple[int, Any]:
        if path == "/.well-known/openid-configuration":
            device = {"device_authorization_endpoint": f"{self.url}/device"} if self.devices else {}
            return 200, {
                "issuer": self.url,
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                "jwks_uri": f"{self.url}/keys",
                "userinfo_endpoint": f"{self.url}/userinfo",
                **device,
            }
        if path == "/keys":
            return 200, {"keys": [self.public_key()]}
        if path == "/userinfo":
            return (200, self.userinfo) if bearer == "an-access-token" else (401, {})
        if path == "/authorize":
            code = secrets.token_urlsafe(8)
            self._codes[code] = query
            back = {"code": code, "state": query["state"], "iss": self.url, **self.redirect}
            return 302, f"{query['redirect_uri']}?{urlencode(back)}"
        return 404, {}

    def post(self, path: str, form: dict[str, str], client: str) -> tuple[int, Any]:
        if client != f"{CLIENT}:{SECRET}":
            return 401, {"error": "invalid_client"}
        if path == "/device":
            return 200, {
                "device_code": "a-device-code",
                "user_code": "WDJB-MJHT",
                "verification_uri": f"{self.url}/enter",
                "verification_uri_complete": f"{self.url}/enter?code=WDJB-MJHT",
                "expires_in": 600,
                "interval": 0.05,
            }
        if form["grant_type"] == "urn:ietf:params:oauth:grant-type:device_code":
            if form["device_code"] != "a-device-code":
                return 400, {"error": "invalid_grant"}
            return (400, {"error": self.polls.pop(0)}) if self.polls else (200, self._tokens({}))
        asked = self._codes.pop(form["code"], None)  # good once
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        if asked is None or asked["redirect_uri"] != form["redirect_uri"] or asked["code_challenge"] != challenge:
            return 400, {"error": "invalid_grant"}
        return 200, self._tokens({"nonce": asked["nonce"]})

    def _tokens(self, more: dict[str, Any]) -> dict[str, Any]:
        now_s = int(time.time())
        times = {"iat": now_s, "exp": now_s + 300}
        claims = {"iss": self.url, "aud": CLIENT, **times, **more, **self.claims}
        return {"access_token": "an-access-token", "token_type": "Bearer", "id_token": self.sign(claims)}


class _Handler(BaseHTTPRequestHandler):
    issuer: ForgedIssuer

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        bearer = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self._answer(lambda: self.issuer.get(parts.path, query, bearer))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        form = {key: values[0] for key, values in parse_qs(body).items()}
        client = base64.b64decode(self.headers.get("Authorization", "").removeprefix("Basic ")).decode()
        self._answer(lambda: self.issuer.post(self.path, form, client))

    def _answer(self, make: Callable[[], tuple[int, Any]]) -> None:
        self.issuer.asked.append(self.path.partition("?")[0])
        status, content = (502, {}) if self.issuer.down else make()
        self.send_response(status)
        body = b""
        if status == 302:
            self.send_header("Location", str(content))
        else:
            body = json.dumps(content).encode()
            self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass
