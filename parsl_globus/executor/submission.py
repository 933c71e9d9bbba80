"""One executor's requests to submit tasks: where to, of which function, into which task group."""

from __future__ import annotations

import functools
import json
import logging
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from parsl_globus.client.rest import ServiceClient
from parsl_globus.errors import EndpointNotFound, NotSerializable, RequestRefused
from parsl_globus.executor.adoption import OWN
from parsl_globus.wire.documents import FunctionRegistration, Submitted
from parsl_globus.wire.payload import Payload, json_parts

logger = logging.getLogger(__name__)

#: How a service says that it does not know the function of a task; then it has taken none of its tasks.
FUNCTION_NOT_FOUND = "FUNCTION_NOT_FOUND"
#: Where a group tells the id of a function other than the runner.
_FUNCTION = "parsl_globus_function_id"


class Submission:
    """Makes the requests. The first answer's task group is that of all others.

    Args:
        service: Where to send them.
        endpoint_id: Who runs the tasks.
        runner: The function of all tasks whose group names no other.
        runner_id: Its id, as it is registered.
        result_serializers: Strategies for results, in order of preference.
        per_task: Whether the service can refuse single tasks.

    Attributes:
        task_group_id: On whose stream all results come; `None` before the first answer.
    """

    def __init__(
        self,
        service: ServiceClient,
        endpoint_id: uuid.UUID,
        runner: FunctionRegistration,
        runner_id: uuid.UUID,
        *,
        result_serializers: Sequence[str],
        per_task: bool,
    ) -> None:
        self.task_group_id: uuid.UUID | None = None
        self._service = service
        self._endpoint_id = endpoint_id
        self._runner = runner
        self._runner_id = runner_id
        self._result_serializers = list(result_serializers)
        self._per_task = per_task

    def post(self, group: tuple[str, str], payloads: Sequence[Payload], key: uuid.UUID | None) -> Submitted:
        """Submit tasks; never repeated here.

        Args:
            group: What they need, see `group_of`.
            payloads: The function's packed arguments.
            key: Idempotency key, where the service knows of such.

        Raises:
            EndpointNotFound: The service knows no such endpoint.
            ServiceError: As from `ServiceClient.submit`.
        """
        needs, user_config = group
        specification = json.loads(needs) if needs else {}
        function_id = specification.pop(_FUNCTION, None)
        submission: dict[str, Any] = {"create_queue": True}
        # JSON, which the runner's record is made for, would change the values of other functions.
        if function_id is None or self._result_serializers != list(OWN.results):
            submission["result_serializers"] = self._result_serializers
        if self.task_group_id is not None:
            submission["task_group_id"] = str(self.task_group_id)
        if specification:
            submission["resource_specification"] = specification
        if user_config:
            submission["user_endpoint_config"] = json.loads(user_config)
        body = [
            json.dumps(submission).encode()[:-1],
            b',"tasks":{"%b":[' % (function_id or str(self._runner_id)).encode(),
        ]
        for number, payload in enumerate(payloads):
            body += [b",", *json_parts(payload)] if number else json_parts(payload)
        body.append(b"]}}")
        try:
            reply = self._service.submit(self._endpoint_id, body, idempotency_key=key, per_task=self._per_task)
        except RequestRefused as exc:
            if exc.code == "ENDPOINT_NOT_FOUND":
                raise not_found(self._endpoint_id) from exc
            raise
        if self.task_group_id is None:
            self.task_group_id = reply.task_group_id
        return reply

    def renew_runner(self) -> None:
        """Register the runner anew, as the service does not know it any more: its database was restored, for example.

        Raises:
            ServiceError: As from `ServiceClient.register_function`.
        """
        forgotten, self._runner_id = self._runner_id, self._service.register_function(self._runner)
        logger.info("The service at %s has forgotten %s; it is %s now", self._service.url, forgotten, self._runner_id)


def endpoint_state(service: ServiceClient, endpoint_id: uuid.UUID) -> str:
    """The service's word for whether the endpoint is there: "online", "offline" and others.

    Raises:
        EndpointNotFound: The service knows no such endpoint.
        ServiceError: As from `ServiceClient.endpoint_status`.
    """
    try:
        return str(service.endpoint_status(endpoint_id).get("status"))
    except RequestRefused as exc:
        if exc.http_status == 404:
            raise not_found(endpoint_id) from exc
        raise


def warn_if_offline(
    service: ServiceClient, endpoint_id: uuid.UUID, *, label: str, offline_timeout_s: float | None
) -> None:
    """Say so if tasks will have to wait for their endpoint.

    Raises:
        EndpointNotFound: The service knows no such endpoint.
        ServiceError: As from `ServiceClient.endpoint_status`.
    """
    state = endpoint_state(service, endpoint_id)
    if state != "online":
        patience = f"for {offline_timeout_s:.0f} s" if offline_timeout_s is not None else "until it is up"
        logger.warning(
            "%s: endpoint %s is %s; tasks will wait %s. Start it on its site with 'parsl-globus endpoint start'.",
            label,
            endpoint_id,
            state,
            patience,
        )


def not_found(endpoint_id: uuid.UUID) -> EndpointNotFound:
    """What to raise for an endpoint that the service doesn't know."""
    hint = "The service doesn't know it; 'parsl-globus endpoint list' on its site shows its id."
    return EndpointNotFound(endpoint=str(endpoint_id), hint=hint)


def group_of(
    specification: Mapping[str, Any], user_config: Mapping[str, Any] | None, function_id: uuid.UUID | None = None
) -> tuple[str, str]:
    """What decides which tasks can share a request, as JSON: specification and user configuration.

    The specification's key `user_endpoint_config` wins over the second argument. The id of a function other than the
    runner goes along with the specification.

    Raises:
        NotSerializable: One of them is no JSON.
    """
    specification = dict(specification)
    user_config = specification.pop("user_endpoint_config", user_config)
    if function_id is not None:
        specification[_FUNCTION] = str(function_id)
    return _shared(
        _as_json("the parsl_resource_specification", specification),
        _as_json("the user_endpoint_config", user_config),
    )


def is_runners(group: tuple[str, str]) -> bool:
    """Whether tasks of this group are calls of the runner, which can be registered anew."""
    return _FUNCTION not in group[0]


@functools.lru_cache(maxsize=256)
def _shared(specification: str, user_config: str) -> tuple[str, str]:
    """One object for all tasks with the same needs: each task that waits keeps its group."""
    return (specification, user_config)


def _as_json(what: str, value: Mapping[str, Any] | None) -> str:
    if not value:
        return ""
    try:
        return json.dumps(value, sort_keys=True)
    except (TypeError, ValueError) as exc:
        raise NotSerializable(what=what, detail=f"it must be plain JSON ({exc})") from exc
