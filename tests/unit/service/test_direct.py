"""The route that is called past the frameworks answers as it would through them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute

from parsl_globus.service.direct import Direct


class KnownError(Exception):
    """There is a handler for it."""


class KindOfKnownError(KnownError):
    """And so for this."""


async def answer(request: Request) -> Response:
    what = (await request.body()).decode()
    if what == "known":
        raise KindOfKnownError("it")
    if what == "unknown":
        raise ValueError("it")
    return Response(f"{request.path_params['name']}: {what}")


async def explain(request: Request, exc: Exception) -> Response:
    return Response(f"{request.url.path}: {type(exc).__name__}", status_code=418)


async def failed(_request: Request, _exc: Exception) -> Response:
    return Response("failed", status_code=500)


def make(*, direct: bool) -> FastAPI:
    app = FastAPI()
    app.post("/things/{name}")(answer)
    app.add_exception_handler(KnownError, explain)
    app.add_exception_handler(Exception, failed)
    (route,) = (r for r in app.routes if isinstance(r, APIRoute))
    if direct:
        app.add_middleware(Direct, route=route, api=app)
    return app


def call(app: FastAPI, method: str, path: str, body: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What it sends, and what is known of the request by then."""
    scope: dict[str, Any] = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": [(b"content-type", b"text/plain")],
    }
    sent: list[dict[str, Any]] = []

    async def receive():
        return {"type": "http.request", "body": body.encode(), "more_body": False}

    async def send(message):
        sent.append(message)

    with contextlib.suppress(ValueError):  # what nobody knows goes on to the server, which logs it
        asyncio.run(app(scope, receive, send))
    return sent, scope


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/things/a b", "value", 200),
        ("POST", "/things/a", "known", 418),
        ("POST", "/things/a", "unknown", 500),
        ("GET", "/things/a", "", 405),
        ("POST", "/things/a/b", "", 404),
        ("POST", "/elsewhere", "", 404),
    ],
)
def test_answers_are_the_same(method, path, body, status):
    (sent, scope), (usual, usual_scope) = (call(make(direct=direct), method, path, body) for direct in (True, False))
    assert sent == usual
    assert sent[0]["status"] == status
    if status != 404:
        assert (scope["route"].path, scope["path_params"]) == (usual_scope["route"].path, usual_scope["path_params"])


def test_the_function_is_called_past_the_framework():
    _, scope = call(make(direct=True), "POST", "/things/a", "value")
    _, usual = call(make(direct=False), "POST", "/things/a", "value")
    assert not any("astack" in key for key in scope)
    assert any("astack" in key for key in usual)  # what it would have opened; else this test sees nothing
