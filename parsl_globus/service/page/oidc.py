"""The page's addresses for logins at an issuer, and for those of the command line."""

from __future__ import annotations

import logging

from fastapi import APIRouter, Request, Response

from parsl_globus.errors import RequestRefused
from parsl_globus.service.auth.base import Identity
from parsl_globus.service.auth.oidc.attempt import LIFE_S
from parsl_globus.service.page.forms import (
    SESSION_COOKIE,
    cookie_of,
    drop_cookie,
    form_of,
    is_ours,
    is_secure,
    page_of,
    redirect,
    safe_target,
    set_cookie,
    viewer_of,
)
from parsl_globus.service.page.routes import show_login
from parsl_globus.service.page.session import SESSION_LIFE_S, csrf_token
from parsl_globus.service.routes.http import service_of
from parsl_globus.service.routes.openapi import asks, takes_form
from parsl_globus.service.rules.command_login import CODE_LIFE_S, is_challenge

logger = logging.getLogger(__name__)

router = APIRouter()

_ATTEMPT_COOKIE = "parsl_globus_oidc"


def _callback(request: Request) -> str:
    """Where the issuer sends browsers back to: the name by which this one has reached us, which it must know."""
    scheme = "https" if is_secure(request) else "http"
    return f"{scheme}://{request.headers.get('host', '')}/login/oidc/callback"


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else ""


@router.get("/login/oidc", openapi_extra=asks(next="query"))
async def begin(request: Request) -> Response:
    """Go to the issuer."""
    target = safe_target(request.query_params.get("next", "/"))
    try:
        url, attempt = await service_of(request).oidc.begin(target, _callback(request))
    except RequestRefused as exc:
        return show_login(request, target, exc.reason, exc.http_status)
    response = redirect(url)
    # The issuer's site leads back here, and a stricter cookie would not come along.
    set_cookie(request, response, _ATTEMPT_COOKIE, attempt.cookie, LIFE_S, samesite="lax")
    return response


@router.get("/login/oidc/callback", openapi_extra=asks(code="query", state="query", error="query", iss="query"))
async def finish(request: Request) -> Response:
    """Come back from the issuer."""
    try:
        identity, wanted = await service_of(request).oidc.finish(
            cookie_of(request, _ATTEMPT_COOKIE), request.query_params, _callback(request), _address(request)
        )
    except RequestRefused as exc:
        # Quoted: parts of it come from the address.
        logger.warning("A login at the issuer, from %s, was refused: %r", _address(request), exc.reason)
        response = show_login(request, "/", exc.reason, exc.http_status)
        drop_cookie(request, response, _ATTEMPT_COOKIE)
        return response
    page = page_of(request)
    opened = await page.sessions.open_for(identity)
    response = page.renderer.html("onward.html", secure=is_secure(request), target=safe_target(wanted))
    set_cookie(request, response, SESSION_COOKIE, opened.cookie, int(SESSION_LIFE_S))
    drop_cookie(request, response, _ATTEMPT_COOKIE)
    return response


@router.get("/login/command", openapi_extra=asks(challenge="query"))
async def ask_command(request: Request) -> Response:
    """Ask whoever is logged in whether a command may act for them."""
    viewer = await viewer_of(request)
    challenge = request.query_params.get("challenge", "")
    if viewer is None:
        # `quote` would change nothing in a challenge.
        way = f"?next=%2Flogin%2Fcommand%3Fchallenge%3D{challenge}" if is_challenge(challenge) else ""
        return redirect(f"/login{way}")
    if not is_challenge(challenge):
        return _command(request, viewer, problem="Open the address that parsl-globus login has printed.", status=400)
    return _command(request, viewer, challenge=challenge)


@router.post("/login/command", openapi_extra=takes_form("csrf"))
async def allow_command(request: Request) -> Response:
    """Show a code for it."""
    form = await form_of(request)
    viewer = await viewer_of(request)
    challenge = request.query_params.get("challenge", "")
    if viewer is None or not is_challenge(challenge) or not is_ours(request, form, SESSION_COOKIE):
        return redirect("/login")
    code = await service_of(request).command_logins.new_code(viewer.identity_id, challenge)
    return _command(request, viewer, code=code)


def _command(
    request: Request, viewer: Identity, *, challenge: str = "", code: str = "", problem: str = "", status: int = 200
) -> Response:
    return page_of(request).renderer.html(
        "command.html",
        secure=is_secure(request),
        status=status,
        viewer=viewer,
        csrf=csrf_token(cookie_of(request, SESSION_COOKIE)),
        challenge=challenge,
        code=code,
        problem=problem,
        minutes=int(CODE_LIFE_S // 60),
    )
