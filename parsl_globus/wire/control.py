"""Messages of control queues, from the service to user endpoints (PROTOCOL.md section 10, extension `control`)."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable

#: These tasks are to be ended.
CANCEL = "cancel"
#: The service has no results of these tasks, and the message broker has lost all that it held a while ago. An endpoint
#: that has answered one, and has forgotten the answer, fails it.
LOST_RESULTS = "lost-results"


def pack_control(command: str, task_ids: Iterable[uuid.UUID]) -> bytes:
    """The body of a message, JSON in UTF-8: `{"command": COMMAND, "task_ids": [UUID, ...]}`."""
    return json.dumps({"command": command, "task_ids": [str(task_id) for task_id in task_ids]}).encode()


def unpack_control(body: bytes) -> tuple[str, list[uuid.UUID]]:
    """Its command, which may be one of a newer service, and the tasks.

    Raises:
        ValueError: It is no such message.
    """
    try:
        document = json.loads(body)
        return str(document["command"]), [uuid.UUID(text) for text in document["task_ids"]]
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError(f"it lacks what such a message has ({exc!r})") from exc
