"""A real OpenID Connect issuer in a process of its own: Canaille, by its own command, with users and a client."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from html import unescape
from pathlib import Path

import requests
from jwt.algorithms import RSAAlgorithm
from rabbitmq import free_port

_PROGRAM = Path(sys.executable).parent / "canaille"
#: What is missing, for `servers.require`.
MISSING = None if _PROGRAM.exists() else "canaille (a part of the extra 'test')"

DEADLINE_S = 60.0
SECRET = "labs-secret-0123456789"


class CanailleIssuer:
    """One issuer; users log in with a password.

    Args:
        folder: Where it writes.
        host: Under which name browsers and the service reach it.
    """

    def __init__(self, folder: Path, host: str = "127.0.0.1") -> None:
        from cryptography.hazmat.primitives.asymmetric import rsa

        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        self.url = f"http://{host}:{port}"
        self._bind = f"127.0.0.1:{port}"
        key = json.loads(RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 2048)))
        jwk = ", ".join(f'{name} = "{key[name]}"' for name in ("kty", "n", "e", "d", "p", "q", "dp", "dq", "qi"))
        config = folder / "canaille.toml"
        config.write_text(
            f"""
SECRET_KEY = "{os.urandom(16).hex()}"
SERVER_NAME = "{host}:{port}"
PREFERRED_URL_SCHEME = "http"
SESSION_COOKIE_SECURE = false
[CANAILLE]
DATABASE = "sql"
[CANAILLE_SQL]
DATABASE_URI = "sqlite:///{folder}/canaille.sqlite"
[CANAILLE_OIDC]
ACTIVE_JWKS = [{{ {jwk}, kid = "one", alg = "RS256" }}]
"""
        )
        self._environment = {**os.environ, "CANAILLE_CONFIG": str(config), "AUTHLIB_INSECURE_TRANSPORT": "1"}
        self._process: subprocess.Popen[bytes] | None = None
        self._run("install")

    def _run(self, *words: str) -> None:
        subprocess.run(
            [str(_PROGRAM), *words], env=self._environment, cwd=self._folder, check=True, capture_output=True
        )

    def add_user(self, name: str, password: str) -> None:
        """A user, whose subject and preferred name are `name`."""
        self._run(
            *("create", "user", "--user-name", name, "--family-name", name.title()),
            *("--password", password, "--display-name", name, "--emails", f"{name}@lab.example"),
        )

    def add_client(self, client_id: str, redirect_uri: str) -> None:
        """A program that users may log in to, with `SECRET`, and need not consent to."""
        scopes = [word for scope in ("openid", "profile", "email") for word in ("--scope", scope)]
        self._run(
            *("create", "client", "--client-id", client_id, "--client-secret", SECRET, "--client-name", "The lab"),
            *("--redirect-uris", redirect_uri, "--client-uri", "http://127.0.0.1/", "--response-types", "code"),
            *("--grant-types", "authorization_code", "--token-endpoint-auth-method", "client_secret_basic"),
            *scopes,
        )
        # Without it, the tokens would be for nobody.
        self._run("set", "client", client_id, "--audience", client_id)

    def start(self) -> CanailleIssuer:
        """Start it and wait until it answers."""
        with (self._folder / "canaille.log").open("wb") as log:
            self._process = subprocess.Popen(
                [str(_PROGRAM), "run", "--bind", self._bind, "--workers", "0"],
                env=self._environment,
                cwd=self._folder,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        deadline = time.monotonic() + DEADLINE_S
        while not self._answers():
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)
        return self

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/.well-known/openid-configuration", timeout=5).ok
        except requests.RequestException:
            return False

    def log(self) -> str:
        return (self._folder / "canaille.log").read_text()[-4000:]

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(DEADLINE_S)
            finally:
                self._process.kill()
                self._process.wait()
            self._process = None


def log_in(session: requests.Session, address: str, name: str, password: str) -> requests.Response:
    """Fill in the issuer's forms as a person does, from the address of its login to the page behind it."""
    reply = session.get(address, timeout=DEADLINE_S)
    for field, value in (("login", name), ("password", password)):
        assert f'name="{field}"' in reply.text, f"{reply.status_code} {reply.url}: {reply.text[:2000]}"
        hidden = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', reply.text)
        assert hidden is not None, reply.text[:2000]
        form = {"csrf_token": unescape(hidden.group(1)), field: value, "answer": "sign-in"}
        reply = session.post(reply.url, data=form, headers={"Referer": reply.url}, timeout=DEADLINE_S)
    return reply
