"""A `globus_compute_sdk.Client` for a self-hosted service at any URL.

The one module that touches private attributes of the SDK: its `Client` takes no base URL (the environment variable
`GLOBUS_SDK_SERVICE_URL_COMPUTE` is ignored, and the environment `local` means port 5000), so where its REST calls go
is set after it was made, in `web_service_address` and `_compute_web_client`. `tests/unit/client/test_connect.py`
fails when the SDK moves them.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from typing import Any

import globus_sdk
import requests
from globus_compute_sdk import Client
from globus_sdk.transport import RetryConfig

from parsl_globus.client.home import (
    Credentials,
    read_credentials,
    read_login,
    read_service,
    services_with_credentials,
)
from parsl_globus.client.rest import network_reason
from parsl_globus.client.trust import ca_file, trust, trust_on_amqp
from parsl_globus.errors import ConfigError, NotAuthorized, ServiceUnreachable
from parsl_globus.wire.documents import COMPUTE_SCOPE

logger = logging.getLogger(__name__)

_CHECK_TIMEOUT_S = 10.0


def connect(url: str | None = None, *, credentials: Credentials | None = None) -> Client:
    """Return the public SDK's client, bound to a self-hosted service and logged in there.

    Credentials come from `GLOBUS_COMPUTE_CLIENT_ID` and `GLOBUS_COMPUTE_CLIENT_SECRET` when both are set, otherwise
    from what `parsl-globus login` or `service run` left in `PARSL_GLOBUS_HOME`. The token is renewed when it
    expires, unless it was a token that was given at the login.

    A certificate of an https service is checked as `REQUESTS_CA_BUNDLE` says; `PARSL_GLOBUS_CA_FILE`, or `--ca` at the
    login, names further certificates for it and its broker.

    Example::

        import parsl_globus
        from globus_compute_sdk import Executor

        with Executor(endpoint_id, client=parsl_globus.connect()) as executor:
            print(executor.submit(sum, [1, 2]).result())

    Args:
        url: Base URL of the service. `None` takes `PARSL_GLOBUS_SERVICE_URL`, otherwise the service that was logged in
            to, otherwise the one that runs on this machine.
        credentials: Log in with these, wherever others are.

    Raises:
        ServiceUnreachable: No service is known, or it doesn't answer.
        NotAuthorized: It doesn't accept the credentials, or there are none.
    """
    base_url = service_url(url)
    authorizer = authorizer_for(base_url, credentials or credentials_for(base_url))
    trust_on_amqp(base_url)
    return _bind(base_url, authorizer)


def service_url(url: str | None = None) -> str:
    """The base URL `connect` would use for `url`.

    Raises:
        ServiceUnreachable: No service is known.
        ConfigError: It is no http or https URL.
    """
    chosen = url or os.environ.get("PARSL_GLOBUS_SERVICE_URL") or read_login()
    if not chosen:
        record = read_service()
        if record is None:
            raise ServiceUnreachable(url=None)
        chosen = record.url
    if not chosen.startswith(("http://", "https://")):
        raise ConfigError(f"'{chosen}' is not the URL of a service; it should look like http://127.0.0.1:5000.")
    return chosen.rstrip("/")


def default_client() -> Client:
    """The client for whoever names none: of a service of one's own if one is known here, else Globus's hosted one.

    Raises:
        ServiceUnreachable: The service of one's own doesn't answer.
        NotAuthorized: It doesn't accept the credentials, or there are none.
    """
    if os.environ.get("PARSL_GLOBUS_SERVICE_URL") or read_login() or read_service() is not None:
        return connect()
    earlier: list[str] = []
    with suppress(ConfigError):  # Globus's service needs nothing of that file
        earlier = services_with_credentials()
    if earlier:
        logger.warning(
            "No service runs here, and none was logged in to: Globus's hosted one is used. If you mean %s, "
            "start it with 'parsl-globus service start', or log in with 'parsl-globus login --url URL'.",
            " or ".join(earlier),
        )
    return Client(do_version_check=False)  # the SDK's own login, when the first call is made


def is_self_hosted(client: Client) -> bool:
    """Whether `client` was made by `connect`."""
    return isinstance(client.authorizer, (globus_sdk.ClientCredentialsAuthorizer, _FixedToken))


class _FixedToken(globus_sdk.AccessTokenAuthorizer):
    """A token that was given at a login."""


def credentials_for(url: str) -> Credentials:
    """How to log in to the service at `url`.

    Raises:
        NotAuthorized: That isn't known here.
        ServiceUnreachable: Nor does it answer.
    """
    client_id = os.environ.get("GLOBUS_COMPUTE_CLIENT_ID")
    secret = os.environ.get("GLOBUS_COMPUTE_CLIENT_SECRET")
    if client_id and secret:
        return Credentials(client_id=client_id, client_secret=secret)
    known = read_credentials(url)
    if known is None:
        _check_answers(url)
        raise NotAuthorized(
            http_status=401,
            code="NO_CREDENTIALS",
            reason=f"there are no credentials for {url} here; log in with 'parsl-globus login', set "
            "GLOBUS_COMPUTE_CLIENT_ID and GLOBUS_COMPUTE_CLIENT_SECRET, or run this where the service was started",
        )
    return known


def _check_answers(url: str) -> None:
    """Nobody needs credentials for a service that isn't there."""
    try:
        requests.get(f"{url}/v2/version", timeout=_CHECK_TIMEOUT_S, verify=ca_file(url) or True)
    except requests.RequestException as exc:
        raise ServiceUnreachable(url=url, detail=network_reason(exc)) from exc


