"""REST for logins at an issuer, which programs make without a browser of their own: extensions of ours."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from parsl_globus.service.routes.http import caller_of, json_reply, read_document, service_of
from parsl_globus.service.routes.openapi import takes
from parsl_globus.wire.people import ADMIN_SCOPE, CommandCode, DeviceCode, IssuerLogin

router = APIRouter(prefix="/v3")


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else ""


def _private(content: object) -> Response:
    reply = json_reply(content)
    reply.headers["Cache-Control"] = "no-store"
    return reply


@router.post("/login/device")
async def start_device(request: Request) -> Response:
    """Begin a login that is approved on another device; a 404 says that it must go through the page."""
    return _private(await service_of(request).oidc.start_device(_address(request)))


@router.post("/login/device/token", openapi_extra=takes(DeviceCode))
async def end_device(request: Request) -> Response:
    """The token of such a login, once it was approved."""
    wanted = await read_document(request, DeviceCode)
    return _private(await service_of(request).oidc.poll_device(wanted.device_code, _address(request)))


@router.post("/login/command", openapi_extra=takes(CommandCode))
async def redeem_code(request: Request) -> Response:
    """The token for a code that the page has shown."""
    wanted = await read_document(request, CommandCode)
    return _private(await service_of(request).command_logins.redeem(wanted.code, wanted.verifier))


@router.put("/admin/users/{name}/login", openapi_extra=takes(IssuerLogin))
async def set_login(request: Request) -> Response:
    """Say who a user is at the issuer."""
    await caller_of(request, ADMIN_SCOPE)
    wanted = await read_document(request, IssuerLogin)
    await service_of(request).oidc.set_login(request.path_params["name"], wanted.subject)
    return json_reply({})


@router.delete("/admin/users/{name}/login")
async def remove_login(request: Request) -> Response:
    """Let a user log in at no issuer."""
    await caller_of(request, ADMIN_SCOPE)
    await service_of(request).oidc.remove_logins(request.path_params["name"])
    return json_reply({})
