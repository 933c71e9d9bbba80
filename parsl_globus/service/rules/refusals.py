"""Refusals of requests, each with the code that clients know and a sentence that says what to do."""

from __future__ import annotations

import uuid

from parsl_globus.errors import NotAuthorized, RequestRefused


def unknown_endpoint(endpoint_id: uuid.UUID) -> RequestRefused:
    """No endpoint of this id, or none that the caller may know of."""
    return RequestRefused(
        http_status=404,
        code="ENDPOINT_NOT_FOUND",
        reason=f"Endpoint {endpoint_id} is not registered with this service. Check the id, or start the endpoint.",
    )


def user_endpoint_id_given(endpoint_id: uuid.UUID, manager_id: uuid.UUID) -> RequestRefused:
    """Tasks go to a manager, which starts user endpoints as needed."""
    return RequestRefused(
        http_status=400,
        code="INVALID_ENDPOINT",
        reason=f"{endpoint_id} is a user endpoint. Send tasks to its manager, endpoint {manager_id}.",
    )


def endpoint_forbidden(endpoint_id: uuid.UUID) -> NotAuthorized:
    """The endpoint is another's."""
    return NotAuthorized(
        http_status=403,
        code="ENDPOINT_ACCESS_FORBIDDEN",
        reason=f"Endpoint {endpoint_id} belongs to another identity, which has not shared it with you.",
    )


def locked(endpoint_id: uuid.UUID, life_s: float) -> RequestRefused:
    """The endpoint was stopped from afar."""
    return RequestRefused(
        http_status=423,
        code="ENDPOINT_LOCKED",
        reason=f"Endpoint {endpoint_id} was stopped through this service, and can't register for {life_s:.0f} s from "
        "then. Start it again later.",
    )


def unknown_function(function_id: uuid.UUID) -> RequestRefused:
    """No function of this id."""
    return RequestRefused(
        http_status=404,
        code="FUNCTION_NOT_FOUND",
        reason=f"Function {function_id} is not registered with this service. Register it first.",
    )


def function_forbidden(function_id: uuid.UUID) -> NotAuthorized:
    """The function is another's, and not public."""
    return NotAuthorized(
        http_status=403,
        code="FUNCTION_ACCESS_FORBIDDEN",
        reason=f"Function {function_id} belongs to another identity and is not public.",
    )


def function_not_allowed(function_id: uuid.UUID, endpoint_id: uuid.UUID) -> NotAuthorized:
    """The endpoint runs listed functions only."""
    return NotAuthorized(
        http_status=403,
        code="FUNCTION_NOT_PERMITTED",
        reason=f"Endpoint {endpoint_id} runs listed functions only, and function {function_id} is not in its list.",
    )


def unknown_group(group_id: uuid.UUID) -> RequestRefused:
    """No task group of this id."""
    return RequestRefused(
        http_status=404, code="TASK_GROUP_NOT_FOUND", reason=f"Task group {group_id} is unknown here, or was purged."
    )


def group_forbidden(group_id: uuid.UUID) -> NotAuthorized:
    """The task group is another's."""
    return NotAuthorized(
        http_status=403,
        code="TASK_GROUP_ACCESS_FORBIDDEN",
        reason=f"Task group {group_id} belongs to another identity.",
    )


def unknown_task(task_id: uuid.UUID) -> RequestRefused:
    """No task of this id, or none of the caller's."""
    return RequestRefused(
        http_status=404, code="TASK_NOT_FOUND", reason=f"Task {task_id} is unknown here, or its result was purged."
    )


def too_large(limit_bytes: int) -> RequestRefused:
    """The request's body is over the limit."""
    return RequestRefused(
        http_status=413,
        code="TASK_PAYLOAD_TOO_LARGE",
        reason=f"The request is larger than {limit_bytes} bytes. Send fewer tasks at once, or pass large data by file.",
    )


def too_many(count: int, limit: int) -> RequestRefused:
    """The request holds too many tasks."""
    return RequestRefused(
        http_status=413,
        code="TOO_MANY_TASKS",
        reason=f"The request holds {count} tasks, but at most {limit} are taken at once. Send several requests.",
    )


def invalid(reason: str) -> RequestRefused:
    """The request doesn't say what it must."""
    return RequestRefused(http_status=422, code="INVALID_REQUEST", reason=reason)


def bad_key() -> RequestRefused:
    """The idempotency key is not a usable one."""
    return RequestRefused(
        http_status=400, code="INVALID_IDEMPOTENCY_KEY", reason="The header Idempotency-Key must be a UUID."
    )


