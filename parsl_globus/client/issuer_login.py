"""A login at the issuer that a self-hosted service trusts, for programs without a browser of their own."""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import requests

from parsl_globus.client.rest import network_reason
from parsl_globus.client.trust import ca_file, check_ca_file
from parsl_globus.errors import DecodeError, NotAuthorized, RequestRefused, ServiceUnreachable

_TIMEOUT_S = 60.0
#: What RFC 8628 section 3.2 says where the issuer doesn't.
_INTERVAL_S, _LIFE_S = 5.0, 600.0
#: Slower by so much each time the issuer says so (section 3.5).
_SLOWER_S = 5.0


@dataclass(frozen=True)
class DeviceLogin:
    """A login that waits for approval in some browser.

    Attributes:
        user_code: What is to be entered there.
        address: Where.
        whole_address: Where, with the code in it, if the issuer has such an address.
    """

    user_code: str
    address: str
    whole_address: str | None
    _device_code: str = field(repr=False)
    _interval_s: float
    _life_s: float


class IssuerLogin:
    """Logs in by way of the service at `url`.

    Args:
        url: The service's base URL.
        ca: File of its CA certificates, if it isn't known otherwise.
    """

    def __init__(self, url: str, ca: str | None = None) -> None:
        self._url = url.rstrip("/")
        if ca is not None:
            check_ca_file(ca)
        self._verify: str | bool = ca or ca_file(url) or True
        self._verifier = secrets.token_urlsafe(32)

    def issuer(self) -> str | None:
        """The issuer that the service trusts, if any.

        Raises:
            ServiceUnreachable: No answer came.
        """
        about = self._call("GET", "/v2/version", params={"service": "all"}).get("parsl_globus")
        found = about.get("oidc_issuer") if isinstance(about, dict) else None
        return found if isinstance(found, str) else None

    def start_device(self) -> DeviceLogin | None:
        """Begin one with the issuer's own device login; `None` if it has none.

        Raises:
            ServiceUnreachable: No answer came.
            RequestRefused: The service refused it.
        """
        try:
            found = self._call("POST", "/v3/login/device")
        except RequestRefused as exc:
            if exc.code == "OIDC_NO_DEVICE_LOGIN":
                return None
            raise
        whole = found.get("verification_uri_complete")
        return DeviceLogin(
            str(found.get("user_code", "")),
            str(found.get("verification_uri", "")),
            str(whole) if whole else None,
            str(found.get("device_code", "")),
            _seconds(found.get("interval"), _INTERVAL_S),
            _seconds(found.get("expires_in"), _LIFE_S),
        )

    def wait_device(self, login: DeviceLogin, sleep: Callable[[float], None] = time.sleep) -> str:
        """Wait until it is approved; returns a token of the service.

        Raises:
            ServiceUnreachable: No answer came.
            RequestRefused: It was not approved in time, or the user may not come in.
        """
        deadline_s, interval_s = time.monotonic() + login._life_s, login._interval_s
        while True:
            # The issuer says how often it may be asked; it tells nobody when it is done.
            sleep(interval_s)
            try:
                found = self._call("POST", "/v3/login/device/token", json={"device_code": login._device_code})
            except RequestRefused as exc:
                busy = exc.code == "slow_down" or exc.http_status in (429, 502, 503, 504)
                if not (busy or exc.code == "authorization_pending") or time.monotonic() > deadline_s:
                    raise
                interval_s += _SLOWER_S if busy else 0
                continue
            except ServiceUnreachable:
                # RFC 8628 section 3.5: one broken connection doesn't end a login that somebody is about to approve.
                if time.monotonic() > deadline_s:
                    raise
                interval_s += _SLOWER_S
                continue
            return str(found["access_token"])

    @property
    def page(self) -> str:
        """Where on the service's page a code is shown for this login, and for no other one."""
        digest = hashlib.sha256(self._verifier.encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        return f"{self._url}/login/command?challenge={challenge}"

    def redeem(self, code: str) -> str:
        """Change the code from the page into a token of the service.

        Raises:
            ServiceUnreachable: No answer came.
            RequestRefused: The code is not good.
        """
        found = self._call("POST", "/v3/login/command", json={"code": code, "verifier": self._verifier})
        return str(found["access_token"])

    def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        try:
            reply = requests.request(method, self._url + path, timeout=_TIMEOUT_S, verify=self._verify, **options)
        except requests.RequestException as exc:
            raise ServiceUnreachable(url=self._url, detail=network_reason(exc)) from exc
        try:
            document = reply.json()
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise DecodeError(what="reply", size_bytes=len(reply.content), detail="it is no JSON object")
        if not reply.ok:
            kind = NotAuthorized if reply.status_code in (401, 403) else RequestRefused
            raise kind(
                http_status=reply.status_code,
                code=str(document.get("code", "UNKNOWN")),
                reason=str(document.get("reason", "it did not say why")),
            )
        return document


def _seconds(value: Any, otherwise: float) -> float:
    return float(value) if isinstance(value, (int, float)) and 0 < value < 86_400 else otherwise
