"""The part of Globus Auth's interface that clients and endpoints call (PROTOCOL.md section 3)."""

from __future__ import annotations

import base64
import binascii
import uuid
from typing import Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Request, Response

from parsl_globus.errors import NotAuthorized
from parsl_globus.service.auth.base import Identity, IssuedToken
from parsl_globus.service.routes.http import caller_of, json_reply, read_body, service_of
from parsl_globus.service.routes.openapi import asks, takes_form
from parsl_globus.wire.documents import COMPUTE_SCOPE

_MOST_IDENTITIES = 100
_LONGEST_FORM_BYTES = 64 * 1024
_MOST_SCOPES = 20
_MOST_FIELDS = 100

router = APIRouter(prefix="/v2")


@router.post("/oauth2/token", openapi_extra=takes_form("grant_type", "scope", "client_id", "client_secret"))
async def token(request: Request) -> Response:
    """Log in with client credentials."""
    form = await _form(request)
    if form is None:
        return _too_long()
    if form.get("grant_type") != ["client_credentials"]:
        return _oauth_error(400, "unsupported_grant_type", "Only the grant type client_credentials is offered here.")
    client_id, secret = _client(request, form)
    scopes = (form.get("scope") or [COMPUTE_SCOPE])[0].split()
    if len(scopes) > _MOST_SCOPES or any(len(scope) > 255 for scope in scopes):
        return _oauth_error(
            400, "invalid_scope", f"At most {_MOST_SCOPES} scopes are taken, of at most 255 characters."
        )
    try:
        issued = await service_of(request).auth.issue(client_id, secret, scopes)
    except NotAuthorized as exc:
        return _oauth_error(exc.http_status, exc.code, exc.reason)
    if not issued:
        return _oauth_error(400, "invalid_scope", "No scope was asked for.")
    reply = _token(issued[0])
    reply["other_tokens"] = [_token(other) for other in issued[1:]]
    response = json_reply(reply)
    response.headers["Cache-Control"] = "no-store"
    return response


@router.post("/oauth2/token/revoke", openapi_extra=takes_form("token", "client_id", "client_secret"))
async def revoke(request: Request) -> Response:
    """Log out: make a token void that the client got (RFC 7009); one that is void already is no error."""
    form = await _form(request)
    if form is None:
        return _too_long()
    if "token" not in form:
        return _oauth_error(400, "invalid_request", "The form names no token.")
    client_id, secret = _client(request, form)
    try:
        await service_of(request).auth.revoke(client_id, secret, form["token"][0])
    except NotAuthorized as exc:
        return _oauth_error(exc.http_status, exc.code, exc.reason)
    return json_reply({"active": False})


async def _form(request: Request) -> dict[str, list[str]] | None:
    body = await read_body(request)
    if len(body) > _LONGEST_FORM_BYTES:
        return None
    try:
        return parse_qs(body.decode("utf-8", "replace"), max_num_fields=_MOST_FIELDS)
    except ValueError:
        return None


def _too_long() -> Response:
    return _oauth_error(413, "invalid_request", f"The form has more than {_LONGEST_FORM_BYTES} bytes or many fields.")


def _client(request: Request, form: dict[str, list[str]]) -> tuple[str, str]:
    kind, _, encoded = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "basic":
        try:
            client_id, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return "", ""
        return client_id, secret
    return form.get("client_id", [""])[0], form.get("client_secret", [""])[0]


def _token(issued: IssuedToken) -> dict[str, Any]:
    return {
        "access_token": issued.access_token,
        "scope": " ".join(issued.scopes),
        "expires_in": issued.expires_in_s,
        "token_type": "Bearer",
        "resource_server": issued.resource_server,
    }


def _oauth_error(http_status: int, code: str, reason: str) -> Response:
    # RFC 6749 section 5.2 names the field; Globus Auth's clients read `errors` as well.
    return json_reply({"error": code, "error_description": reason}, http_status)


@router.get("/oauth2/userinfo")
async def userinfo(request: Request) -> Response:
    """Who the caller is, and all of its identities.

    Globus Auth wants a token for `openid`; ours takes one for the service, too, since both are the same here and a
    client bound by `parsl_globus.connect` has that one only.
    """
    caller = await _caller_of_any_scope(request)
    return json_reply(
        {
            "sub": str(caller.identity_id),
            "name": caller.username,
            "preferred_username": caller.username,
            "email": caller.username,
            "identity_set": [{"sub": str(caller.identity_id), "username": caller.username}],
        }
    )


@router.get("/api/identities", openapi_extra=asks(ids="query"))
async def identities(request: Request) -> Response:
    """Names of identities, for people."""
    await _caller_of_any_scope(request)
    wanted = []
    for text in request.query_params.get("ids", "").split(",")[:_MOST_IDENTITIES]:
        try:
            wanted.append(uuid.UUID(text.strip()))
        except ValueError:
            continue  # Globus Auth leaves out what it doesn't know.
    known = await service_of(request).auth.identities(wanted)
    return json_reply({"identities": [_identity(identity) for identity in known]})


async def _caller_of_any_scope(request: Request) -> Identity:
    try:
        return await caller_of(request, "openid")
    except NotAuthorized as exc:
        if exc.http_status != 403:
            raise
        return await caller_of(request, COMPUTE_SCOPE)


def _identity(identity: Identity) -> dict[str, Any]:
    return {
        "id": str(identity.identity_id),
        "username": identity.username,
        "name": identity.username,
        "email": identity.username,
        "status": "used",
    }
