"""What the service asks of a store: the records it keeps, and the promises of keeping them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from parsl_globus.errors import ServiceError
from parsl_globus.service.store.blobs import BlobStore
from parsl_globus.service.store.people import PeopleStore
from parsl_globus.service.store.views import ViewStore
from parsl_globus.wire.states import TaskStage


class DuplicateSubmission(ServiceError):
    """A submission with this key of this caller is stored already; nothing was added."""

    def __init__(self, *, key: str) -> None:
        super().__init__(f"A submission with the idempotency key '{key}' is stored already.", key=key)


class EndpointGone(ServiceError):
    """A submission's user endpoint is not stored, or not any more; nothing was added."""

    def __init__(self, *, endpoint_id: uuid.UUID) -> None:
        super().__init__(f"The user endpoint {endpoint_id} is not known any more.", endpoint_id=endpoint_id)


class GroupTaken(ServiceError):
    """A submission's task group belongs to another identity; nothing was added."""

    def __init__(self, *, group_id: uuid.UUID) -> None:
        super().__init__(f"The task group {group_id} belongs to another identity.", group_id=group_id)


class StoreUnavailable(ServiceError):
    """The database can't be reached now. What was asked for may or may not have happened."""

    transient = True

    def __init__(self, *, detail: str) -> None:
        super().__init__(f"The service's database can't be reached ({detail}). Try again in a moment.", detail=detail)


@dataclass(frozen=True)
class IdentityRecord:
    """Someone who may call the service.

    Attributes:
        identity_id: Its id, `sub` in the terms of Globus Auth.
        username: A name for people.
    """

    identity_id: uuid.UUID
    username: str


@dataclass(frozen=True)
class ClientRecord:
    """A client id with its secret's hash; logging in with it gives tokens of the identity.

    Attributes:
        client_id: The client's id.
        identity_id: Whose tokens it gets.
        secret_hash: argon2 hash of the secret.
    """

    client_id: uuid.UUID
    identity_id: uuid.UUID
    secret_hash: str = field(repr=False)


@dataclass(frozen=True)
class TokenRecord:
    """A bearer token, of which only the hash is kept.

    Attributes:
        token_hash: SHA-256 of the token, in hex.
        identity_id: Who holds it.
        client_id: The client it was given to.
        scopes: What it may be used for.
        expires_s: When it ends, in seconds since the epoch.
    """

    token_hash: str = field(repr=False)
    identity_id: uuid.UUID
    client_id: uuid.UUID
    scopes: frozenset[str]
    expires_s: float


