"""REST for functions."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from parsl_globus.service.routes.http import caller_of, json_reply, path_id, read_document, service_of
from parsl_globus.service.routes.openapi import takes
from parsl_globus.wire.documents import FunctionRegistration

router = APIRouter()


@router.post("/v2/functions", openapi_extra=takes(FunctionRegistration))
@router.post("/v3/functions", openapi_extra=takes(FunctionRegistration))
async def register(request: Request) -> Response:
    """Register a function."""
    caller = await caller_of(request)
    registration = await read_document(request, FunctionRegistration)
    function_id = await service_of(request).functions.register(caller, registration)
    return json_reply({"function_uuid": str(function_id)})


@router.get("/v2/functions/{function_id}")
async def describe(request: Request) -> Response:
    """One function."""
    caller = await caller_of(request)
    function = await service_of(request).functions.get(caller, path_id(request, "function_id"))
    return json_reply(
        {
            "function_uuid": str(function.function_id),
            "function_name": function.name,
            "function_code": function.code,
            "description": function.description,
            "public": function.public,
            "metadata": {"python_version": function.python_version, "sdk_version": function.sdk_version},
        }
    )


@router.delete("/v2/functions/{function_id}")
async def delete(request: Request) -> Response:
    """Delete a function."""
    caller = await caller_of(request)
    await service_of(request).functions.delete(caller, path_id(request, "function_id"))
    return json_reply({"result": 200})
