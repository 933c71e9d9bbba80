"""A connector of ProxyStore over a service's own blobs (PROTOCOL.md section 10): no further server is needed.

It follows ProxyStore's protocol without importing ProxyStore, so that a worker needs this package only.
"""

from __future__ import annotations

import io
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple, TypeVar, cast

import globus_sdk

from parsl_globus import jitter
from parsl_globus.client.rest import Login, ServiceClient
from parsl_globus.errors import DecodeError, ExtensionMissing, ParslGlobusError, RequestRefused
from parsl_globus.wire.documents import EXTENSION_BLOBS

_T = TypeVar("_T")

#: How long a worker's token is good for: as long as blobs are kept, unless the service was told otherwise.
TOKEN_LIFE_S = 14 * 86_400.0
#: How long what may succeed later is tried again. Many workers take turns at a service, and it may be started anew.
PATIENCE_S = 600.0
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 10.0
_BUFFER_BYTES = 1024 * 1024


class BlobKey(NamedTuple):
    """Where a value is.

    Attributes:
        blob_id: Id of the blob.
    """

    blob_id: str


class _Secret(str):
    """A text that isn't shown where its owner is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


@dataclass(frozen=True)
class _TokenLogin:
    """A token that was given out for this service."""

    web_service_address: str
    authorizer: globus_sdk.AccessTokenAuthorizer
    app: None = None


class BlobConnector:
    """Keeps values as blobs of a self-hosted service; a `proxystore.connectors.protocols.Connector`, and deferrable.

    Values go through memory in pieces where a file is given or taken (`put_file`, `get_file`). Each ends after the
    service's `--blob-life` if nobody evicts it before. Thread-safe.

    `config` holds the token: whoever has it can put blobs in its user's name, and get and delete those whose ids they
    know, until it ends; nothing else.

    Every call raises `ServiceUnreachable` and `RequestRefused` once it has been tried for `PATIENCE_S`, or at once if
    that can't help.

    Args:
        url: Base URL of the service.
        token: For the scope `blobs`; see `for_client`.
    """

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self._token = _Secret(token)
        self._client = ServiceClient(_TokenLogin(url, globus_sdk.AccessTokenAuthorizer(token)))
        self._far_url = url
        self._token_id: str | None = None
        self._patience_s = PATIENCE_S
        self._closed = threading.Event()
        #: Largest value, or `None` when it isn't known.
        self.limit_bytes: int | None = None

    @classmethod
    def for_client(
        cls,
        client: Login,
        *,
        url: str | None = None,
        token_life_s: float = TOKEN_LIFE_S,
        patience_s: float = PATIENCE_S,
    ) -> BlobConnector:
        """A connector with a token of its own.

        Args:
            client: The service and the login, as from `parsl_globus.connect`.
            url: Where workers reach the service; `None` is as here.
            token_life_s: How long workers can use it, in seconds.
            patience_s: How long what fails is tried again here, in seconds.

        Raises:
            ExtensionMissing: The service keeps no blobs.
        """
        with closing(ServiceClient(client)) as service:
            version = service.version()
            if EXTENSION_BLOBS not in version.extensions:
                detail = "no values can be kept there. Give an object_store of ProxyStore's instead."
                raise ExtensionMissing(extension=EXTENSION_BLOBS, url=service.url, detail=detail)
            made = service.new_blob_token(token_life_s)
            connector = cls(service.url, made.token)
        connector._far_url = url or connector.url
        connector._token_id = made.token_id
        connector._patience_s = patience_s
        connector.limit_bytes = version.blob_limit_bytes
        return connector

    def __repr__(self) -> str:
        return f"{type(self).__name__}(url={self.url!r}, token=***)"

    def revoke(self, client: Login) -> None:
        """End the token that `for_client` made; workers can't use it any more."""
        if self._token_id is None:
            return
        with closing(ServiceClient(client, max_retries=0)) as service:
            service.revoke_token(self._token_id)
        self._token_id = None

    def close(self) -> None:
        """Close connections, and try nothing again any more; what was put stays. Calling it twice is harmless."""
        self._closed.set()
        self._client.close()

    def config(self) -> dict[str, Any]:
        """What makes this connector on a worker, a secret among it."""
        return {"url": self._far_url, "token": self._token}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> BlobConnector:
        """The connector that `config` tells of."""
        return cls(**config)

    # ---- values -------------------------------------------------------------------------------------------------

    def put(self, obj: Any) -> BlobKey:
        """Keep bytes, or what is like them."""
        return self.put_file(cast(BinaryIO, _Bytes(obj)))

    def put_batch(self, objs: Sequence[Any]) -> list[BlobKey]:
        """Keep several values."""
        return [self.put(obj) for obj in objs]

    def put_file(self, file: BinaryIO) -> BlobKey:
        """Keep what is left to read of a file that can be sought in; it is never in memory as a whole."""
        key = self.new_key()
        self._put(key, file)
        return key

    def new_key(self, obj: Any = None) -> BlobKey:  # noqa: ARG002 - ProxyStore's signature
        """A key for `set`."""
        return BlobKey(str(uuid.uuid4()))

    def set(self, key: BlobKey, obj: Any) -> None:
        """Keep bytes under a key of `new_key`, once.

        Raises:
            RequestRefused: There is another value already (HTTP 409).
        """
        self._put(key, cast(BinaryIO, _Bytes(obj)))

    def _put(self, key: BlobKey, file: BinaryIO) -> None:
        start = file.tell()

        def put() -> None:
            file.seek(start)
            self._client.put_blob(file, uuid.UUID(key.blob_id))

        self._patiently(put)

    def get(self, key: BlobKey) -> bytes | None:
        """The bytes of a value; `None` if there is none."""

        def get() -> bytes:
            return b"".join(self._client.get_blob(uuid.UUID(key.blob_id)))

        return self._if_there(get)

    def get_batch(self, keys: Sequence[BlobKey]) -> list[bytes | None]:
        """Several values."""
        return [self.get(key) for key in keys]

    def get_file(self, key: BlobKey) -> BinaryIO | None:
        """A value as a file that is read once, to its end: only there is known whether all is as it was put.

        Reading it raises `DecodeError` when it isn't, and `ServiceUnreachable` when it breaks off.

        Returns:
            `None` if there is no such value.
        """

        def get() -> BinaryIO:
            pieces = self._client.get_blob(uuid.UUID(key.blob_id))
            first = next(pieces, b"")
            return io.BufferedReader(_Pieces(first, pieces), _BUFFER_BYTES)

        return self._if_there(get)

    def exists(self, key: BlobKey) -> bool:
        """Whether there is such a value."""
        file = self.get_file(key)
        if file is not None:
            file.close()
        return file is not None

    def evict(self, key: BlobKey) -> None:
        """Forget a value; one that isn't there is no error."""
        self._if_there(lambda: self._client.delete_blob(uuid.UUID(key.blob_id)))

    # ---- tries --------------------------------------------------------------------------------------------------

    def _if_there(self, call: Callable[[], _T]) -> _T | None:
        try:
            return self._patiently(call)
        except RequestRefused as exc:
            if exc.http_status == 404:
                return None
            raise

    def _patiently(self, call: Callable[[], _T]) -> _T:
        """Do what may be done twice, until it succeeds or patience ends."""
        until = time.monotonic() + self._patience_s
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return call()
            except ParslGlobusError as exc:
                if not may_help_again(exc) or time.monotonic() + pause_s > until:
                    raise
                if self._closed.wait(jitter.around(pause_s)):
                    raise
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def may_help_again(exc: ParslGlobusError) -> bool:
    """Whether a transfer that ended like this may succeed when it is done once more."""
    if isinstance(exc, RequestRefused):
        return exc.http_status in (408, 429, 502, 503, 504)
    return exc.transient or isinstance(exc, DecodeError)


class _Bytes(io.RawIOBase):
    """Bytes in memory as a file, without a copy of all of them."""

    def __init__(self, obj: Any) -> None:
        self._view = memoryview(obj).cast("B")
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._view[self._place : self._place + len(buffer)]
        buffer[: len(piece)] = piece
        self._place += len(piece)
        return len(piece)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: len(self._view)}[whence]
        self._place = max(0, base + offset)
        return self._place

    def tell(self) -> int:
        return self._place


class _Pieces(io.RawIOBase):
    """Pieces that come one after another, as a file."""

    def __init__(self, first: bytes, pieces: Iterator[bytes]) -> None:
        self._piece = memoryview(first)
        self._pieces = pieces

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._piece:
            self._piece = memoryview(next(self._pieces, b""))
        count = min(len(buffer), len(self._piece))
        buffer[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        return count

    def close(self) -> None:
        if not self.closed:
            # Of a generator, which lets go of its connection.
            getattr(self._pieces, "close", lambda: None)()
        super().close()
