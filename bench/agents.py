"""Many simulated agents in one process: registered, told to start, and fed as real ones are. Run as a script.

Each takes start commands and tasks from its own queues over connections of its own, runs the tasks in this process,
publishes their results with confirms, and reports that it is alive. Prints the endpoints' ids; ends with its stdin.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import uuid
from typing import Any

import aiormq
from aiormq.abc import AbstractChannel, AbstractConnection, DeliveredMessage

from parsl_globus.client.connect import default_client
from parsl_globus.client.rest import ServiceClient
from parsl_globus.wire.codec import pack
from parsl_globus.wire.documents import (
    AgentCredentials,
    EndpointRegistered,
    EndpointRegistration,
    QueueInfo,
    StartCommand,
)
from parsl_globus.wire.messages import EPStatusReport
from parsl_globus.worker.run import run_task

_PERIOD_S = 5


class SimulatedAgent:
    """A manager with its user endpoint.

    Args:
        registered: The service's reply to its registration.
        run_dir: Where its tasks run.
    """

    def __init__(self, registered: EndpointRegistered, run_dir: str) -> None:
        self._registered = registered
        self._run_dir = run_dir
        self._connections: list[AbstractConnection] = []
        self._endpoint_id: uuid.UUID | None = None
        self._background: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Take commands."""
        commands = await self._channel(self._registered.command_queue_info)
        await commands.basic_consume(self._registered.command_queue_info.queue, self._command)
        self._report(commands, self._registered.endpoint_id, self._registered.heartbeat_queue_info, {})

    async def stop(self) -> None:
        """Close all connections."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        for connection in self._connections:
            await connection.close()

    async def _channel(self, info: QueueInfo) -> AbstractChannel:
        connection = await aiormq.connect(info.connection_url)
        self._connections.append(connection)
        return await connection.channel(publisher_confirms=True)

    async def _command(self, message: DeliveredMessage) -> None:
        credentials = StartCommand.model_validate_json(message.body).arguments.amqp_creds
        if self._endpoint_id is None:
            self._endpoint_id = credentials.endpoint_id
            await self._serve(credentials)
        await message.channel.basic_ack(message.delivery_tag)

    async def _serve(self, credentials: AgentCredentials) -> None:
        channel = await self._channel(credentials.task_queue_info)
        state = {"active": True, "managers": 1, "active_managers": 1, "total_workers": 1, "idle_workers": 1}
        self._report(channel, credentials.endpoint_id, credentials.heartbeat_queue_info, state)

        async def task(message: DeliveredMessage) -> None:
            task_id = str((message.header.properties.headers or {})["task_uuid"])
            result = run_task(message.body, task_id, str(credentials.endpoint_id), run_dir=self._run_dir)
            self._start(self._answer(channel, credentials.result_queue_info, result, message))

        await channel.basic_consume(credentials.task_queue_info.queue, task, exclusive=True)

    async def _answer(
        self, channel: AbstractChannel, info: QueueInfo, result: bytes, message: DeliveredMessage
    ) -> None:
        await _publish(channel, info, result)
        await channel.basic_ack(message.delivery_tag)  # type: ignore[arg-type]

    def _report(self, channel: AbstractChannel, endpoint_id: uuid.UUID, info: QueueInfo, state: dict[str, Any]) -> None:
        async def beat() -> None:
            while True:
                whole = {**state, "heartbeat_period": _PERIOD_S}
                report = EPStatusReport(endpoint_id=endpoint_id, global_state=whole, task_statuses={})
                await _publish(channel, info, pack(report))
                await asyncio.sleep(_PERIOD_S)

        self._start(beat())

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


async def _publish(channel: AbstractChannel, info: QueueInfo, body: bytes) -> None:
    told = info.queue_publish_kwargs or {}
    await channel.basic_publish(
        body,
        exchange=told.get("exchange", ""),
        routing_key=told.get("routing_key", ""),
        properties=aiormq.spec.Basic.Properties(**told.get("properties", {})),
        mandatory=bool(told.get("mandatory", True)),
    )


async def serve(registered: list[EndpointRegistered], run_dir: str, answers: Any) -> None:
    """Run the agents until stdin ends."""
    agents = [SimulatedAgent(one, run_dir) for one in registered]
    try:
        for agent in agents:
            await agent.start()
        print(json.dumps({"ids": [str(one.endpoint_id) for one in registered]}), file=answers, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    finally:
        await asyncio.gather(*(agent.stop() for agent in agents), return_exceptions=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    options = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever tasks print is no answer
    client = ServiceClient(default_client())
    registered = [
        client.register_endpoint(EndpointRegistration(endpoint_name=f"simulated-{options.count}-{number}"), None)
        for number in range(options.count)
    ]
    with tempfile.TemporaryDirectory() as run_dir:
        asyncio.run(serve(registered, run_dir, answers))


if __name__ == "__main__":
    main()
