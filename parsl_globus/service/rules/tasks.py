"""Tasks: accepted, asked for, cancelled."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from parsl_globus.errors import LinkError, RequestRefused
from parsl_globus.service.auth.base import Identity
from parsl_globus.service.broker.base import Broker, Publication
from parsl_globus.service.results import ResultIntake
from parsl_globus.service.rules import refusals
from parsl_globus.service.rules.dispatch import Dispatcher, task_publication
from parsl_globus.service.rules.endpoints import EndpointRules
from parsl_globus.service.rules.functions import FunctionRules, ReadyFunction
from parsl_globus.service.rules.presence import Presence
from parsl_globus.service.rules.queues import Queues
from parsl_globus.service.rules.registry import Registry
from parsl_globus.service.rules.waking import Waker
from parsl_globus.service.store.base import (
    DuplicateSubmission,
    EndpointGone,
    EndpointRecord,
    GroupRecord,
    GroupTaken,
    NewTask,
    Store,
    SubmissionRecord,
    TaskRecord,
    UserEndpointRecord,
)
from parsl_globus.wire import codec, names
from parsl_globus.wire.control import CANCEL, pack_control
from parsl_globus.wire.documents import Submission, Submitted, TaskRefusal, TaskStatus
from parsl_globus.wire.messages import Result
from parsl_globus.wire.states import TaskStage

logger = logging.getLogger(__name__)

_GROUPS_CACHED = 10_000
#: Different user endpoint configurations of one identity on one endpoint.
MOST_CONFIGURATIONS = 500


@dataclass
class _Plan:
    """What becomes of each task of a submission."""

    tasks: list[NewTask] = field(default_factory=list)
    functions: list[ReadyFunction] = field(default_factory=list)
    ids: dict[uuid.UUID, list[uuid.UUID | None]] = field(default_factory=dict)
    errors: dict[uuid.UUID, dict[int, TaskRefusal]] = field(default_factory=dict)


class TaskRules:
    """What may happen to tasks.

    Args:
        store: Keeps them.
        broker: Carries requests to cancel.
        registry: Knows the user endpoints.
        presence: Knows who is there.
        queues: Declares the task groups' queues.
        endpoints: Decides who may use which endpoint.
        functions: Decides who may use which function.
        dispatcher: Sends tasks to their endpoints.
        waker: Has these started.
        results: Ends tasks that are cancelled while no endpoint has them.
        max_tasks: Most tasks in one submission.
        tell_codes: Whether a failed task's status has its error code, as an extension of the public protocol.
    """

    def __init__(
        self,
        store: Store,
        broker: Broker,
        registry: Registry,
        presence: Presence,
        queues: Queues,
        endpoints: EndpointRules,
        functions: FunctionRules,
        dispatcher: Dispatcher,
        waker: Waker,
        results: ResultIntake,
        *,
        max_tasks: int,
        tell_codes: bool,
    ) -> None:
        self._store = store
        self._broker = broker
        self._registry = registry
        self._presence = presence
        self._queues = queues
        self._endpoints = endpoints
        self._functions = functions
        self._dispatcher = dispatcher
        self._waker = waker
        self._results = results
        self._max_tasks = max_tasks
        self._tell_codes = tell_codes
        self._groups: dict[uuid.UUID, GroupRecord] = {}
        #: Submissions with a key that are being accepted: a repetition waits for the first.
        self._running: dict[tuple[uuid.UUID, str], asyncio.Future[str]] = {}

    # ---- submission -------------------------------------------------------------------------------------------

    async def submit(
        self,
        caller: Identity,
        endpoint_id: uuid.UUID,
        submission: Submission,
        *,
        key: str | None = None,
        per_task: bool = False,
    ) -> str:
        """Accept tasks; when this returns, they are stored.

        Args:
            caller: Who sends them.
            endpoint_id: The manager they go to.
            submission: The tasks.
            key: Idempotency key: a repetition gets the first answer, and adds nothing.
            per_task: Refuse single tasks instead of the whole submission.

        Returns:
            The reply, as JSON text (`Submitted`).

        Raises:
            RequestRefused: Nothing was accepted.
        """
        await self._registry.look_up([endpoint_id])
        if key is None:
            return await self._accept(caller, endpoint_id, submission, key, per_task)
        mark = (caller.identity_id, key)
        running = self._running.get(mark)
        if running is None:
            running = asyncio.ensure_future(self._accept_once(caller, endpoint_id, submission, key, per_task))
            self._running[mark] = running
            running.add_done_callback(lambda _done: self._running.pop(mark, None))
        return await asyncio.shield(running)

    async def _accept_once(
        self, caller: Identity, endpoint_id: uuid.UUID, submission: Submission, key: str, per_task: bool
    ) -> str:
        # That a key is taken shows when its submission is stored. It is not looked up before, for hardly any ever is.
        try:
            return await self._accept(caller, endpoint_id, submission, key, per_task)
        except (DuplicateSubmission, RequestRefused):
            # What was accepted the first time might be refused now. It may have been purged, days after it was sent.
            stored = await self._store.submission_reply(caller.identity_id, key)
            if stored is None:
                raise
            return stored

    async def _accept(
        self, caller: Identity, endpoint_id: uuid.UUID, submission: Submission, key: str | None, per_task: bool
    ) -> str:
        endpoint = self._endpoints.usable(caller, endpoint_id)
        count = sum(len(payloads) for payloads in submission.tasks.values())
        if count > self._max_tasks:
            raise refusals.too_many(count, self._max_tasks)
        if submission.user_endpoint_config:
            self._check_configurations(caller, endpoint_id, submission.user_endpoint_config)
        group = await self._group(caller, submission)
        plan = await self._plan(caller, endpoint, submission, per_task)
        if group.has_queue:
            await self._queues.declare_group(group)
        try:
            user_endpoint, record = await self._store_tasks(caller, endpoint_id, submission, group, key, plan)
        except (DuplicateSubmission, RequestRefused):
            await self._undeclare(group)
            raise
        self._remember_group(group)
        if plan.tasks:
            if len(plan.tasks) == 1:
                self._results.expect(plan.tasks[0].task_id, user_endpoint.endpoint_id, group)
            await self._send(user_endpoint.endpoint_id, record, plan)
            self._waker.wake(user_endpoint)
        return record.reply

    def _check_configurations(self, caller: Identity, endpoint_id: uuid.UUID, config: Mapping[str, Any]) -> None:
        """Each configuration is a user endpoint with queues of its own, for as long as its manager is registered."""
        user_endpoint_id = names.user_endpoint_id(endpoint_id, caller.identity_id, config)
        if self._registry.user_endpoint(user_endpoint_id) is not None:
            return
        served = self._registry.user_endpoints(endpoint_id)
        if sum(u.identity_id == caller.identity_id for u in served) >= MOST_CONFIGURATIONS:
            raise refusals.too_many_user_endpoints(MOST_CONFIGURATIONS)

    async def _store_tasks(
        self,
        caller: Identity,
        endpoint_id: uuid.UUID,
        submission: Submission,
        group: GroupRecord,
        key: str | None,
        plan: _Plan,
    ) -> tuple[UserEndpointRecord, SubmissionRecord]:
        for _attempt in range(2):
            try:
                user_endpoint = await self._registry.ensure_user_endpoint(
                    endpoint_id, caller.identity_id, submission.user_endpoint_config, submission.user_runtime
                )
                await self._queues.declare_user_endpoint(user_endpoint.endpoint_id)
                record = _record(caller, submission, group, user_endpoint.endpoint_id, key, endpoint_id, plan)
                record = replace(record, sender=self._dispatcher.sender if plan.tasks else None)
                await self._store.add_submission(record, plan.tasks)
                return user_endpoint, record
            except GroupTaken as exc:
                raise refusals.group_forbidden(group.group_id) from exc
            except EndpointGone:
                # Another process has deleted it; it may have been registered again since.
                await self._registry.refresh()
                self._endpoints.usable(caller, endpoint_id)
        raise refusals.unknown_endpoint(endpoint_id)

    async def _send(self, user_endpoint_id: uuid.UUID, record: SubmissionRecord, plan: _Plan) -> None:
        publications = [
            task_publication(task, function, user_endpoint_id, record.resource_specification, record.result_serializers)
            for task, function in zip(plan.tasks, plan.functions, strict=True)
        ]
        ids = [task.task_id for task in plan.tasks]
        await self._dispatcher.send(user_endpoint_id, publications, ids, record.submission_id)

    async def _group(self, caller: Identity, submission: Submission) -> GroupRecord:
        group_id = submission.task_group_id
        if group_id is None:
            return GroupRecord(uuid.uuid4(), caller.identity_id, submission.create_queue, time.time())
        known = self._groups.get(group_id) or await self._store.group(group_id)
        if known is None:
            # The client keeps its group's id when it moves to another service (PROTOCOL.md section 8).
            return GroupRecord(group_id, caller.identity_id, submission.create_queue, time.time())
        if known.owner_id != caller.identity_id:
            raise refusals.group_forbidden(group_id)
        return known if known.has_queue or not submission.create_queue else replace(known, has_queue=True)

    async def _undeclare(self, group: GroupRecord) -> None:
        """Remove the queue of a group that has not come into being."""
        stored = await self._store.group(group.group_id)
        if group.has_queue and (stored is None or stored.owner_id != group.owner_id or not stored.has_queue):
            try:
                await self._queues.delete_group(group)
            except LinkError as exc:
                logger.warning("The queue of task group %s is of no use, and can't be removed: %s", group.group_id, exc)

    def _remember_group(self, group: GroupRecord) -> None:
        if len(self._groups) >= _GROUPS_CACHED:
            self._groups.clear()
        self._groups[group.group_id] = group

    async def _plan(self, caller: Identity, endpoint: EndpointRecord, submission: Submission, per_task: bool) -> _Plan:
        plan = _Plan()
        ready = await self._functions.ready(list(submission.tasks))
        for function_id, payloads in submission.tasks.items():
            try:
                function = self._functions.check_use(caller, function_id, ready)
                if endpoint.allowed_functions is not None and function_id not in endpoint.allowed_functions:
                    raise refusals.function_not_allowed(function_id, endpoint.endpoint_id)
            except RequestRefused as refused:
                if not per_task:
                    raise
                refusal = TaskRefusal(code=refused.code, reason=refused.reason)
                plan.ids[function_id] = [None] * len(payloads)
                plan.errors[function_id] = dict.fromkeys(range(len(payloads)), refusal)
                continue
            new = [NewTask(uuid.uuid4(), function_id, payload) for payload in payloads]
            plan.ids[function_id] = [task.task_id for task in new]
            plan.tasks += new
            plan.functions += [function] * len(new)
        return plan

    # ---- questions --------------------------------------------------------------------------------------------

    async def statuses(self, caller: Identity, task_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, TaskStatus]:
        """How the caller's own tasks stand; unknown ones, and others', are left out."""
        records = await self._store.tasks(task_ids)
        return {r.task_id: self._status(r) for r in records if r.owner_id == caller.identity_id}

    async def group_tasks(self, caller: Identity, group_id: uuid.UUID) -> list[uuid.UUID]:
        """The tasks of a group of the caller's, in the order of submission.

        Raises:
            RequestRefused: The group is unknown or another's.
        """
        group = await self._store.group(group_id)
        if group is None:
            raise refusals.unknown_group(group_id)
        if group.owner_id != caller.identity_id:
            raise refusals.group_forbidden(group_id)
        return await self._store.group_tasks(group_id)

    def _status(self, record: TaskRecord) -> TaskStatus:
        status = TaskStatus(task_id=record.task_id, status=record.stage.value)
        if record.completed_s is None or record.body is None:
            return status
        result = codec.unpack(record.body, Result)
        details: dict[str, Any] | None = result.details
        update: dict[str, Any] = {"completion_t": str(record.completed_s), "details": details}
        update["exception" if record.stage is TaskStage.FAILED else "result"] = result.data
        if self._tell_codes and result.error_details is not None:
            update["reason"] = result.error_details.code
        return status.model_copy(update=update)

    # ---- cancelling -------------------------------------------------------------------------------------------

    async def cancel(self, caller: Identity, task_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, str]:
        """Cancel the caller's own tasks (PROTOCOL.md section 10).

        Returns:
            For each: "cancelled" when it has ended by this, "requested" when its endpoint was asked and will answer,
            "finished" when it had ended before, "unknown" when it is none of the caller's.
        """
        outcome = dict.fromkeys(task_ids, "unknown")
        by_endpoint: dict[uuid.UUID, list[uuid.UUID]] = {}
        for record in await self._store.tasks(task_ids, with_body=False):
            if record.owner_id != caller.identity_id:
                continue
            if record.stage.final:
                outcome[record.task_id] = "finished"
            else:
                by_endpoint.setdefault(record.user_endpoint_id, []).append(record.task_id)
        for endpoint_id, ids in by_endpoint.items():
            outcome.update(dict.fromkeys(ids, await self._cancel(endpoint_id, ids)))
        return outcome

    async def _cancel(self, endpoint_id: uuid.UUID, task_ids: list[uuid.UUID]) -> str:
        # The endpoint is told in any case: the tasks may wait in its queue or its spool, though it is away.
        body = pack_control(CANCEL, task_ids)
        await self._queues.declare_user_endpoint(endpoint_id)
        try:
            await self._broker.publish(
                [Publication(names.control_queue(endpoint_id), body, content_type="application/json")]
            )
        except LinkError as exc:
            logger.warning("User endpoint %s could not be told of cancelled tasks: %s", endpoint_id, exc)
        await self._presence.look_up([endpoint_id])
        if self._presence.online(endpoint_id, time.time()):
            return "requested"
        await self._results.fail(endpoint_id, task_ids, "TaskCancelled", "The task was cancelled before it had begun.")
        await self._dispatcher.start_over(endpoint_id)
        return "cancelled"


def _record(
    caller: Identity,
    submission: Submission,
    group: GroupRecord,
    user_endpoint_id: uuid.UUID,
    key: str | None,
    endpoint_id: uuid.UUID,
    plan: _Plan,
) -> SubmissionRecord:
    request_id = uuid.uuid4()
    reply = Submitted(
        tasks=plan.ids,
        task_group_id=group.group_id,
        request_id=request_id,
        endpoint_id=endpoint_id,
        errors=plan.errors or None,
    )
    return SubmissionRecord(
        submission_id=request_id,
        owner_id=caller.identity_id,
        group=group,
        user_endpoint_id=user_endpoint_id,
        key=key,
        resource_specification=json.dumps(submission.resource_specification or {}),
        result_serializers=tuple(submission.result_serializers or ()),
        reply=reply.model_dump_json(exclude_none=True),
        submitted_s=time.time(),
    )
