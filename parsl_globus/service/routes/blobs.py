"""REST for blobs (extension `blobs`): in and out as streams."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator

from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from parsl_globus.errors import NotAuthorized, RequestRefused
from parsl_globus.service.auth.base import Identity
from parsl_globus.service.routes.http import caller_of, error_reply, json_reply, path_id, service_of
from parsl_globus.service.routes.openapi import takes_bytes
from parsl_globus.service.rules import refusals
from parsl_globus.service.rules.blobs import BlobLost, BlobRules
from parsl_globus.service.store.blobs import BlobRecord
from parsl_globus.wire.people import BLOBS_SCOPE

logger = logging.getLogger(__name__)

#: A client that neither sends nor takes anything for so long is given up.
_STALL_S = 60.0
#: So much of what is refused is read on without being kept, and for so long, as clients read no answer before they have
#: sent all; after that, the connection is closed instead.
_DRAIN_BYTES = 64 * 1024 * 1024
_DRAIN_S = 60.0
_TYPE = "application/octet-stream"

router = APIRouter()


@router.put("/v3/blobs/{blob_id}", openapi_extra=takes_bytes(_TYPE))
async def put(request: Request) -> Response:
    """Keep a blob."""
    caller = await _caller(request)
    blob_id = path_id(request, "blob_id")
    body = _pieces(request)
    try:
        try:
            declared = request.headers.get("content-length")
            declared_bytes = int(declared) if declared is not None else None  # the server has seen that it is a number
            record = await service_of(request).blobs.put(caller, blob_id, body, declared_bytes=declared_bytes)
        except RequestRefused as exc:
            if exc.http_status == 408 or await _drained(body):
                raise
            reply = error_reply(exc.http_status, exc.code, exc.reason)
            reply.headers["Connection"] = "close"
            return reply
    except ClientDisconnect:
        logger.info("A client went away before it had sent all of blob %s; nothing of it is kept", blob_id)
        return error_reply(400, "UPLOAD_BROKEN_OFF", "The request ended before the blob did.")  # nobody reads it
    return json_reply(_described(record))


@router.get("/v3/blobs/{blob_id}")
async def get(request: Request) -> Response:
    """The content of a blob."""
    caller = await _caller(request)
    blobs = service_of(request).blobs
    record = await blobs.get(caller, path_id(request, "blob_id"))
    return _BlobReply(blobs, caller, record)


@router.delete("/v3/blobs/{blob_id}")
async def delete(request: Request) -> Response:
    """Remove a blob."""
    caller = await _caller(request)
    await service_of(request).blobs.delete(caller, path_id(request, "blob_id"))
    return json_reply({"result": 200})


async def _caller(request: Request) -> Identity:
    try:
        return await caller_of(request)
    except NotAuthorized as exc:
        if exc.http_status != 403:
            raise
        return await caller_of(request, BLOBS_SCOPE)


def _described(record: BlobRecord) -> dict[str, str | int | float]:
    return {
        "blob_id": str(record.blob_id),
        "size_bytes": record.size_bytes,
        "sha256": record.sha256,
        "expires_s": record.expires_s,
    }


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    """The request's body as it comes. Raises `ClientDisconnect` and `RequestRefused` when it doesn't."""
    stream = request.stream()
    while True:
        try:
            yield await asyncio.wait_for(stream.__anext__(), _STALL_S)
        except StopAsyncIteration:
            return
        except asyncio.TimeoutError:
            raise refusals.upload_stalled(_STALL_S) from None


async def _drained(body: AsyncIterator[bytes]) -> bool:
    """Read on to the end; whether it was reached."""
    deadline_s = time.monotonic() + _DRAIN_S
    size_bytes = 0
    try:
        async for piece in body:
            size_bytes += len(piece)
            if size_bytes > _DRAIN_BYTES or time.monotonic() > deadline_s:
                return False
    except RequestRefused:
        return False
    return True


class _BlobReply(Response):
    """Streams a blob.

    Not Starlette's own: this one waits for the caller's turn before it answers, and gives up a client that takes
    nothing, which would hold a part in memory for as long as it likes.
    """

    def __init__(self, blobs: BlobRules, caller: Identity, record: BlobRecord) -> None:
        headers = {
            "Content-Length": str(record.size_bytes),
            "ETag": f'"{record.sha256}"',
            # Whatever it is, no browser is to show it as a page of this service.
            "Content-Disposition": "attachment",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "private, no-store",
        }
        super().__init__(None, 200, headers, _TYPE)
        self._blobs = blobs
        self._caller = caller
        self._record = record

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        async with self._blobs.transfer(self._caller):
            gone = asyncio.create_task(_wait_gone(receive))
            try:
                await self._send(send, gone)
            except (asyncio.TimeoutError, BlobLost) as exc:
                # The server breaks the connection: the client has got less than it was promised, and sees that.
                logger.warning("Blob %s was not sent to its end: %r", self._record.blob_id, exc)
            finally:
                gone.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await gone

    async def _send(self, send: Send, gone: asyncio.Task[None]) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for part in self._blobs.parts(self._record):
            if gone.done():
                return
            await asyncio.wait_for(send({"type": "http.response.body", "body": part, "more_body": True}), _STALL_S)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _wait_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
