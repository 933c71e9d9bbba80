"""POSTs whose cost matters: straight to urllib3, with what globus_sdk and requests know of login, proxies and trust.

Submitting a lone task through both costs 1.5 milliseconds of processor time, half of it before the first byte leaves;
most of that is looked up anew for each call and never changes. Here it is looked up once.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urljoin, urlsplit, urlunsplit

import globus_sdk
import requests
import urllib3

from parsl_globus.errors import NotAuthorized, RequestRefused, ServiceUnreachable

_NEVER_CONNECTED = (
    urllib3.exceptions.NewConnectionError,
    urllib3.exceptions.ConnectTimeoutError,
    urllib3.exceptions.ClosedPoolError,
)
#: Parts up to this are joined.
_SHORT_BYTES = 64 * 1024


class DirectPost:
    """Posts JSON with the login and the connections of a client of globus_sdk. Thread-safe.

    A call is never repeated, but for one that was refused with HTTP 401, once the login is renewed: that is safe, and
    globus_sdk does it, too.

    Args:
        client: Whose login, certificates, headers and connections are used.
        app: The app that logs in for it, if there is one.
        url: Base URL of the service.
    """

    def __init__(self, client: globus_sdk.ComputeClientV3, app: Any, url: str) -> None:
        self._client = client
        self._app = app
        self._url = url.rstrip("/")
        self._pool: Any = None
        self._prefix = ""

    def post(self, path: str, body: Sequence[bytes], headers: Mapping[str, str]) -> bytes:
        """Post `body`, which is JSON in parts, of which the long ones are not copied.

        Returns:
            The answer's body.

        Raises:
            RequestRefused: The service answered with an error; `NotAuthorized` on HTTP 401 and 403.
            ServiceUnreachable: The file with its certificates isn't there.
            urllib3.exceptions.HTTPError: There was no answer.
        """
        if self._pool is None:
            self._connect()
        renewed = moved = False
        pieces = list(_pieces(body))
        while True:
            answer = self._call(path, pieces, headers)
            if answer.status < 300:
                return bytes(answer.data)
            if answer.status in (307, 308) and not moved:
                moved = self._move(path, answer.headers.get("Location") or "")
                if moved:
                    continue
            authorizer = self._authorizer()
            if answer.status != 401 or renewed or authorizer is None or not authorizer.handle_missing_authorization():
                raise refusal(answer.status, answer.reason or "", answer.data)
            renewed = True

    def close(self) -> None:
        """Close its connections; one that is in use closes when it is done."""
        if self._pool is not None:
            # The client that it comes from only forgets it.
            self._pool.close()

    def _connect(self) -> None:
        """Find the way that requests would take: by a proxy or not, with which certificates.

        Raises:
            ServiceUnreachable: The file with the certificates isn't there.
        """
        transport = self._client.transport
        request = requests.Request("POST", f"{self._url}/").prepare()
        way = transport.session.merge_environment_settings(request.url, {}, False, transport.verify_ssl, None)
        adapter: Any = transport.session.get_adapter(f"{self._url}/")
        # By a proxy it has to be the whole URL for http, and the path elsewhere.
        self._prefix = adapter.request_url(request, way["proxies"]).removesuffix("/")
        pool = adapter.get_connection_with_tls_context(request, way["verify"], way["proxies"], way["cert"])
        try:
            # Those that come with requests, where nothing else is said.
            adapter.cert_verify(pool, request.url, way["verify"], way["cert"])
        except OSError as exc:
            raise ServiceUnreachable(url=self._url, detail=str(exc)) from exc
        self._pool = pool

    def _move(self, path: str, location: str) -> bool:
        """Go where the service says it is; returns whether that is the same host, which may have the login."""
        here, there = urlsplit(self._url), urlsplit(urljoin(self._url + path, location))
        if (there.scheme not in (here.scheme, "https") or there.hostname != here.hostname) or there.query:
            return False
        if not location or not there.path.endswith(path):
            return False
        self._url = urlunsplit(there).removesuffix(path)
        self._connect()
        return True

    def _call(self, path: str, pieces: Sequence[bytes], headers: Mapping[str, str]) -> Any:
        transport = self._client.transport
        authorizer = self._authorizer()
        shown = authorizer.get_authorization_header() if authorizer is not None else None
        return self._pool.urlopen(
            "POST",
            self._prefix + path,
            body=pieces,
            headers={
                **transport.headers,
                "Content-Type": "application/json",
                "Content-Length": str(sum(map(len, pieces))),
                **({"Authorization": shown} if shown else {}),
                **headers,
            },
            retries=False,
            redirect=False,
            assert_same_host=False,
            timeout=urllib3.Timeout(transport.http_timeout),
        )

    def _authorizer(self) -> Any:
        server = self._client.resource_server
        return self._app.get_authorizer(server) if self._app and server else self._client.authorizer


def _pieces(parts: Sequence[bytes]) -> Iterator[bytes]:
    """The same in few pieces, each of which is a call of the system."""
    short: list[bytes] = []
    for part in parts:
        if len(part) <= _SHORT_BYTES:
            short.append(part)
            continue
        yield b"".join(short)
        short = []
        yield part
    yield b"".join(short)


def never_connected(exc: BaseException) -> bool:
    """Whether urllib3 failed before a byte of the request was sent."""
    if isinstance(exc, urllib3.exceptions.ProxyError):
        exc = exc.original_error
    if isinstance(exc, urllib3.exceptions.SSLError):
        return any(isinstance(cause, ssl.SSLCertVerificationError) for cause in exc.args)
    return isinstance(exc, _NEVER_CONNECTED)


def refusal(http_status: int, http_reason: str, body: bytes) -> RequestRefused:
    """The error that an answer tells."""
    try:
        told = json.loads(body)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        told = {}
    reason = str(told.get("reason") or told.get("message") or http_reason)
    kind = NotAuthorized if http_status in (401, 403) else RequestRefused
    return kind(http_status=http_status, code=str(told.get("code") or "UNKNOWN"), reason=reason)
