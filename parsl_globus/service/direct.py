"""A route that is called for every batch of tasks, past what the frameworks offer and it does not use.

Dependencies, validation of parameters, stacks of what is to be closed: for a lone task they take as long as the rules.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import cast

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

#: Answers for an exception that it knows.
ExceptionHandler = Callable[[Request, Exception], Awaitable[Response]]


class Direct:
    """ASGI middleware: calls the function of `route` itself, and gives all other requests on.

    Args:
        app: What answers them.
        route: Of a function that takes a request and gives a response.
        api: Whose exception handlers answer for what the function raises.
    """

    def __init__(self, app: ASGIApp, route: APIRoute, api: FastAPI) -> None:
        self._app = app
        self._route = route
        self._api = api
        self._methods = frozenset(route.methods or ())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] in self._methods:
            found = self._route.path_regex.match(scope["path"])
            if found is not None:
                scope.update(route=self._route, path_params=found.groupdict())
                await self._answer(Request(scope, receive), send)
                return
        await self._app(scope, receive, send)

    async def _answer(self, request: Request, send: Send) -> None:
        try:
            response = await self._route.endpoint(request)
        except Exception as exc:
            handler = self._handler(type(exc))
            if handler is None:
                raise
            response = await handler(request, exc)
        await response(request.scope, request.receive, send)

    def _handler(self, kind: type[Exception]) -> ExceptionHandler | None:
        handlers = self._api.exception_handlers
        known = next((base for base in kind.__mro__ if base in handlers and base is not Exception), None)
        return None if known is None else cast(ExceptionHandler, handlers[known])
