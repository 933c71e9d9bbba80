"""Records to rows and back."""

from __future__ import annotations

import json
import uuid
from typing import Any

import sqlalchemy as sa

from parsl_globus.service.store.base import (
    EndpointRecord,
    GroupRecord,
    NewTask,
    SubmissionRecord,
    UserEndpointRecord,
    WaitingTask,
)
from parsl_globus.service.store.tables import GROUPS

#: What `to_group` needs.
GROUP_COLUMNS = (GROUPS.c.group_id, GROUPS.c.owner_id, GROUPS.c.has_queue, GROUPS.c.created_s)


def _ids_to_text(ids: tuple[uuid.UUID, ...]) -> str:
    return json.dumps([str(value) for value in ids])


def _ids_from_text(text: str) -> tuple[uuid.UUID, ...]:
    return tuple(uuid.UUID(value) for value in json.loads(text))


def of_endpoint(endpoint: EndpointRecord) -> dict[str, Any]:
    """The row of an endpoint."""
    allowed = endpoint.allowed_functions
    return {
        **vars(endpoint),
        "allowed_functions": None if allowed is None else _ids_to_text(allowed),
        "admins": _ids_to_text(endpoint.admins),
        "metadata": json.dumps(dict(endpoint.metadata)),
    }


def to_endpoint(row: sa.Row[Any]) -> EndpointRecord:
    """The endpoint of a row."""
    values = dict(row._mapping)
    allowed = values.pop("allowed_functions")
    admins, metadata = values.pop("admins"), values.pop("metadata")
    return EndpointRecord(
        **values,
        allowed_functions=None if allowed is None else _ids_from_text(allowed),
        admins=_ids_from_text(admins),
        metadata=json.loads(metadata),
    )


def of_user_endpoint(user_endpoint: UserEndpointRecord) -> dict[str, Any]:
    """The row of a user endpoint, without its counters."""
    return {
        **vars(user_endpoint),
        "config": json.dumps(dict(user_endpoint.config)),
        "user_runtime": json.dumps(dict(user_endpoint.user_runtime)),
    }


def to_user_endpoint(row: sa.Row[Any]) -> UserEndpointRecord:
    """The user endpoint of a row."""
    return UserEndpointRecord(
        row.endpoint_id, row.manager_id, row.identity_id, json.loads(row.config), json.loads(row.user_runtime)
    )


def of_submission(submission: SubmissionRecord) -> dict[str, Any]:
    """The row of a submission."""
    values = {**vars(submission), "group_id": submission.group.group_id}
    del values["group"]
    values["result_serializers"] = json.dumps(list(submission.result_serializers))
    return values


def to_group(row: sa.Row[Any]) -> GroupRecord:
    """The task group of a row with `GROUP_COLUMNS`."""
    return GroupRecord(row.group_id, row.owner_id, row.has_queue, row.created_s)


def to_waiting_task(row: sa.Row[Any]) -> WaitingTask:
    """The unfinished task of a row."""
    return WaitingTask(
        row.sequence,
        NewTask(row.task_id, row.function_id, row.payload),
        row.user_endpoint_id,
        row.resource_specification,
        tuple(json.loads(row.result_serializers)),
    )
