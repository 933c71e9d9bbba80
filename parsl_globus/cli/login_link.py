"""A link that logs the service's owner in to its page, once."""

from __future__ import annotations

import base64
import json
from typing import Any

from parsl_globus.errors import ConfigError, ServiceUnreachable

_TIMEOUT_S = 10.0
_REFUSED = (401, 403)


def new_login_link(url: str) -> str:
    """Ask the service at `url` for a link, with the credentials that its owner has here.

    Its secret part is behind the `#`, which browsers send to nobody; it works once, and for minutes.

    Raises:
        ConfigError: There are no credentials here, or they are refused.
        ServiceUnreachable: It doesn't answer.
    """
    from parsl_globus.client.home import read_credentials

    credentials = read_credentials(url)
    if credentials is None:
        raise ConfigError(f"There are no credentials for the service at {url} here. Log in, or start it as this user.")
    pair = f"{credentials.client_id}:{credentials.client_secret}".encode()
    basic = "Basic " + base64.b64encode(pair).decode()
    token = _post(url, "/v2/oauth2/token", basic, b"grant_type=client_credentials")["access_token"]
    return url.rstrip("/") + str(_post(url, "/login/link", f"Bearer {token}", b"")["path"])


def _post(url: str, path: str, authorization: str, body: bytes) -> dict[str, Any]:
    import os
    import ssl
    import urllib.error
    import urllib.request

    from parsl_globus.client.trust import ca_file

    context = ssl.create_default_context(cafile=ca_file(url) or os.environ.get("REQUESTS_CA_BUNDLE") or None)
    # Past any proxy of the environment: nobody else is to see the link.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    headers = {"Authorization": authorization, "Content-Type": "application/x-www-form-urlencoded"}
    request = urllib.request.Request(url.rstrip("/") + path, body, headers, method="POST")
    try:
        with opener.open(request, timeout=_TIMEOUT_S) as response:
            reply: dict[str, Any] = json.loads(response.read())
    except urllib.error.HTTPError as exc:
        exc.close()
        if exc.code in _REFUSED:
            raise ConfigError(f"The service at {url} refuses the credentials that are kept for it here.") from exc
        raise ServiceUnreachable(url=url, detail=f"HTTP status {exc.code} at {path}") from exc
    except (OSError, ValueError) as exc:
        raise ServiceUnreachable(url=url, detail=str(getattr(exc, "reason", exc))) from exc
    return reply
