"""What endpoints and clients are told of the broker: where, as whom, which queues."""

from __future__ import annotations

import uuid
from typing import Any

from parsl_globus.service.auth.logins import BrokerLogins, Role
from parsl_globus.service.broker.base import Broker
from parsl_globus.wire import names
from parsl_globus.wire.documents import AgentCredentials, EndpointRegistered, QueueInfo, ResultAccess


class Credentials:
    """Writes the parts of replies and start commands that hold a login.

    Args:
        broker: Knows its address.
        logins: Knows the passwords.
        control: Whether user endpoints get a control queue (extension `control`).
    """

    def __init__(self, broker: Broker, logins: BrokerLogins, *, control: bool) -> None:
        self._broker = broker
        self._logins = logins
        self._control = control

    def _url(self, role: Role, owner_id: uuid.UUID) -> str:
        login = self._logins.login(role, owner_id)
        return self._broker.connection_url(login.username, login.password)

    def manager(self, manager_id: uuid.UUID) -> EndpointRegistered:
        """For the reply to a registration."""
        url = self._url(Role.MANAGER, manager_id)
        return EndpointRegistered(
            endpoint_id=manager_id,
            command_queue_info=QueueInfo(connection_url=url, queue=names.commands_queue(manager_id)),
            heartbeat_queue_info=_heartbeats(url, manager_id),
        )

    def user_endpoint(self, endpoint_id: uuid.UUID) -> AgentCredentials:
        """For a start command."""
        url = self._url(Role.USER_ENDPOINT, endpoint_id)
        control = QueueInfo(connection_url=url, queue=names.control_queue(endpoint_id)) if self._control else None
        return AgentCredentials(
            endpoint_id=endpoint_id,
            # The exchange is what Globus's own service says; agents consume the queue and never use it.
            task_queue_info=QueueInfo(connection_url=url, exchange="tasks", queue=names.tasks_queue(endpoint_id)),
            result_queue_info=QueueInfo(
                connection_url=url,
                exchange=names.RESULTS_EXCHANGE,
                queue=names.RESULTS_QUEUE,
                queue_publish_kwargs=_publish_kwargs(names.RESULTS_EXCHANGE, names.results_key(endpoint_id)),
            ),
            heartbeat_queue_info=_heartbeats(url, endpoint_id),
            control_queue_info=control,
        )

    def results(self, identity_id: uuid.UUID) -> ResultAccess:
        """For a client that wants its results."""
        return ResultAccess(
            queue_prefix=names.group_queue_prefix(identity_id), connection_url=self._url(Role.IDENTITY, identity_id)
        )


def _heartbeats(url: str, endpoint_id: uuid.UUID) -> QueueInfo:
    return QueueInfo(
        connection_url=url,
        exchange=names.HEARTBEATS_EXCHANGE,
        queue=names.HEARTBEATS_QUEUE,
        queue_publish_kwargs=_publish_kwargs(names.HEARTBEATS_EXCHANGE, names.heartbeats_key(endpoint_id)),
    )


def _publish_kwargs(exchange: str, routing_key: str) -> dict[str, Any]:
    """Goes verbatim to pika's `basic_publish` (PROTOCOL.md section 4)."""
    return {
        "exchange": exchange,
        "routing_key": routing_key,
        "mandatory": True,
        "properties": {"delivery_mode": 2},
    }
