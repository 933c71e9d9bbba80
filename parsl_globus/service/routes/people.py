"""REST for users, groups, tokens and shares: extensions of ours."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from parsl_globus.errors import NotAuthorized
from parsl_globus.service.auth.base import Identity
from parsl_globus.service.routes.http import caller_of, json_reply, path_id, read_document, service_of
from parsl_globus.service.routes.openapi import takes
from parsl_globus.wire.documents import COMPUTE_SCOPE
from parsl_globus.wire.people import ADMIN_SCOPE, NewGroup, NewToken, NewUser

router = APIRouter(prefix="/v3")


async def _admin(request: Request) -> Identity:
    # Nobody but an administrator has a token for this scope.
    return await caller_of(request, ADMIN_SCOPE)


async def _anyone(request: Request) -> Identity:
    try:
        return await caller_of(request, COMPUTE_SCOPE)
    except NotAuthorized as exc:
        if exc.http_status != 403:
            raise
        return await caller_of(request, ADMIN_SCOPE)


@router.get("/me")
async def me(request: Request) -> Response:
    """What the service knows of the caller."""
    caller = await _anyone(request)
    return json_reply(await service_of(request).people.about(caller))


# ---- users and groups, for administrators -------------------------------------------------------------------------


@router.get("/admin/users")
async def users(request: Request) -> Response:
    """All users."""
    await _admin(request)
    return json_reply({"users": await service_of(request).people.users()})


@router.post("/admin/users", openapi_extra=takes(NewUser))
async def add_user(request: Request) -> Response:
    """Add a user; the reply holds its secret."""
    await _admin(request)
    wanted = await read_document(request, NewUser)
    return _secret_reply(await service_of(request).people.add_user(wanted.username, admin=wanted.admin))


@router.delete("/admin/users/{name}")
async def remove_user(request: Request) -> Response:
    """Remove a user with its endpoints."""
    caller = await _admin(request)
    await service_of(request).people.remove_user(caller, request.path_params["name"])
    return json_reply({})


@router.post("/admin/users/{name}/secret")
async def new_secret(request: Request) -> Response:
    """Give a user new credentials in place of all it has."""
    await _admin(request)
    return _secret_reply(await service_of(request).people.new_secret(request.path_params["name"]))


@router.get("/admin/groups")
async def groups(request: Request) -> Response:
    """All groups with their members."""
    await _admin(request)
    return json_reply({"groups": await service_of(request).people.groups()})


@router.post("/admin/groups", openapi_extra=takes(NewGroup))
async def add_group(request: Request) -> Response:
    """Add a group."""
    await _admin(request)
    wanted = await read_document(request, NewGroup)
    return json_reply(await service_of(request).people.add_group(wanted.name))


@router.delete("/admin/groups/{name}")
async def remove_group(request: Request) -> Response:
    """Remove a group."""
    await _admin(request)
    await service_of(request).people.remove_group(request.path_params["name"])
    return json_reply({})


@router.put("/admin/groups/{name}/members/{user}")
async def add_member(request: Request) -> Response:
    """Put a user into a group."""
    await _admin(request)
    await _set_member(request, member=True)
    return json_reply({})


@router.delete("/admin/groups/{name}/members/{user}")
async def remove_member(request: Request) -> Response:
    """Take a user out of a group."""
    await _admin(request)
    await _set_member(request, member=False)
    return json_reply({})


async def _set_member(request: Request, *, member: bool) -> None:
    name, user = request.path_params["name"], request.path_params["user"]
    await service_of(request).people.set_member(name, user, member=member)


# ---- tokens -------------------------------------------------------------------------------------------------------


@router.post("/tokens", openapi_extra=takes(NewToken))
async def add_token(request: Request) -> Response:
    """Make a token; the reply holds it."""
    caller = await _anyone(request)
    wanted = await read_document(request, NewToken)
    return _secret_reply(await service_of(request).people.add_token(caller, wanted))


@router.get("/tokens")
async def tokens(request: Request) -> Response:
    """The caller's tokens; for administrators those of others, too."""
    caller = await _anyone(request)
    query = request.query_params
    everybody = query.get("all") == "true"
    return json_reply(
        {"tokens": await service_of(request).people.tokens(caller, query.get("user"), everybody=everybody)}
    )


@router.delete("/tokens/{token_id}")
async def revoke_token(request: Request) -> Response:
    """Revoke a token."""
    caller = await _anyone(request)
    await service_of(request).people.revoke_token(caller, request.path_params["token_id"])
    return json_reply({})


# ---- shares -------------------------------------------------------------------------------------------------------


@router.get("/endpoints/{endpoint_id}/shares")
async def shares(request: Request) -> Response:
    """With whom an endpoint is shared."""
    caller = await _anyone(request)
    found = await service_of(request).people.shares(caller, path_id(request, "endpoint_id"))
    return json_reply({"shares": found})


@router.put("/endpoints/{endpoint_id}/shares/{kind}/{name}")
async def share(request: Request) -> Response:
    """Share an endpoint."""
    await _set_share(request, await _anyone(request), shared=True)
    return json_reply({})


@router.delete("/endpoints/{endpoint_id}/shares/{kind}/{name}")
async def unshare(request: Request) -> Response:
    """End a share."""
    await _set_share(request, await _anyone(request), shared=False)
    return json_reply({})


async def _set_share(request: Request, caller: Identity, *, shared: bool) -> None:
    kind, name = request.path_params["kind"], request.path_params["name"]
    endpoint_id = path_id(request, "endpoint_id")
    await service_of(request).people.set_share(caller, endpoint_id, kind, name, shared=shared)


def _secret_reply(content: object) -> Response:
    reply = json_reply(content)
    reply.headers["Cache-Control"] = "no-store"
    return reply