def function_group_forbidden(group_id: uuid.UUID) -> NotAuthorized:
    """A function is to be registered for a group that the caller isn't in."""
    return NotAuthorized(
        http_status=403,
        code="GROUP_ACCESS_FORBIDDEN",
        reason=f"You are in no group {group_id} of this service; 'parsl-globus whoami' lists yours.",
    )


def not_offered(what: str) -> RequestRefused:
    """An endpoint asks for a protection that this service doesn't have, and must not seem to have."""
    return RequestRefused(
        http_status=422,
        code="NOT_OFFERED",
        reason=f"This service has no {what}. Remove the setting from the endpoint's configuration, and share the "
        "endpoint with those who may use it.",
    )


def unknown_name(kind: str, name: str) -> RequestRefused:
    """No user or group of this name."""
    return RequestRefused(http_status=404, code="NAME_NOT_FOUND", reason=f"There is no {kind} '{name[:200]}' here.")


def name_taken(kind: str, name: str) -> RequestRefused:
    """There is a user or group of this name."""
    return RequestRefused(http_status=409, code="NAME_TAKEN", reason=f"There is a {kind} '{name}' already.")


def admins_only() -> NotAuthorized:
    """Only administrators may do this."""
    return NotAuthorized(http_status=403, code="ADMINS_ONLY", reason="Only administrators of this service may do this.")


def unknown_token(token_id: str) -> RequestRefused:
    """No token of this id, or none that the caller may revoke."""
    return RequestRefused(
        http_status=404, code="TOKEN_NOT_FOUND", reason=f"There is no token '{token_id[:100]}', or it isn't yours."
    )


def too_big(what: str, limit_bytes: int) -> RequestRefused:
    """One part of a request is over its own limit."""
    return RequestRefused(
        http_status=422, code="INVALID_REQUEST", reason=f"{what} has more than {limit_bytes} bytes as JSON."
    )


def too_many_user_endpoints(limit: int) -> RequestRefused:
    """Each configuration makes another user endpoint."""
    return RequestRefused(
        http_status=422,
        code="TOO_MANY_CONFIGURATIONS",
        reason=f"You have used {limit} different user_endpoint_config on this endpoint, each of which is a user "
        "endpoint of its own; no more are taken. Use one of them.",
    )


def scope_not_held() -> NotAuthorized:
    """A token can't be made to do more than the one that asks for it."""
    return NotAuthorized(
        http_status=403,
        code="INSUFFICIENT_SCOPE",
        reason="The token that asks for a new one is not good for all of these scopes itself. Log in for them.",
    )


def not_here(reason: str) -> RequestRefused:
    """This service can't do it as it was set up."""
    return RequestRefused(http_status=501, code="NOT_IMPLEMENTED", reason=reason)


def unknown_blob(blob_id: uuid.UUID) -> RequestRefused:
    """No blob of this id, or none that the caller may know of."""
    return RequestRefused(
        http_status=404,
        code="BLOB_NOT_FOUND",
        reason=f"Blob {blob_id} is unknown here, its life is over, or it isn't for you.",
    )


def blob_taken(blob_id: uuid.UUID) -> RequestRefused:
    """There is a blob of this id, with another content or of another owner."""
    return RequestRefused(
        http_status=409,
        code="BLOB_EXISTS",
        reason=f"There is another blob {blob_id} already. Blobs don't change: put it under a new id.",
    )


def blob_too_large(limit_bytes: int) -> RequestRefused:
    """A blob is over the limit."""
    return RequestRefused(
        http_status=413,
        code="BLOB_TOO_LARGE",
        reason=f"The blob is larger than {limit_bytes} bytes; nothing of it is kept. Put it in pieces, or have the "
        "service's setting --blob-limit raised.",
    )


def blob_quota(count: int, total_bytes: int, most: int, most_bytes: int) -> RequestRefused:
    """The caller's blobs would be too many, or too large together."""
    return RequestRefused(
        http_status=413,
        code="BLOB_QUOTA_EXCEEDED",
        reason=f"With this one you would have {count} blobs of at least {total_bytes} bytes, uploads that are going on "
        f"included; {most} of {most_bytes} bytes are allowed. Delete some, or wait until they end.",
    )


def upload_stalled(stall_s: float) -> RequestRefused:
    """An upload didn't go on."""
    return RequestRefused(
        http_status=408,
        code="UPLOAD_STALLED",
        reason=f"Nothing more of the blob came for {stall_s:.0f} s; nothing of it is kept. Put it again.",
    )
