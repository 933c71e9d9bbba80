"""The part of a self-hosted service that is about people, for the command line."""

from __future__ import annotations

from typing import Any

import requests

from parsl_globus.client.connect import authorizer_for, credentials_for, service_url
from parsl_globus.client.home import Credentials
from parsl_globus.client.rest import network_reason
from parsl_globus.client.trust import ca_file
from parsl_globus.errors import DecodeError, NotAuthorized, RequestRefused, ServiceUnreachable
from parsl_globus.wire.documents import COMPUTE_SCOPE
from parsl_globus.wire.people import ADMIN_SCOPE

_TIMEOUT_S = 30.0


class PeopleClient:
    """Calls as whoever is logged in.

    Args:
        url: The service; `None` for the one that `connect` would take.
        admin: Log in to manage the service; a fixed token is taken as it is.
        credentials: Log in with these.

    Raises:
        ServiceUnreachable: No service is known, or it doesn't answer.
        NotAuthorized: It doesn't accept the credentials, or they are no administrator's.
    """

    def __init__(self, url: str | None = None, *, admin: bool = False, credentials: Credentials | None = None) -> None:
        self.url = service_url(url)
        chosen = credentials or credentials_for(self.url)
        authorizer = authorizer_for(self.url, chosen, ADMIN_SCOPE if admin else COMPUTE_SCOPE)
        self._header = authorizer.get_authorization_header() or ""

    def call(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, query: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """One call; returns the reply.

        Raises:
            ServiceUnreachable: No answer came.
            RequestRefused: The service refused it.
        """
        try:
            reply = requests.request(
                method,
                f"{self.url}{path}",
                params=query,
                json=body,
                headers={"Authorization": self._header},
                timeout=_TIMEOUT_S,
                verify=ca_file(self.url) or True,
            )
        except requests.RequestException as exc:
            raise ServiceUnreachable(url=self.url, detail=network_reason(exc)) from exc
        try:
            document = reply.json()
        except ValueError:
            document = None
        if not reply.ok:
            raise _refusal(reply.status_code, document if isinstance(document, dict) else {})
        if not isinstance(document, dict):
            raise DecodeError(what="reply", size_bytes=len(reply.content), detail="it is no JSON object")
        return document


def _refusal(http_status: int, document: dict[str, Any]) -> RequestRefused:
    kind = NotAuthorized if http_status in (401, 403) else RequestRefused
    code, reason = str(document.get("code", "UNKNOWN")), str(document.get("reason", "it did not say why"))
    return kind(http_status=http_status, code=code, reason=reason)
