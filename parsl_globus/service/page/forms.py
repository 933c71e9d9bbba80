"""What the page's routes share: who looks, cookies, forms, and ways on."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from typing import Literal
from urllib.parse import parse_qs

from fastapi import Request, Response
from fastapi.responses import RedirectResponse

from parsl_globus.service.auth.base import Identity
from parsl_globus.service.page.page import Page
from parsl_globus.service.page.render import HEADERS
from parsl_globus.service.page.session import csrf_token
from parsl_globus.service.routes.http import service_of

#: Of the forms; nothing in them is long.
_FORM_LIMIT_BYTES = 16_384
SESSION_COOKIE = "parsl_globus_session"
FORM_COOKIE = "parsl_globus_form"
_LONGEST_COOKIE = 1000
#: Where the command line sends people.
_COMMAND = re.compile(r"/login/command\?challenge=[A-Za-z0-9_-]{43}")

SameSite = Literal["strict", "lax"]


def page_of(request: Request) -> Page:
    """The page of the application's service."""
    page: Page = request.app.state.service.page
    return page


def is_secure(request: Request) -> bool:
    """Whether the browser speaks TLS; of a proxy that doesn't say so, the setting does."""
    return request.url.scheme == "https" or service_of(request).config.behind_proxy


def _cookie_name(request: Request, name: str) -> str:
    # With this prefix, a browser takes it only over TLS and never from a neighbouring host.
    return f"__Host-{name}" if is_secure(request) else name


def cookie_of(request: Request, name: str) -> str:
    """A cookie of ours; empty without one."""
    return request.cookies.get(_cookie_name(request, name), "")[:_LONGEST_COOKIE]


def set_cookie(
    request: Request, response: Response, name: str, value: str, life_s: int, *, samesite: SameSite = "strict"
) -> None:
    """Have the browser keep a cookie that no script sees and no other site's form is sent with."""
    response.set_cookie(
        _cookie_name(request, name),
        value,
        max_age=life_s,
        path="/",
        secure=is_secure(request),
        httponly=True,
        samesite=samesite,
    )


def drop_cookie(request: Request, response: Response, name: str) -> None:
    """Have the browser forget a cookie."""
    response.delete_cookie(
        _cookie_name(request, name), path="/", secure=is_secure(request), httponly=True, samesite="strict"
    )


async def viewer_of(request: Request) -> Identity | None:
    """Who is logged in to the page."""
    cookie = cookie_of(request, SESSION_COOKIE)
    return await page_of(request).sessions.find(cookie) if cookie else None


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a form; none when it is too long."""
    body = b""
    async for part in request.stream():
        if len(body) <= _FORM_LIMIT_BYTES:
            body += part
    if len(body) > _FORM_LIMIT_BYTES:
        return {}
    return {key: values[0] for key, values in parse_qs(body.decode("utf-8", "replace")).items()}


def is_ours(request: Request, form: Mapping[str, str], cookie_name: str) -> bool:
    """Whether a form was sent from our own page: it shows what belongs to the cookie, and no other site sent it."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin")
    if origin is not None and origin != "null" and origin.partition("://")[2] != request.headers.get("host"):
        return False
    cookie = cookie_of(request, cookie_name)
    return bool(cookie) and hmac.compare_digest(csrf_token(cookie).encode(), form.get("csrf", "").encode())


def safe_target(text: str) -> str:
    """Where to go after the login: a page of ours, whatever the address says."""
    ours = text == "/" or text.startswith("/tasks") or _COMMAND.fullmatch(text) is not None
    return text if ours and "\\" not in text and text.isprintable() and text.isascii() else "/"


def redirect(target: str) -> Response:
    """A way on, by GET."""
    response = RedirectResponse(target, 303)
    response.headers.update({**HEADERS, "Cache-Control": "no-store"})
    return response
