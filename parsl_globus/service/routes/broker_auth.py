"""What RabbitMQ asks about logins (rabbitmq_auth_backend_http), answered as the embedded broker's checks are.

RabbitMQ keeps no users but the service's own: it asks here, by POST, so that no password stands in an address.
Only its first question carries a password; what the login may do follows from its name.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import Protocol
from urllib.parse import parse_qs

from fastapi import APIRouter, HTTPException, Request, Response

from parsl_globus.service.broker.base import Grant

_ALLOW, _DENY = "allow", "deny"
#: Names are at most 255 bytes each; no question is longer than this.
_QUESTION_LIMIT_BYTES = 16 * 1024
#: RabbitMQ drops a connection that has not logged in within 10 s, which pika takes for a refusal.
_HOLD_S = 6.0


class Judge(Protocol):
    """Knows the logins; `BrokerLogins` does."""

    def authorize(self, username: str, password: str) -> Grant | None:
        """What this login may do; `None` when it is refused."""

    def grant(self, username: str) -> Grant | None:
        """What a user may do whose password was right before; `None` when there can't be such a user."""


def broker_auth_router(
    judge: Judge, secret: str, wait_whole: Callable[[float], Awaitable[None]] | None = None
) -> APIRouter:
    """The routes `/broker-auth/<secret>/{user,vhost,resource,topic}`.

    Args:
        judge: Knows the logins.
        secret: Keeps everybody but the broker out, who could try passwords here.
        wait_whole: Waits until the broker has its queues, at most as many seconds as it is given. Clients come back
            the moment a broker listens, and the public SDK gives up on a queue that isn't there yet.
    """
    router = APIRouter()

    async def ask(request: Request, what: str) -> Response:
        given = request.path_params["secret"].encode("utf-8", "surrogatepass")
        if not hmac.compare_digest(given, secret.encode()):
            raise HTTPException(404)
        question = await _question(request)
        if what == "user" and wait_whole is not None:
            await wait_whole(_HOLD_S)
        allowed = _CHECKS[what](judge, question)
        return Response(_ALLOW if allowed else _DENY, media_type="text/plain")

    @router.post("/broker-auth/{secret}/user", include_in_schema=False)
    async def user(request: Request) -> Response:
        return await ask(request, "user")

    @router.post("/broker-auth/{secret}/vhost", include_in_schema=False)
    async def vhost(request: Request) -> Response:
        return await ask(request, "vhost")

    @router.post("/broker-auth/{secret}/resource", include_in_schema=False)
    async def resource(request: Request) -> Response:
        return await ask(request, "resource")

    @router.post("/broker-auth/{secret}/topic", include_in_schema=False)
    async def topic(request: Request) -> Response:
        return await ask(request, "topic")

    return router


async def _question(request: Request) -> dict[str, str]:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > _QUESTION_LIMIT_BYTES:
            raise HTTPException(413)
        parts.append(part)
    try:
        fields = parse_qs(b"".join(parts).decode(), keep_blank_values=True, errors="strict", max_num_fields=100)
    except ValueError as exc:
        raise HTTPException(400) from exc
    return {name: values[0] for name, values in fields.items()}


def _user(judge: Judge, question: dict[str, str]) -> bool:
    return judge.authorize(question.get("username", ""), question.get("password", "")) is not None


def _vhost(judge: Judge, question: dict[str, str]) -> bool:
    # The service's user sees one virtual host, whose queues are named by what a login may do; others hold none.
    return judge.grant(question.get("username", "")) is not None


def _resource(judge: Judge, question: dict[str, str]) -> bool:
    """A queue may be consumed, an exchange published to; nothing may be configured or bound."""
    grant = judge.grant(question.get("username", ""))
    if grant is None:
        return False
    kind, name, permission = (question.get(field, "") for field in ("resource", "name", "permission"))
    if (kind, permission) == ("queue", "read"):
        return grant.may_consume(name)
    if (kind, permission) == ("exchange", "write"):
        return any(exchange == name for exchange, _ in grant.publish_keys)
    return False


def _topic(judge: Judge, question: dict[str, str]) -> bool:
    grant = judge.grant(question.get("username", ""))
    if grant is None or question.get("permission") != "write":
        return False
    return grant.may_publish(question.get("name", ""), question.get("routing_key", ""))


_CHECKS = {"user": _user, "vhost": _vhost, "resource": _resource, "topic": _topic}
