"""Names of exchanges, queues and routing keys (PROTOCOL.md section 5), and ids derived from names."""

from __future__ import annotations

import functools
import json
import uuid
from collections.abc import Mapping
from typing import Any

RESULTS_EXCHANGE = "results"
RESULTS_QUEUE = "results"
RESULTS_BINDING = "*.results"
HEARTBEATS_EXCHANGE = "heartbeats"
HEARTBEATS_QUEUE = "heartbeats"
HEARTBEATS_BINDING = "*.heartbeats"

#: Space of the user endpoints' ids, so that they outlive a restart of the service (PROTOCOL.md section 7.11).
_USER_ENDPOINT_SPACE = uuid.UUID("6a2b8a0e-64f1-5d0c-9f0e-7f3f3c9b1d55")


def commands_queue(manager_id: uuid.UUID) -> str:
    """The queue on which a manager gets its start commands."""
    return f"{manager_id}.commands"


def tasks_queue(endpoint_id: uuid.UUID) -> str:
    """The queue on which a user endpoint gets its tasks."""
    return f"{endpoint_id}.tasks"


def control_queue(endpoint_id: uuid.UUID) -> str:
    """The queue on which a user endpoint gets control messages, apart from the tasks (extension `control`)."""
    return f"{endpoint_id}.control"


def results_key(endpoint_id: uuid.UUID) -> str:
    """The routing key of a user endpoint's results."""
    return f"{endpoint_id}.results"


def heartbeats_key(endpoint_id: uuid.UUID) -> str:
    """The routing key of the heartbeats of a manager or a user endpoint."""
    return f"{endpoint_id}.heartbeats"


def group_queue_prefix(identity_id: uuid.UUID) -> str:
    """What the names of an identity's task group queues start with."""
    return f"tg.{identity_id}."


def group_queue(identity_id: uuid.UUID, task_group_id: uuid.UUID) -> str:
    """The queue on which the results of a task group wait for its owner."""
    return f"{group_queue_prefix(identity_id)}{task_group_id}"


def _config_text(user_endpoint_config: Mapping[str, Any] | None) -> str:
    return json.dumps(user_endpoint_config or {}, sort_keys=True, separators=(",", ":"))


def user_endpoint_id(
    manager_id: uuid.UUID, identity_id: uuid.UUID, user_endpoint_config: Mapping[str, Any] | None
) -> uuid.UUID:
    """The id of the user endpoint that serves this user with this configuration; always the same one."""
    return _user_endpoint_id(manager_id, identity_id, _config_text(user_endpoint_config))


@functools.lru_cache(maxsize=1024)
def _user_endpoint_id(manager_id: uuid.UUID, identity_id: uuid.UUID, config: str) -> uuid.UUID:
    return uuid.uuid5(_USER_ENDPOINT_SPACE, f"{manager_id}/{identity_id}/{config}")


def user_endpoint_name(manager_id: uuid.UUID, endpoint_id: uuid.UUID) -> str:
    """The name in start commands; the agent uses it as the name of a folder, so it is one path component."""
    return f"uep.{manager_id}.{endpoint_id.hex[:16]}"
