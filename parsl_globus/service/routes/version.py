"""`/v2/version`, and whether the service is there at all."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from parsl_globus.service.routes.http import json_reply, service_of
from parsl_globus.service.routes.openapi import document
from parsl_globus.version import __version__
from parsl_globus.wire.documents import (
    EXTENSION_BLOBS,
    EXTENSION_CANCEL,
    EXTENSION_CONTROL,
    EXTENSION_IDEMPOTENCY,
    EXTENSION_PER_TASK,
    EXTENSION_VERSIONS,
)

#: Clients older than this refuse to run; what they would need has not changed since.
_OLDEST_CLIENT = "2.0.0"
_EXTENSIONS = (
    EXTENSION_IDEMPOTENCY,
    EXTENSION_PER_TASK,
    EXTENSION_CANCEL,
    EXTENSION_CONTROL,
    EXTENSION_VERSIONS,
    EXTENSION_BLOBS,
)

router = APIRouter()


@router.get("/v2/version")
async def version(request: Request) -> Response:
    """What this service is, and which clients may use it."""
    document: dict[str, Any] = {
        "api": __version__,
        "min_sdk_version": _OLDEST_CLIENT,
        "min_ep_version": _OLDEST_CLIENT,
        "min_endpoint_version": _OLDEST_CLIENT,
    }
    service = service_of(request)
    config = service.config
    if not config.public_only:
        document["parsl_globus"] = {
            "version": __version__,
            "extensions": list(_EXTENSIONS),
            "payload_limit_bytes": config.payload_limit_bytes,
            "max_tasks_per_request": config.max_tasks_per_request,
            "blob_limit_bytes": config.blob_limit_bytes,
        }
        if service.oidc.issuer_url is not None:
            document["parsl_globus"]["oidc_issuer"] = service.oidc.issuer_url
    return json_reply(document)


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    """This document."""
    return json_reply(document(request.app))


@router.get("/healthz")
async def healthz(request: Request) -> Response:
    """Whether the service is well; without its store it is of no use, without its broker it takes tasks for later."""
    parts = await service_of(request).page.health()
    status = "ok" if set(parts.values()) == {"ok"} else "degraded"
    return json_reply({"status": status, **parts}, 200 if parts["store"] == "ok" else 503)