@dataclass(frozen=True)
class EndpointRecord:
    """A registered manager ("core endpoint").

    Attributes:
        endpoint_id: Its id.
        owner_id: The identity that registered it.
        name: Its name at its site.
        display_name: Its name for people, if given.
        multi_user: Whether it serves other identities by mapping them to local accounts.
        public: Whether any identity may use it.
        allowed_functions: The only functions it runs; `None` for any.
        admins: Further identities that may change it.
        metadata: What it said about itself.
        registered_s: When it registered last, in seconds since the epoch.
    """

    endpoint_id: uuid.UUID
    owner_id: uuid.UUID
    name: str
    display_name: str | None = None
    multi_user: bool = False
    public: bool = False
    allowed_functions: tuple[uuid.UUID, ...] | None = None
    admins: tuple[uuid.UUID, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    registered_s: float = 0.0


@dataclass(frozen=True)
class UserEndpointRecord:
    """What serves one identity with one configuration at a manager.

    Attributes:
        endpoint_id: Its derived id.
        manager_id: Its manager.
        identity_id: Whom it serves.
        config: The user endpoint configuration.
        user_runtime: What the submitting side last said about itself; goes into start commands.
    """

    endpoint_id: uuid.UUID
    manager_id: uuid.UUID
    identity_id: uuid.UUID
    config: Mapping[str, Any] = field(default_factory=dict)
    user_runtime: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ReportRecord:
    """The last status report of a manager or a user endpoint.

    Attributes:
        endpoint_id: Whose it is.
        received_s: When it came, in seconds since the epoch.
        state: Its `global_state`.
    """

    endpoint_id: uuid.UUID
    received_s: float
    state: Mapping[str, Any]


@dataclass(frozen=True)
class FunctionRecord:
    """A registered function.

    Attributes:
        function_id: Its id.
        owner_id: The identity that registered it.
        name: Its name.
        code: Its code in buffer form, ready to be put before the arguments.
        public: Whether other identities may use it.
        description: A text for people.
        python_version: The registering side's Python, if it said so.
        sdk_version: The registering side's SDK, if it said so.
        deleted: Whether it is gone for callers; its code stays for tasks that were accepted before.
        group_id: The group of users whose members may use it, too.
    """

    function_id: uuid.UUID
    owner_id: uuid.UUID
    name: str
    code: str = field(repr=False)
    public: bool = False
    description: str | None = None
    python_version: str | None = None
    sdk_version: str | None = None
    deleted: bool = False
    group_id: uuid.UUID | None = None


@dataclass(frozen=True)
class GroupRecord:
    """A task group: its results go to one queue.

    Attributes:
        group_id: Its id.
        owner_id: The only identity that may use it.
        has_queue: Whether results are to be delivered, and not only fetched.
        created_s: When it was made, in seconds since the epoch.
    """

    group_id: uuid.UUID
    owner_id: uuid.UUID
    has_queue: bool
    created_s: float = 0.0


@dataclass(frozen=True)
class NewTask:
    """A task to be stored.

    Attributes:
        task_id: Its id.
        function_id: Its function.
        payload: Its packed arguments.
    """

    task_id: uuid.UUID
    function_id: uuid.UUID
    payload: str = field(repr=False)


@dataclass(frozen=True)
class SubmissionRecord:
    """What the tasks of one request share.

    Attributes:
        submission_id: The request's id.
        owner_id: Who sent it.
        group: Its task group; stored as well where it is new, or where it gets a queue only now.
        user_endpoint_id: Where its tasks go.
        key: The caller's idempotency key, if any.
        resource_specification: JSON text.
        result_serializers: Import paths.
        reply: The answer, as JSON text.
        submitted_s: Seconds since the epoch.
        sender: The service process that hands its tasks to the broker, until it says that it has (`mark_sent`).
    """

    submission_id: uuid.UUID
    owner_id: uuid.UUID
    group: GroupRecord
    user_endpoint_id: uuid.UUID
    key: str | None
    resource_specification: str
    result_serializers: tuple[str, ...]
    reply: str = field(repr=False)
    submitted_s: float
    sender: str | None = None


@dataclass(frozen=True)
class WaitingTask:
    """An unfinished task with all that its message needs.

    Attributes:
        sequence: Its place in the order of submission.
        task: What was stored.
        user_endpoint_id: Where it goes.
        resource_specification: JSON text.
        result_serializers: Import paths.
    """

    sequence: int
    task: NewTask
    user_endpoint_id: uuid.UUID
    resource_specification: str
    result_serializers: tuple[str, ...]


@dataclass(frozen=True)
class Ending:
    """How a task ended, as reported.

    Attributes:
        task_id: The task.
        user_endpoint_id: Who reports it; it must be the task's own endpoint.
        stage: `SUCCESS` or `FAILED`.
        completed_s: Seconds since the epoch.
        body: The result message as it came.
    """

    task_id: uuid.UUID
    user_endpoint_id: uuid.UUID
    stage: TaskStage
    completed_s: float
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class Ended:
    """What became of an `Ending`.

    Attributes:
        task_id: The task.
        new: Whether it ended by this; `False` when it had ended before, and nothing changed.
        group: Where its result goes.
        completed_s: When it ended (for a repeat: the first time).
    """

    task_id: uuid.UUID
    new: bool
    group: GroupRecord
    completed_s: float


@dataclass(frozen=True)
class TaskRecord:
    """A task as its owner may see it.

    Attributes:
        task_id: Its id.
        owner_id: Whose it is.
        group_id: Its task group.
        user_endpoint_id: Where it went.
        stage: Where it stands.
        completed_s: When it ended, or `None`.
        body: Its result message, or `None` until it has ended.
    """

    task_id: uuid.UUID
    owner_id: uuid.UUID
    group_id: uuid.UUID
    user_endpoint_id: uuid.UUID
    stage: TaskStage
    completed_s: float | None = None
    body: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class StoredResult:
    """A result message with where it goes.

    Attributes:
        sequence: Its task's place in the order of submission.
        group: Its task group.
        completed_s: When it ended.
        body: The message.
    """

    sequence: int
    group: GroupRecord
    completed_s: float
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class TaskCounts:
    """How many tasks of a user endpoint there are.

    Attributes:
        submitted: All that were ever accepted.
        done: Ended with a value.
        failed: Ended with an error.
    """

    submitted: int = 0
    done: int = 0
    failed: int = 0

    @property
    def unfinished(self) -> int:
        """Those that have not ended."""
        return self.submitted - self.done - self.failed


@dataclass(frozen=True)
class Purged:
    """What one step of a purge did.

    Attributes:
        groups: The groups that were forgotten.
        more: Whether there is more to forget.
    """

    groups: list[GroupRecord]
    more: bool


class Store(PeopleStore, ViewStore, BlobStore, Protocol):
    """All that the service knows. What a call has returned from is safe against the death of the process.

    Promises: every call is atomic; calls may overlap and see each other's complete effects only; an ended task
    stays as it ended. Methods that look something up return `None`, or leave it out, when it is unknown. Several
    processes may use one store, each through an object of its own; `shared` tells whether any do.

    Raises:
        StoreUnavailable: Any call may, when the database is on another machine.
    """

    @property
    def shared(self) -> bool:
        """Whether other processes may change what is stored, so that nothing may be remembered for long."""

    async def open(self) -> None:
        """Make the store ready. Raises `ConfigError` when it can't be used."""

    async def close(self) -> None:
        """Finish what was begun and let go. Calling it twice is harmless."""

    async def add_identity(self, identity: IdentityRecord) -> None:
        """Keep an identity; a known id gets the new name."""

    async def identities(self, identity_ids: Sequence[uuid.UUID]) -> list[IdentityRecord]:
        """Those of `identity_ids` that are known."""

    async def add_client(self, client: ClientRecord) -> None:
        """Keep a client; a known id gets the new secret and identity."""

    async def client(self, client_id: uuid.UUID) -> ClientRecord | None:
        """Look up a client."""

    async def add_tokens(self, tokens: Sequence[TokenRecord]) -> None:
        """Keep tokens."""

    async def token(self, token_hash: str) -> TokenRecord | None:
        """Look up a token; also one that has expired and was not purged yet."""

    async def put_endpoint(self, endpoint: EndpointRecord) -> None:
        """Keep an endpoint, in place of any of the same id."""

    async def endpoint(self, endpoint_id: uuid.UUID) -> EndpointRecord | None:
        """Look up an endpoint."""

    async def endpoints(self, endpoint_ids: Sequence[uuid.UUID] | None = None) -> list[EndpointRecord]:
        """All endpoints, or those of `endpoint_ids` that are known, by name."""

    async def endpoints_version(self) -> str:
        """Another text after every change to endpoints and user endpoints; not after each of their reports."""

    async def delete_endpoint(self, endpoint_id: uuid.UUID) -> bool:
        """Forget an endpoint with its user endpoints and reports; whether there was one."""

    async def put_user_endpoint(self, user_endpoint: UserEndpointRecord) -> None:
        """Keep a user endpoint; of a known one, only configuration and runtime change."""

    async def user_endpoints(
        self, manager_id: uuid.UUID | None = None, *, endpoint_ids: Sequence[uuid.UUID] | None = None
    ) -> list[UserEndpointRecord]:
        """The user endpoints of a manager, or those of `endpoint_ids` that are known, or all."""

    async def claim_start(self, endpoint_id: uuid.UUID, now_s: float, before_s: float) -> bool:
        """Note that a start command is sent now, unless one was sent at `before_s` or later; whether it was noted."""

    async def forget_starts(self, endpoint_ids: Sequence[uuid.UUID] | None = None) -> None:
        """Forget when start commands were sent, to these user endpoints or to all."""

    async def put_reports(self, reports: Sequence[ReportRecord]) -> None:
        """Keep the last report of each endpoint."""

    async def reports(
        self, endpoint_ids: Sequence[uuid.UUID] | None = None, *, since_s: float | None = None
    ) -> list[ReportRecord]:
        """The last report of each endpoint, or of those of `endpoint_ids`; or only those since a time."""

    async def add_function(self, function: FunctionRecord) -> None:
        """Keep a function."""

    async def functions(self, function_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, FunctionRecord]:
        """Those of `function_ids` that are known, deleted ones included."""

    async def live_functions(self, function_ids: Sequence[uuid.UUID]) -> set[uuid.UUID]:
        """Those of `function_ids` that are known and not deleted."""

    async def delete_function(self, function_id: uuid.UUID) -> bool:
        """Mark a function as deleted; whether it was known and not deleted."""

    async def add_submission(self, submission: SubmissionRecord, tasks: Sequence[NewTask]) -> None:
        """Keep a submission, its group and its tasks, in the order given.

        Raises:
            DuplicateSubmission: The owner has sent this key before.
            EndpointGone: The user endpoint is not stored.
            GroupTaken: The group is stored as another identity's.
        """

    async def mark_sent(self, sender: str, submission_ids: Sequence[uuid.UUID]) -> None:
        """The broker has taken all tasks of these submissions of `sender`'s."""

    async def adopt_unsent(self, sender: str, senders: str, now_s: float, limit: int = 100) -> list[uuid.UUID]:
        """Take over submissions whose senders are gone: those that hold no lease named `senders` + their name."""

    async def submission_reply(self, owner_id: uuid.UUID, key: str) -> str | None:
        """The stored answer to this submission of this caller."""

    async def group(self, group_id: uuid.UUID) -> GroupRecord | None:
        """Look up a task group."""

    async def group_tasks(self, group_id: uuid.UUID) -> list[uuid.UUID]:
        """The tasks of a group, in the order of submission."""

    async def tasks(self, task_ids: Sequence[uuid.UUID], *, with_body: bool = True) -> list[TaskRecord]:
        """Those of `task_ids` that are known, in any order."""

    async def finish_tasks(self, endings: Sequence[Ending]) -> list[Ended | None]:
        """End tasks, all at once.

        Returns:
            One entry per ending, in order; `None` for an unknown task, or one of another endpoint.
        """

    async def unfinished_tasks(
        self,
        user_endpoint_id: uuid.UUID | None = None,
        *,
        submission_id: uuid.UUID | None = None,
        after: int = 0,
        limit: int = 500,
    ) -> list[WaitingTask]:
        """A page of unfinished tasks, all or of one user endpoint or submission, whose sequence is above `after`."""

    async def stray_endpoints(self) -> list[uuid.UUID]:
        """User endpoints that have unfinished tasks, and that are not stored any more, or their managers are not."""

    async def results_since(self, since_s: float, *, after: int = 0, limit: int = 500) -> list[StoredResult]:
        """A page of results, of groups with a queue, that came at `since_s` or later."""

    async def groups_in_use(self, since_s: float) -> list[GroupRecord]:
        """Groups with a queue that were used at `since_s` or later, or that have unfinished tasks."""

    async def counts(self) -> dict[uuid.UUID, TaskCounts]:
        """How many tasks each user endpoint had."""

    async def purge(self, before_s: float, now_s: float, *, limit: int = 500) -> Purged:
        """Forget some of what ended before `before_s`: tasks, submissions and groups; and tokens expired by `now_s`.

        Args:
            before_s: Seconds since the epoch.
            now_s: The present, likewise.
            limit: Most tasks to forget at once, since others may have to wait as long.
        """

    async def setting(self, name: str, value: str) -> str:
        """The value that is stored under `name`; `value` when there is none yet, which is stored then."""

    async def lease(self, name: str, holder: str, now_s: float, life_s: float) -> bool:
        """Take or renew a lease for `life_s`; whether `holder` has it now. An expired one is anybody's."""

    async def release(self, name: str, holder: str) -> None:
        """Give a lease back, if `holder` has it."""
