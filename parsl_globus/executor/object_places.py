"""Where large values are kept: a store of ProxyStore's, or the service's own blobs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import urlsplit

from parsl_globus.client.blob_connector import TOKEN_LIFE_S, BlobConnector
from parsl_globus.client.rest import Login
from parsl_globus.errors import ConfigError, MissingExtra, RequestRefused, ServiceError

logger = logging.getLogger(__name__)

#: What stands for the blobs of the service in a configuration.
SERVICE = "service"
#: How long a worker's token is given out, before another one is made: a task may begin so much later than the life of
#: a token less this.
RENEW_S = 86_400.0

#: How a worker makes its connector: path of its class, and its options.
Recipe = tuple[str, dict[str, Any]]

_CONNECTOR_METHODS = ("put", "get", "evict", "exists", "config", "close")


class Place(Protocol):
    """Where values are kept."""

    @property
    def connector(self) -> Any:
        """A connector of ProxyStore's protocol."""

    @property
    def limit_bytes(self) -> int | None:
        """Largest value; `None` if none is known."""

    def recipe(self) -> Recipe:
        """How a worker makes its own connector; may hold secrets. At once: it asks nobody."""

    def is_stale(self) -> bool:
        """Whether `renew` is due."""

    def renew(self) -> None:
        """Make what is given to workers last longer. Raises `ServiceError`."""

    def close(self, *, for_good: bool) -> None:
        """Let go; `for_good` if no worker needs it any more."""


class GivenPlace:
    """A store or connector that the user made, who also closes it.

    Args:
        connector: The connector.
    """

    limit_bytes = None

    def __init__(self, connector: Any) -> None:
        self.connector = connector
        kind = type(connector)
        self._recipe = f"{kind.__module__}.{kind.__qualname__}", connector.config()

    def recipe(self) -> Recipe:
        return self._recipe

    def is_stale(self) -> bool:
        return False

    def renew(self) -> None:
        pass

    def close(self, *, for_good: bool) -> None:
        pass


class ServicePlace:
    """The blobs of a service of one's own. Each token that workers get is made here, for them only.

    Args:
        client: The service and the login.
        url: Where workers reach it; `None` is as here.
        patience_s: How long what fails is tried again, in seconds.

    Raises:
        ExtensionMissing: The service keeps no blobs.
        ServiceError: It doesn't answer, or refuses.
    """

    def __init__(self, client: Login, *, url: str | None, patience_s: float) -> None:
        self._client = client
        self._url = url
        self._patience_s = patience_s
        self._all: list[BlobConnector] = []
        self._made_at = 0.0
        self.renew()

    @property
    def connector(self) -> BlobConnector:
        return self._all[-1]

    @property
    def limit_bytes(self) -> int | None:
        return self.connector.limit_bytes

    def recipe(self) -> Recipe:
        kind = type(self.connector)
        return f"{kind.__module__}.{kind.__qualname__}", self.connector.config()

    def is_stale(self) -> bool:
        return time.monotonic() - self._made_at > RENEW_S

    def renew(self) -> None:
        made = BlobConnector.for_client(
            self._client, url=self._url, token_life_s=TOKEN_LIFE_S, patience_s=self._patience_s
        )
        self._all.append(made)
        self._made_at = time.monotonic()

    def close(self, *, for_good: bool) -> None:
        for connector in self._all:
            connector.close()
            if not for_good:
                continue
            try:
                connector.revoke(self._client)
            except ServiceError as exc:
                if not (isinstance(exc, RequestRefused) and exc.http_status == 404):  # it has ended, or is revoked
                    logger.warning("A token for workers, which is for blobs only, lives on until its end: %s", exc)


def place_of(object_store: Any) -> Callable[[Login, float], Place] | None:
    """What an executor's `object_store` says; nothing is connected to yet.

    Returns:
        What makes the place, given the service's login and how long to be patient, in seconds.

    Raises:
        ConfigError: It is nothing that can be used.
        MissingExtra: ProxyStore is not installed.
    """
    if object_store is None:
        return None
    if isinstance(object_store, str):
        url = None if object_store == SERVICE else _checked_url(object_store)
        return lambda client, patience_s: ServicePlace(client, url=url, patience_s=patience_s)
    connector = getattr(object_store, "connector", object_store)
    is_one = all(callable(getattr(connector, name, None)) for name in _CONNECTOR_METHODS)
    if isinstance(connector, type) or not is_one:
        raise ConfigError(
            f"object_store is a {type(object_store).__name__}; it should be a Store or a connector of ProxyStore, "
            f'"{SERVICE}", or the URL where workers reach the service.'
        )
    try:
        import proxystore  # noqa: F401 - its classes are what comes here, and what workers make
    except ModuleNotFoundError as exc:
        raise MissingExtra(extra="proxystore", module="proxystore") from exc
    return lambda _client, _patience_s: GivenPlace(connector)


def _checked_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"'{text}' is no object_store; it should be \"{SERVICE}\", or a URL of the service.")
    if parts.username or parts.password:
        raise ConfigError(f"The URL of object_store holds a login for {parts.hostname}; leave it out.")
    return text.rstrip("/")
