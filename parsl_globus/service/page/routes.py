"""The page's addresses: parse, ask for a view, draw it."""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, quote

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from parsl_globus.errors import NotAuthorized, RequestRefused
from parsl_globus.service.auth.base import Identity
from parsl_globus.service.page.forms import (
    FORM_COOKIE,
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
from parsl_globus.service.page.live import Fragment, TooManyStreams
from parsl_globus.service.page.metrics import CONTENT_TYPE, is_local
from parsl_globus.service.page.page import Page
from parsl_globus.service.page.render import HEADERS, marks, markup, read_marks
from parsl_globus.service.page.session import LINK_LIFE_S, SESSION_LIFE_S, Opened, csrf_token
from parsl_globus.service.routes.http import caller_of, json_reply, service_of
from parsl_globus.service.store.views import Shown
from parsl_globus.wire.people import METRICS_SCOPE

router = APIRouter()

_FOREVER = "public, max-age=31536000, immutable"

Fragments = Mapping[str, Fragment]


# ---- what there is to see -------------------------------------------------------------------------------------


@router.get("/")
async def overview(request: Request) -> Response:
    """Endpoints, the last hour, the newest failures."""
    return await _show(request, "overview.html", lambda viewer: _overview(page_of(request), viewer))


async def _overview(page: Page, viewer: Identity) -> Fragments:
    return page.renderer.overview(await page.views.overview(viewer))


@router.get("/tasks")
async def tasks(request: Request) -> Response:
    """A list of tasks."""
    shown, text, before = _task_list(request.query_params)
    return await _show(
        request,
        "tasks.html",
        lambda viewer: _tasks(page_of(request), viewer, shown, text, before),
        # A search reads much; it is made again when somebody asks.
        live=not text and before is None,
        shown=shown.value,
        text=text,
        before=before,
        states=[(state.value, state.value.capitalize()) for state in Shown],
    )


def _task_list(query: Mapping[str, str]) -> tuple[Shown, str, int | None]:
    try:
        shown = Shown(query.get("state", Shown.ALL.value))
    except ValueError:
        shown = Shown.ALL
    before = query.get("before", "")
    number = int(before) if before.isascii() and before.isdigit() and len(before) < 19 else None
    return shown, query.get("q", "").replace("\0", "").strip()[:200], number


async def _tasks(page: Page, viewer: Identity, shown: Shown, text: str, before: int | None) -> Fragments:
    return page.renderer.tasks(await page.views.tasks(viewer, shown, text, before), sees_all=viewer.admin)


@router.get("/tasks/{task_id}")
async def task(request: Request) -> Response:
    """One task."""
    try:
        task_id = uuid.UUID(request.path_params["task_id"])
    except ValueError:
        return _missing(request, "This is no id of a task.")
    return await _show(request, "task.html", lambda viewer: _task(page_of(request), viewer, task_id), task_id=task_id)


async def _task(page: Page, viewer: Identity, task_id: uuid.UUID) -> Fragments:
    found = await page.views.task(viewer, task_id)
    # What is another's looks the same as what isn't there.
    return {} if found is None else page.renderer.task(found)


async def _show(
    request: Request,
    template: str,
    make: Callable[[Identity], Awaitable[Fragments]],
    *,
    live: bool = True,
    **values: Any,
) -> Response:
    page = page_of(request)
    viewer = await viewer_of(request)
    if viewer is None:
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return redirect("/login" if target == "/" else f"/login?next={quote(target, safe='')}")
    fragments = await make(viewer)
    if not fragments:
        return _missing(request, "It is unknown here, or isn't yours, or was removed after its time.")
    query = f"{request.url.path}?{request.url.query}".rstrip("?")
    events = f"/events?page={quote(query, safe='')}&have={quote(marks(fragments), safe='')}" if live else ""
    return page.renderer.html(
        template,
        secure=is_secure(request),
        viewer=viewer,
        csrf=csrf_token(cookie_of(request, SESSION_COOKIE)),
        fragments=markup(fragments),
        events=events,
        **values,
    )


def _missing(request: Request, text: str) -> Response:
    return page_of(request).renderer.html("missing.html", secure=is_secure(request), status=404, text=text)


@router.get("/events")
async def events(request: Request) -> Response:
    """A page's changes, as server-sent events."""
    page = page_of(request)
    viewer = await viewer_of(request)
    if viewer is None:
        return json_reply({"reason": "Log in first."}, 401)
    path, _, query = request.query_params.get("page", "/")[:2000].partition("?")
    make = _maker(page, viewer, path, {k: v[0] for k, v in parse_qs(query).items()})
    if make is None:
        return json_reply({"reason": "There is no such page."}, 404)

    async def allowed() -> bool:
        return await viewer_of(request) is not None

    try:
        stream = page.live.open(
            viewer.identity_id,
            (viewer, path, query),
            make,
            allowed,
            read_marks(request.query_params.get("have", "")),
        )
    except TooManyStreams:
        refused = json_reply({"reason": "Too many pages are open; close some."}, 503)
        refused.headers["Retry-After"] = "30"
        return refused
    headers = {**HEADERS, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


def _maker(
    page: Page, viewer: Identity, path: str, query: Mapping[str, str]
) -> Callable[[], Awaitable[Fragments]] | None:
    if path == "/":
        return lambda: _overview(page, viewer)
    if path == "/tasks":
        shown, text, before = _task_list(query)
        return (lambda: _tasks(page, viewer, shown, "", None)) if not text and before is None else None
    try:
        task_id = uuid.UUID(path.removeprefix("/tasks/"))
    except ValueError:
        return None
    return lambda: _task(page, viewer, task_id)


@router.get("/static/{name}")
async def static(request: Request) -> Response:
    """Style, script and icon."""
    found = page_of(request).renderer.static.get(request.path_params["name"])
    if found is None:
        return _missing(request, "There is no such file.")
    headers = {**HEADERS, "Cache-Control": _FOREVER, "ETag": f'"{found.version}"'}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(found.content, media_type=found.media_type, headers=headers)


# ---- in and out -----------------------------------------------------------------------------------------------


@router.get("/login")
async def login_form(request: Request) -> Response:
    """Where one logs in."""
    if await viewer_of(request) is not None:
        return redirect(safe_target(request.query_params.get("next", "/")))
    return show_login(request, safe_target(request.query_params.get("next", "/")))


def show_login(request: Request, target: str, problem: str = "", status: int = 200) -> Response:
    """The form to log in with, and what went wrong before."""
    cookie = cookie_of(request, FORM_COOKIE) or secrets.token_urlsafe(32)
    response = page_of(request).renderer.html(
        "login.html",
        secure=is_secure(request),
        status=status,
        csrf=csrf_token(cookie),
        target=target,
        problem=problem,
        query="" if target == "/" else f"?next={quote(target, safe='')}",
        issuer=service_of(request).oidc.issuer_url,
    )
    set_cookie(request, response, FORM_COOKIE, cookie, 3600)
    return response


@router.post("/login")
async def login(request: Request) -> Response:
    """Log in with client credentials, a token or a one-time code."""
    page = page_of(request)
    target = safe_target(request.query_params.get("next", "/"))
    form = await form_of(request)
    if not is_ours(request, form, FORM_COOKIE):
        return show_login(request, target, "The form was too old. Try again.", 403)
    address = request.client.host if request.client is not None else ""
    if not page.throttle.allows(address, time.time()):
        return show_login(request, target, "Too many attempts failed. Wait a minute.", 429)
    try:
        opened = await _open(page, form)
    except NotAuthorized as exc:
        page.throttle.failed(address, time.time())
        return show_login(request, target, exc.reason, 401)
    response = redirect(target)
    set_cookie(request, response, SESSION_COOKIE, opened.cookie, int(min(opened.life_s, SESSION_LIFE_S)))
    drop_cookie(request, response, FORM_COOKIE)
    return response


async def _open(page: Page, form: Mapping[str, str]) -> Opened:
    if form.get("code"):
        return await page.sessions.open_with_code(form["code"])
    if form.get("token"):
        return await page.sessions.open_with_token(form["token"].strip())
    return await page.sessions.open_with_client(
        form.get("client_id", "").strip(), form.get("client_secret", "").strip()
    )


@router.post("/logout")
async def logout(request: Request) -> Response:
    """End the session."""
    form = await form_of(request)
    if not is_ours(request, form, SESSION_COOKIE):
        return redirect("/")
    await page_of(request).sessions.close(cookie_of(request, SESSION_COOKIE))
    response = redirect("/login")
    drop_cookie(request, response, SESSION_COOKIE)
    return response


@router.post("/login/link")
async def login_link(request: Request) -> Response:
    """A code that logs the caller of REST in to the page, once, within minutes."""
    caller = await caller_of(request)
    path = await page_of(request).login_path(caller.identity_id)
    response = json_reply({"path": path, "expires_in": int(LINK_LIFE_S)})
    response.headers["Cache-Control"] = "no-store"
    return response


# ---- for Prometheus -------------------------------------------------------------------------------------------


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Numbers of the whole service: for programs on this machine, and for tokens of those who see everything."""
    peer = request.client.host if request.client is not None else None
    # Behind a proxy, everybody comes from this machine.
    if service_of(request).config.behind_proxy or not is_local(peer, request.headers):
        caller = await _metrics_caller(request)
        if not caller.admin:
            raise RequestRefused(
                http_status=403,
                code="METRICS_FORBIDDEN",
                reason="The metrics tell of everybody's endpoints; they are for administrators of this service.",
            )
    return Response(await page_of(request).metrics_text(), media_type=CONTENT_TYPE)


async def _metrics_caller(request: Request) -> Identity:
    try:
        return await caller_of(request, METRICS_SCOPE)
    except NotAuthorized as exc:
        if exc.http_status != 403:
            raise
        return await caller_of(request)
