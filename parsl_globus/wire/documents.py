"""Bodies of REST requests and replies, and of the start command (PROTOCOL.md sections 3, 4 and 5)."""

from __future__ import annotations

import json
import uuid
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

#: The extensions of PROTOCOL.md section 10 that this version speaks, as listed by `GET /v2/version`.
EXTENSION_IDEMPOTENCY = "idempotency"
EXTENSION_PER_TASK = "per-task"
EXTENSION_CANCEL = "cancel"
EXTENSION_CONTROL = "control"
EXTENSION_VERSIONS = "versions"
EXTENSION_BLOBS = "blobs"

IDEMPOTENCY_HEADER = "Idempotency-Key"
PREFER_HEADER = "Prefer"
PREFER_PER_TASK = "per-task"

#: The public service's limit for one request, in bytes of its body.
DEFAULT_PAYLOAD_LIMIT_BYTES = 10 * 1024 * 1024

COMPUTE_SCOPE = "https://auth.globus.org/scopes/facd7ccc-c5f4-42aa-916b-a0e270e2c2a9/all"
COMPUTE_RESOURCE_SERVER = "funcx_service"
AUTH_RESOURCE_SERVER = "auth.globus.org"


#: What one submission may say besides its tasks. A resource specification travels in the header of each task's message,
#: which must fit one AMQP frame; a configuration is handed to a user endpoint through a pipe of 64 KiB.
_OPTIONS_LIMIT_BYTES = 32 * 1024


def _small(value: dict[str, Any] | None) -> dict[str, Any] | None:
    try:
        size = 0 if value is None else len(json.dumps(value, allow_nan=False))
    except ValueError as exc:
        raise ValueError("it holds a number that JSON doesn't have") from exc
    if size > _OPTIONS_LIMIT_BYTES:
        raise ValueError(f"it has {size} bytes as JSON, but at most {_OPTIONS_LIMIT_BYTES} are taken")
    return value


SmallObject = Annotated[dict[str, Any], AfterValidator(_small)]


class Document(BaseModel):
    """Base of all documents. Unknown keys are ignored, as peers of other versions send them."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)


class QueueInfo(Document):
    """Where an endpoint consumes or publishes. `connection_url` holds a password: never log a whole document."""

    connection_url: str = Field(repr=False)
    queue: str
    exchange: str | None = None
    queue_publish_kwargs: dict[str, Any] | None = None


class EndpointRegistration(Document):
    """`POST /v3/endpoints`, `PUT /v3/endpoints/{id}`."""

    endpoint_name: str = Field(min_length=1, max_length=255)
    display_name: str | None = Field(default=None, max_length=255)
    multi_user: bool = False
    public: bool = False
    high_assurance: bool = False
    allowed_functions: list[uuid.UUID] | None = Field(default=None, max_length=10_000)
    authentication_policy: uuid.UUID | None = None
    subscription_uuid: uuid.UUID | None = None
    admins: list[uuid.UUID] | None = Field(default=None, max_length=1_000)
    metadata: dict[str, Any] = Field(default_factory=dict)


class EndpointRegistered(Document):
    """The reply to a registration."""

    endpoint_id: uuid.UUID
    command_queue_info: QueueInfo
    heartbeat_queue_info: QueueInfo


class FunctionRegistration(Document):
    """`POST /v3/functions`. With `serialized` false, `function_code` is bare source."""

    function_name: str = Field(min_length=1, max_length=255)
    function_code: str
    serialized: bool = True
    meta: dict[str, Any] | None = None
    description: str | None = Field(default=None, max_length=65_536)
    public: bool = False
    group: uuid.UUID | None = None
    ha_endpoint_id: uuid.UUID | None = None


class Submission(Document):
    """`POST /v3/endpoints/{id}/submit`. `tasks` maps a function's id to packed arguments, one text per task."""

    tasks: dict[uuid.UUID, list[str]] = Field(max_length=10_000)
    create_queue: bool = False
    task_group_id: uuid.UUID | None = None
    resource_specification: SmallObject | None = None
    user_endpoint_config: SmallObject | None = None
    user_runtime: SmallObject | None = None
    result_serializers: list[Annotated[str, Field(max_length=255)]] | None = Field(default=None, max_length=100)


class ListedSubmission(Document):
    """`POST /v2/submit`, as clients of old send it. Each task: a function's id, an endpoint's, packed arguments."""

    tasks: list[tuple[uuid.UUID, uuid.UUID, str]] = Field(min_length=1, max_length=10_000)
    create_websocket_queue: bool = False
    task_group_id: uuid.UUID | None = None


class TaskRefusal(Document):
    """Why one task of a submission was not taken (extension `per-task`)."""

    code: str
    reason: str


class Submitted(Document):
    """The reply to a submission: ids in the order sent, one for one; `None` only with the extension `per-task`."""

    tasks: dict[uuid.UUID, list[uuid.UUID | None]]
    task_group_id: uuid.UUID
    request_id: uuid.UUID
    endpoint_id: uuid.UUID
    errors: dict[uuid.UUID, dict[int, TaskRefusal]] | None = None


class TaskStatus(Document):
    """Where a task stands. `completion_t`, and one of `result` and `exception`, are there once it has ended.

    `reason` is the code of a failure; only services with our extensions tell it.
    """

    task_id: uuid.UUID
    status: str
    completion_t: str | None = None
    result: str | None = None
    exception: str | None = None
    details: dict[str, Any] | None = None
    reason: str | None = None

    @property
    def has_ended(self) -> bool:
        """Whether it has ended; there may be no time of that, as when only the result has been dropped."""
        return self.completion_t is not None or self.status in ("success", "failed")


class ResultAccess(Document):
    """`GET /v2/get_amqp_result_connection_url`. The URL holds a password."""

    queue_prefix: str
    connection_url: str = Field(repr=False)


class AgentCredentials(Document):
    """`amqp_creds` of a start command: all that a user endpoint needs, as it never speaks REST."""

    endpoint_id: uuid.UUID
    task_queue_info: QueueInfo
    result_queue_info: QueueInfo
    heartbeat_queue_info: QueueInfo
    control_queue_info: QueueInfo | None = None


class StartArguments(Document):
    """`kwargs` of a start command."""

    name: str
    amqp_creds: AgentCredentials
    user_opts: dict[str, Any] = Field(default_factory=dict)
    user_runtime: dict[str, Any] = Field(default_factory=dict)


class StartCommand(Document):
    """A message on a manager's command queue."""

    command: str
    args: list[Any] = Field(default_factory=list)
    arguments: StartArguments = Field(alias="kwargs")
    globus_username: str = ""
    globus_effective_identity: uuid.UUID
    globus_identity_set: list[dict[str, Any]] = Field(default_factory=list)


START_COMMAND = "cmd_start_endpoint"

#: A start command older than this many seconds is refused by agents (PROTOCOL.md section 5).
START_COMMAND_LIFE_S = 180


class TaskIds(Document):
    """`POST /v2/batch_status`, `POST /v3/tasks/cancel`."""

    task_ids: list[uuid.UUID] = Field(max_length=50_000)
