"""Blobs of a service with the extension `blobs` (PROTOCOL.md section 10): in and out as streams."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

import globus_sdk
import requests

from parsl_globus.errors import DecodeError, RequestRefused

if TYPE_CHECKING:
    from parsl_globus.client.rest import ServiceVersion

#: What is read from the network at once.
_PIECE_BYTES = 256 * 1024
#: From here on, whether the service takes so much is asked before it is sent: it may hang up on one that is larger.
_ASK_FIRST_BYTES = 32 * 1024 * 1024
#: How often a call is made once more that the service had no time for, or did not answer.
_RETRIES = 5
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 10.0
_BUSY = (429, 502, 503, 504)
#: Of these, those of a proxy, or of a service that may have done what was asked for before it failed.
_UNCERTAIN = (502, 503, 504)


@dataclass(frozen=True)
class BlobToken:
    """A token that is good for blobs only.

    Attributes:
        token: What to show.
        token_id: By which it can be revoked.
        expires_s: When it ends, in seconds since the epoch.
    """

    token: str = field(repr=False)
    token_id: str
    expires_s: float


class BlobCalls:
    """A part of `ServiceClient`, whose login and connections it uses; its errors are raised here as well."""

    if TYPE_CHECKING:
        url: str
        _v3: globus_sdk.ComputeClientV3

        def version(self) -> ServiceVersion: ...

        def _mapped(self, what: str) -> AbstractContextManager[None]: ...

    def put_blob(self, data: bytes | BinaryIO, blob_id: uuid.UUID | None = None) -> uuid.UUID:
        """Have the service keep a value; it can't be changed afterwards.

        Args:
            data: The value, or a file that is open for reading bytes, which is sent from its position to its end and
                never held as a whole.
            blob_id: Its id. By default a new one, which nobody can guess: whoever runs an endpoint that the caller
                has used can read the blob if they know it.

        Returns:
            The blob's id.

        Raises:
            RequestRefused: The value is too large (HTTP 413), or another blob has this id (409).
        """
        blob_id = blob_id or uuid.uuid4()
        size_bytes = _left_bytes(data)
        if size_bytes is not None and size_bytes > _ASK_FIRST_BYTES:
            limit_bytes = self.version().blob_limit_bytes
            if limit_bytes is not None and size_bytes > limit_bytes:
                raise RequestRefused(
                    http_status=413,
                    code="BLOB_TOO_LARGE",
                    reason=f"The blob has {size_bytes} bytes, and the service takes {limit_bytes} at most.",
                )
        with self._mapped("answer to a blob"):
            return uuid.UUID(self._blob_call("PUT", blob_id, data).json()["blob_id"])

    def get_blob(self, blob_id: uuid.UUID) -> Iterator[bytes]:
        """The content of a blob, in pieces as they come; `b"".join(...)` has it as one.

        All errors come while it is read; one may come after some pieces, and there is no more to be read then.

        Raises:
            RequestRefused: There is no such blob, or it isn't for the caller (HTTP 404).
            DecodeError: What came is not what was put.
        """
        with self._mapped("blob"):
            reply = self._blob_call("GET", blob_id, stream=True)
        try:
            digest = hashlib.sha256()
            size_bytes = 0
            pieces = reply.iter_content(_PIECE_BYTES)
            while True:
                with self._mapped("blob"):
                    piece = _next(pieces)
                if piece is None:
                    break
                digest.update(piece)
                size_bytes += len(piece)
                yield piece
            if reply.headers.get("ETag", "").strip('"') != digest.hexdigest():
                detail = "its checksum is not the one that the service names"
                raise DecodeError(what="blob", size_bytes=size_bytes, detail=detail)
        finally:
            reply.close()

    def delete_blob(self, blob_id: uuid.UUID) -> None:
        """Have the service forget a blob of the caller's.

        Raises:
            RequestRefused: There is no such blob (HTTP 404).
        """
        with self._mapped("deletion"):
            self._blob_call("DELETE", blob_id)

    def new_blob_token(self, life_s: float) -> BlobToken:
        """A token in the caller's name that puts, gets and deletes blobs and does nothing else, for programs elsewhere.

        Args:
            life_s: How long it is good for, in seconds.
        """
        with self._mapped("token"):
            made = self._v3.post("/v3/tokens", data={"scopes": ["blobs"], "life_s": life_s}).data
            return BlobToken(str(made["access_token"]), str(made["token_id"]), float(made["expires_s"]))

    def revoke_token(self, token_id: str) -> None:
        """End a token of the caller's.

        Raises:
            RequestRefused: There is none (HTTP 404).
        """
        with self._mapped("answer to a revocation"):
            self._v3.delete(f"/v3/tokens/{token_id}")

    def _blob_call(
        self, method: str, blob_id: uuid.UUID, data: bytes | BinaryIO | None = None, *, stream: bool = False
    ) -> requests.Response:
        """One call; again while that may help, as doing any of them twice is as good as once."""
        start = data.tell() if data is not None and not isinstance(data, bytes) and data.seekable() else None
        again = data is None or isinstance(data, bytes) or start is not None
        pause_s = _FIRST_PAUSE_S
        renewed = lost = False
        for attempt in range(_RETRIES + 1):
            last = attempt == _RETRIES or not again
            if start is not None and attempt and not isinstance(data, bytes) and data is not None:
                data.seek(start)
            try:
                reply = self._blob_request(method, blob_id, data, stream)
            except requests.RequestException as exc:
                lost = True
                if last:
                    raise globus_sdk.NetworkError(f"{method} of a blob", exc) from exc
            else:
                if reply.ok:
                    return reply
                if reply.status_code == 401 and not renewed and not last and self._renew():
                    renewed = True
                    reply.close()
                    continue
                if reply.status_code not in _BUSY or last:
                    if method == "DELETE" and reply.status_code == 404 and lost:
                        return reply  # an earlier one was done, and its answer was lost
                    raise globus_sdk.GlobusAPIError(reply)
                lost = lost or reply.status_code in _UNCERTAIN
                pause_s = max(pause_s, _asked_pause_s(reply))
                reply.close()
            time.sleep(min(pause_s, _LONGEST_PAUSE_S))
            pause_s *= 2
        raise AssertionError("unreachable")

    def _blob_request(self, method: str, blob_id: uuid.UUID, data: Any, stream: bool) -> requests.Response:
        transport = self._v3.transport
        # globus_sdk takes no body that is a stream. Without Accept-Encoding, nothing on the way compresses it.
        headers = {"Content-Type": "application/octet-stream", "Accept-Encoding": "identity"}
        authorization = self._v3.authorizer.get_authorization_header() if self._v3.authorizer else None
        if authorization:
            headers["Authorization"] = authorization
        if data is not None and not isinstance(data, bytes) and not data.seekable():
            # requests would take it line by line, however long its lines are.
            data = iter(partial(data.read, _PIECE_BYTES), b"")
        return transport.session.request(
            method,
            f"{self.url.rstrip('/')}/v3/blobs/{blob_id}",
            data=data,
            headers=headers,
            timeout=transport.http_timeout,
            verify=transport.verify_ssl,
            allow_redirects=False,
            stream=stream,
            # A ~/.netrc would go before the header.
            auth=lambda request: request,
        )

    def _renew(self) -> bool:
        return self._v3.authorizer is not None and self._v3.authorizer.handle_missing_authorization()


def _left_bytes(data: bytes | BinaryIO) -> int | None:
    """How much will be sent; `None` for a pipe, which can't tell."""
    if isinstance(data, bytes):
        return len(data)
    if not data.seekable():
        return None
    here = data.tell()
    end = data.seek(0, 2)
    data.seek(here)
    return end - here


def _next(pieces: Iterator[bytes]) -> bytes | None:
    try:
        return next(pieces, None)
    except requests.RequestException as exc:
        raise globus_sdk.NetworkError("a blob broke off", exc) from exc


def _asked_pause_s(reply: requests.Response) -> float:
    try:
        return float(reply.headers.get("Retry-After", "0"))
    except ValueError:
        return 0.0
