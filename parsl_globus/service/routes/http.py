"""What all routes share: bodies in, documents and errors out, and who calls."""

from __future__ import annotations

import json
import logging
import uuid
from typing import Any, TypeVar

from fastapi import Request, Response
from pydantic import ValidationError

from parsl_globus.errors import NotAuthorized, RequestRefused
from parsl_globus.service.assembly import Service
from parsl_globus.service.auth.base import Identity
from parsl_globus.service.rules import refusals
from parsl_globus.wire.documents import COMPUTE_SCOPE, Document

logger = logging.getLogger(__name__)

_D = TypeVar("_D", bound=Document)

#: A body over the limit is read to its end without being kept, as clients read no answer before they have sent all;
#: over this many times the limit, the connection is closed instead.
_DRAIN_FACTOR = 8


def service_of(request: Request) -> Service:
    """The service that the application was made for."""
    service: Service = request.app.state.service
    return service


async def read_body(request: Request) -> bytes:
    """The request's body.

    Raises:
        RequestRefused: It is over the limit. No more than the limit is ever held in memory.
    """
    limit = service_of(request).config.payload_limit_bytes
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size <= limit:
            parts.append(part)
        else:
            parts.clear()
        if size > limit * _DRAIN_FACTOR:
            break
    if size > limit:
        raise refusals.too_large(limit)
    return b"".join(parts)


async def read_document(request: Request, model: type[_D]) -> _D:
    """The request's body as a document.

    Raises:
        RequestRefused: It is too large, or isn't one.
    """
    body = await read_body(request)
    try:
        return model.model_validate_json(body)
    except ValidationError as exc:
        raise refusals.invalid(_first_problem(exc)) from exc


def _first_problem(exc: ValidationError) -> str:
    # Without the input: it may be megabytes, or hold a secret.
    problems = exc.errors(include_url=False, include_context=False, include_input=False)
    place = ".".join(str(part) for part in problems[0]["loc"]) or "the body"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"The request can't be read: {place[:200]}: {problems[0]['msg'][:500].rstrip('.')}{more}."


async def caller_of(request: Request, scope: str = COMPUTE_SCOPE) -> Identity:
    """Who calls.

    Raises:
        NotAuthorized: There is no good token for `scope`.
        TooManyRequests: There were too many requests of this caller.
    """
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not token:
        raise NotAuthorized(
            http_status=401,
            code="USER_UNAUTHENTICATED",
            reason="This needs an access token in the header Authorization; log in first.",
        )
    service = service_of(request)
    caller = await service.auth.verify(token.strip(), scope)
    service.rates.count(caller.identity_id)
    return caller


def path_id(request: Request, name: str) -> uuid.UUID:
    """An id out of the path.

    Raises:
        RequestRefused: It is no UUID.
    """
    text = request.path_params[name]
    try:
        return uuid.UUID(text)
    except ValueError as exc:
        raise RequestRefused(
            http_status=400, code="INVALID_UUID", reason=f"'{str(text)[:100]}' in the address is not a UUID."
        ) from exc


def json_reply(content: Any, http_status: int = 200) -> Response:
    """A reply of plain values."""
    return Response(json.dumps(content), http_status, media_type="application/json")


def document_reply(document: Document, http_status: int = 200) -> Response:
    """A reply of a document, without what it doesn't say."""
    text = document.model_dump_json(exclude_none=True, by_alias=True)
    return Response(text, http_status, media_type="application/json")


def error_reply(http_status: int, code: str, reason: str) -> Response:
    """An error in the shape that clients expect (PROTOCOL.md section 4)."""
    content = {
        "code": code,
        "reason": reason,
        # What globus_sdk shows its user; without it, the HTTP status's name is all they see.
        "message": reason,
        "http_status_code": http_status,
        "status": "Failed",
        "error_args": [],
    }
    response = json_reply(content, http_status)
    if http_status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if http_status in (408, 413):
        # What is left of the body, if any, is not worth reading.
        response.headers["Connection"] = "close"
    return response
