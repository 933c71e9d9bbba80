"""Users of a service under test, each with a token of its own."""

from __future__ import annotations

import time
from typing import Any

from service_thread import DEADLINE_S, Rest, ServiceThread

from parsl_globus.wire.people import ADMIN_SCOPE


class Caller(Rest):
    """Calls with one token, or with none."""

    def __init__(self, url: str, token: str | None) -> None:
        import requests

        self.url = url
        self.session = requests.Session()
        self.session.trust_env = False
        if token is not None:
            self.session.headers["Authorization"] = f"Bearer {token}"


class People:
    """Makes users and groups as the service's owner, who is its administrator."""

    def __init__(self, service: ServiceThread) -> None:
        self.url = service.url
        owner = service.address.owner
        self.root = service.rest()
        reply = self.root.login(str(owner.client_id), owner.client_secret, ADMIN_SCOPE)
        self.admin = Caller(self.url, reply.json()["access_token"])
        self._opened: list[Rest] = [self.root, self.admin]

    def user(self, name: str, *, admin: bool = False) -> Rest:
        """A new user, logged in; its `identity_id`, `username`, `client_id` and `client_secret` are attributes."""
        made = self.admin.good("POST", "/v3/admin/users", {"username": name, "admin": admin})
        rest = Rest(self.url, made["client_id"], made["client_secret"])
        vars(rest).update(made)
        self._opened.append(rest)
        return rest

    def group(self, name: str, *members: Any) -> str:
        """A new group; returns its id."""
        group_id = self.admin.good("POST", "/v3/admin/groups", {"name": name})["group_id"]
        for member in members:
            self.admin.good("PUT", f"/v3/admin/groups/{name}/members/{member.username}")
        return group_id

    def caller(self, token: str | None) -> Caller:
        caller = Caller(self.url, token)
        self._opened.append(caller)
        return caller

    def expired(self, user: Rest) -> Caller:
        """Someone whose token was good until a moment ago."""
        made = user.good("POST", "/v3/tokens", {"life_s": 0.2})
        caller = self.caller(made["access_token"])
        deadline = time.monotonic() + DEADLINE_S
        while caller.call("GET", "/v3/me").status_code != 401:
            assert time.monotonic() < deadline
        return caller

    def revoked(self, user: Rest) -> Caller:
        """Someone whose token was used, and then revoked."""
        made = user.good("POST", "/v3/tokens", {})
        caller = self.caller(made["access_token"])
        caller.good("GET", "/v3/me")
        user.good("DELETE", f"/v3/tokens/{made['token_id']}")
        return caller

    def close(self) -> None:
        for rest in self._opened:
            rest.close()
