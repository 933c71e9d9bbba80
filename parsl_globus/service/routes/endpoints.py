"""REST for endpoints."""

from __future__ import annotations

from datetime import datetime, timezone

from fastapi import APIRouter, Request, Response

from parsl_globus.service.routes.http import (
    caller_of,
    document_reply,
    json_reply,
    path_id,
    read_document,
    service_of,
)
from parsl_globus.service.routes.openapi import asks, takes
from parsl_globus.wire.documents import EndpointRegistration

router = APIRouter()


@router.post("/v2/endpoints", openapi_extra=takes(EndpointRegistration))
@router.post("/v3/endpoints", openapi_extra=takes(EndpointRegistration))
async def register(request: Request) -> Response:
    """Register a new endpoint."""
    caller = await caller_of(request)
    registration = await read_document(request, EndpointRegistration)
    return document_reply(await service_of(request).endpoints.register(caller, registration))


@router.put("/v3/endpoints/{endpoint_id}", openapi_extra=takes(EndpointRegistration))
async def register_again(request: Request) -> Response:
    """Register an endpoint that has an id."""
    caller = await caller_of(request)
    endpoint_id = path_id(request, "endpoint_id")
    registration = await read_document(request, EndpointRegistration)
    return document_reply(await service_of(request).endpoints.register(caller, registration, endpoint_id))


@router.get("/v2/endpoints", openapi_extra=asks(role="query"))
async def listing(request: Request) -> Response:
    """The caller's endpoints."""
    caller = await caller_of(request)
    role = request.query_params.get("role", "owner")
    return json_reply(service_of(request).endpoints.listing(caller, role))


@router.get("/v2/endpoints/{endpoint_id}")
async def describe(request: Request) -> Response:
    """One endpoint."""
    caller = await caller_of(request)
    endpoint_id = path_id(request, "endpoint_id")
    rules = service_of(request).endpoints
    await rules.look_up(endpoint_id)
    return json_reply(rules.describe(caller, endpoint_id))


@router.get("/v2/endpoints/{endpoint_id}/status")
async def status(request: Request) -> Response:
    """Whether an endpoint is online."""
    caller = await caller_of(request)
    return json_reply(await service_of(request).endpoints.status(caller, path_id(request, "endpoint_id")))


@router.delete("/v2/endpoints/{endpoint_id}")
async def delete(request: Request) -> Response:
    """Forget an endpoint."""
    caller = await caller_of(request)
    await service_of(request).endpoints.delete(caller, path_id(request, "endpoint_id"))
    return json_reply({"result": 200})


@router.post("/v2/endpoints/{endpoint_id}/lock")
@router.post("/v3/endpoints/{endpoint_id}/lock")
async def lock(request: Request) -> Response:
    """Stop an endpoint from afar, and keep it away for a while."""
    caller = await caller_of(request)
    endpoint_id = path_id(request, "endpoint_id")
    until_s = await service_of(request).endpoints.lock(caller, endpoint_id)
    until = datetime.fromtimestamp(until_s, timezone.utc).replace(tzinfo=None).isoformat()
    return json_reply({"endpoint_id": str(endpoint_id), "lock_expiration_timestamp": until})


@router.get("/v3/endpoints/{endpoint_id}/allowed_functions")
async def allowed_functions(request: Request) -> Response:
    """What an endpoint is restricted to."""
    caller = await caller_of(request)
    endpoint_id = path_id(request, "endpoint_id")
    rules = service_of(request).endpoints
    await rules.look_up(endpoint_id)
    return json_reply(rules.allowed_functions(caller, endpoint_id))
