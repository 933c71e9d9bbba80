"""The REST application of a service."""

from __future__ import annotations

import logging
import math

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from parsl_globus.errors import LinkError, RequestRefused, TooManyRequests
from parsl_globus.service.assembly import Service
from parsl_globus.service.auth.base import Authenticator
from parsl_globus.service.auth.logins import BrokerLogins
from parsl_globus.service.broker.base import Broker
from parsl_globus.service.broker.rabbitmq import RabbitMQBroker
from parsl_globus.service.config import ServiceConfig
from parsl_globus.service.direct import Direct
from parsl_globus.service.page.metrics import RequestTimes
from parsl_globus.service.page.oidc import router as page_oidc_router
from parsl_globus.service.page.routes import router as page_router
from parsl_globus.service.routes import auth as auth_routes
from parsl_globus.service.routes import blobs, endpoints, functions, oidc, people, tasks, version
from parsl_globus.service.routes.broker_auth import broker_auth_router
from parsl_globus.service.routes.http import error_reply
from parsl_globus.service.store.base import Store, StoreUnavailable
from parsl_globus.service.store.sql import SqlStore

logger = logging.getLogger(__name__)


def create_app(
    config: ServiceConfig, store: Store, broker: Broker, auth: Authenticator, logins: BrokerLogins
) -> FastAPI:
    """Make the application; nothing is started.

    Args:
        config: Settings.
        store: An open store.
        broker: A broker; `app.state.service.start()` starts it.
        auth: Knows the callers.
        logins: Knows the logins on the broker.

    Returns:
        The application, with its `Service` as `app.state.service`.
    """
    # No generated documentation: its pages load scripts from elsewhere, and sites may have no internet.
    app = FastAPI(title="parsl_globus", openapi_url=None, docs_url=None, redoc_url=None)
    app.state.service = Service(config, store, broker, auth, logins)
    metrics = app.state.service.metrics
    # The last one is asked first.
    app.add_middleware(Direct, route=_submit_route(), api=app)
    app.add_middleware(RequestTimes, metrics=metrics)
    if isinstance(store, SqlStore):
        store.on_commit = metrics.commit
    # Routes are tried in this order, and most calls are submissions.
    for router in (tasks.router, version.router, auth_routes.router, endpoints.router, functions.router):
        app.include_router(router)
    app.include_router(page_router)
    app.include_router(page_oidc_router)
    if isinstance(broker, RabbitMQBroker):
        app.include_router(broker_auth_router(logins, logins.auth_secret(), broker.wait_whole))
    if not config.public_only:
        app.include_router(people.router)
        app.include_router(blobs.router)
        app.include_router(oidc.router)
    app.add_exception_handler(RequestRefused, _refused)
    app.add_exception_handler(LinkError, _no_broker)
    app.add_exception_handler(StoreUnavailable, _no_store)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _failed)
    return app


def _submit_route() -> APIRoute:
    (route,) = (r for r in tasks.router.routes if isinstance(r, APIRoute) and r.endpoint is tasks.submit)
    return route


async def _refused(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestRefused)  # registered for these only
    logger.info("%s %s: %d %s", request.method, request.url.path, exc.http_status, exc.code)
    reply = error_reply(exc.http_status, exc.code, exc.reason)
    if isinstance(exc, TooManyRequests):
        reply.headers["Retry-After"] = str(math.ceil(exc.retry_after_s))
    return reply


async def _no_broker(request: Request, exc: Exception) -> Response:
    logger.warning("%s %s: %s", request.method, request.url.path, exc)
    return error_reply(503, "BROKER_UNAVAILABLE", "The message broker can't be reached now. Try again soon.")


async def _no_store(request: Request, exc: Exception) -> Response:
    logger.warning("%s %s: %s", request.method, request.url.path, exc)
    return error_reply(503, "DATABASE_UNAVAILABLE", "The service's database can't be reached now. Try again soon.")


async def _http_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)  # registered for these only
    if exc.status_code == 404:
        return error_reply(404, "NOT_FOUND", f"There is nothing at {request.url.path[:200]} here.")
    return error_reply(exc.status_code, "HTTP_ERROR", str(exc.detail))


async def _failed(request: Request, exc: Exception) -> Response:  # noqa: ARG001 - logged by the server
    return error_reply(500, "INTERNAL_ERROR", "The service failed at this request; its log says why. Try again.")