def authorizer_for(
    url: str, credentials: Credentials, scope: str = COMPUTE_SCOPE
) -> globus_sdk.authorizers.GlobusAuthorizer:
    """Log in.

    Args:
        url: The service.
        credentials: A token among them is taken as it is, whatever it is for.
        scope: What the token is to be for.

    Raises:
        ServiceUnreachable: The service doesn't answer.
        NotAuthorized: It doesn't accept the credentials.
    """
    if credentials.token is not None:
        _check_token(url, credentials.token)
        return _FixedToken(credentials.token)
    auth = globus_sdk.ConfidentialAppAuthClient(
        credentials.client_id,
        credentials.client_secret,
        base_url=url,
        # Whoever renews a token in the middle of a call has a retry policy of its own.
        retry_config=RetryConfig(max_retries=0),
    )
    trust(auth, url)
    try:
        return globus_sdk.ClientCredentialsAuthorizer(auth, scope)
    except globus_sdk.NetworkError as exc:
        raise ServiceUnreachable(url=url, detail=network_reason(exc.underlying_exception)) from exc
    except globus_sdk.GlobusAPIError as exc:
        if exc.http_status in (400, 401, 403):
            raise _login_refused(exc) from exc
        raise ServiceUnreachable(url=url, detail=f"it answered with HTTP {exc.http_status}") from exc
    except (KeyError, ValueError) as exc:
        raise ServiceUnreachable(url=url, detail="what answers there is no such service") from exc


def _login_refused(exc: globus_sdk.GlobusAPIError) -> NotAuthorized:
    body = exc.raw_json if isinstance(exc.raw_json, dict) else {}
    code = str(body.get("error") or exc.code or "invalid_client")
    said = str(body.get("error_description") or exc.message or exc.http_reason)
    reason = said if code == "access_denied" else f"it does not accept these client credentials ({said})"
    return NotAuthorized(http_status=exc.http_status, code=code, reason=reason.rstrip("."))


def _check_token(url: str, token: str) -> None:
    try:
        reply = requests.get(
            f"{url}/v2/oauth2/userinfo",
            headers={"Authorization": f"Bearer {token}"},
            timeout=_CHECK_TIMEOUT_S,
            verify=ca_file(url) or True,
        )
    except requests.RequestException as exc:
        raise ServiceUnreachable(url=url, detail=network_reason(exc)) from exc
    # A token for other scopes is a good one; who needs them hears of it when they are missing.
    if reply.status_code == 401:
        raise NotAuthorized(
            http_status=401,
            code="USER_UNAUTHENTICATED",
            reason="it does not accept this token; it is wrong, was revoked or has expired",
        )
    if reply.status_code not in (200, 403):
        raise ServiceUnreachable(url=url, detail=f"it answered with HTTP {reply.status_code}")


def _bind(url: str, authorizer: globus_sdk.authorizers.GlobusAuthorizer) -> Client:
    client = Client(authorizer=authorizer, do_version_check=False)
    web_client = client._compute_web_client
    client.web_service_address = url
    bound: Any = type(web_client)(base_url=url, authorizer=authorizer)
    for part in (bound.v2, bound.v3):
        trust(part, url)
    client._compute_web_client = bound
    return client
