"""A real service in a thread of the test's process, and the ends of its wires."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pika
import requests

from parsl_globus.service.config import ServiceConfig
from parsl_globus.service.server import ServiceAddress, serve
from parsl_globus.wire import codec
from parsl_globus.wire.documents import COMPUTE_SCOPE
from parsl_globus.wire.messages import EPStatusReport, Result, ResultErrorDetails, Task

#: Above what a service promises: what a dead process had stored and not sent is adopted within 25 s.
DEADLINE_S = 60.0


class ServiceThread:
    """Runs `serve` until `stop`; free ports, unless the settings say otherwise."""

    def __init__(self, data_dir: Path, **settings: Any) -> None:
        self.config = ServiceConfig(data_dir, **{"port": 0, "amqp_port": 0, **settings})
        self.address: ServiceAddress | None = None
        self._problem: BaseException | None = None
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="service under test", daemon=True)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._main())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
        except BaseException as exc:  # noqa: BLE001 - handed to the test's thread
            self._problem = exc
        finally:
            self._loop.close()
            self._ready.set()

    async def _main(self) -> None:
        self._stop = asyncio.Event()
        await serve(self.config, self._on_ready, self._stop)

    def _on_ready(self, address: ServiceAddress) -> None:
        self.address = address
        self._ready.set()

    def start(self) -> ServiceThread:
        self._thread.start()
        assert self._ready.wait(DEADLINE_S)
        if self._problem is not None:
            raise self._problem
        return self

    def stop(self) -> None:
        if self._stop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()
        if self._problem is not None:
            raise self._problem

    @property
    def url(self) -> str:
        assert self.address is not None
        return self.address.url

    def rest(self) -> Rest:
        """A logged-in caller: the owner."""
        assert self.address is not None
        return Rest(self.url, str(self.address.owner.client_id), self.address.owner.client_secret)


class Rest:
    """REST calls with plain `requests`: what goes over the wire, nothing else."""

    def __init__(self, url: str, client_id: str, client_secret: str) -> None:
        self.url = url
        self.credentials = (client_id, client_secret)
        self.session = requests.Session()
        self.session.trust_env = False
        reply = self.login(client_id, client_secret, COMPUTE_SCOPE)
        self.session.headers["Authorization"] = f"Bearer {reply.json()['access_token']}"

    def login(self, client_id: str, client_secret: str, scope: str) -> requests.Response:
        return self.session.post(
            f"{self.url}/v2/oauth2/token",
            data={"grant_type": "client_credentials", "scope": scope},
            auth=(client_id, client_secret),
            timeout=DEADLINE_S,
        )

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> requests.Response:
        return self.session.request(method, f"{self.url}{path}", json=body, timeout=DEADLINE_S, **options)

    def good(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        reply = self.call(method, path, body, **options)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def endpoint(self, name: str = "site", **more: Any) -> Manager:
        reply = self.good("POST", "/v3/endpoints", {"endpoint_name": name, "metadata": {}, **more})
        return Manager(reply)

    def function(self, code: str = "5\n01\nab", **more: Any) -> str:
        body = {"function_name": "f", "function_code": code, "serialized": True, **more}
        return self.good("POST", "/v3/functions", body)["function_uuid"]

    def submit(self, endpoint_id: str, function_id: str, payloads: list[str], headers=None, **more: Any) -> Any:
        body = {"create_queue": True, "tasks": {function_id: payloads}, **more}
        return self.good("POST", f"/v3/endpoints/{endpoint_id}/submit", body, headers=headers)

    def results(self, group_id: str) -> Inbox:
        access = self.good("GET", "/v2/get_amqp_result_connection_url")
        return Inbox(access["connection_url"], access["queue_prefix"] + group_id)

    def close(self) -> None:
        self.session.close()


class Inbox:
    """Consumes one queue."""

    def __init__(self, url: str, queue: str) -> None:
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()
        self.queue = queue

    def take(self, count: int) -> list[tuple[pika.BasicProperties, bytes]]:
        """Wait for `count` messages."""
        taken = []
        if count:
            for method, properties, body in self.channel.consume(self.queue, inactivity_timeout=DEADLINE_S):
                assert method is not None, f"{len(taken)} of {count} messages came"
                self.channel.basic_ack(method.delivery_tag)
                taken.append((properties, body))
                if len(taken) == count:
                    break
            self.channel.cancel()
        return taken

    def waiting(self) -> int:
        return self.channel.queue_declare(self.queue, passive=True).method.message_count

    def close(self) -> None:
        if self.connection.is_open:
            with suppress(pika.exceptions.AMQPError):  # a test may have killed the other side
                self.connection.close()


def publish(inbox: Inbox, info: dict[str, Any], body: bytes) -> None:
    """Publish as endpoints do, and wait for the broker's confirm."""
    channel = inbox.connection.channel()
    channel.confirm_delivery()
    kwargs = dict(info["queue_publish_kwargs"])
    kwargs["properties"] = pika.BasicProperties(**kwargs["properties"])
    channel.basic_publish(body=body, **kwargs)
    channel.close()


@dataclass
class Manager:
    """An endpoint's manager: takes commands, sends heartbeats."""

    registered: dict[str, Any]

    def __post_init__(self) -> None:
        info = self.registered["command_queue_info"]
        self.endpoint_id: str = self.registered["endpoint_id"]
        self.inbox = Inbox(info["connection_url"], info["queue"])

    def command(self) -> dict[str, Any]:
        ((properties, body),) = self.inbox.take(1)
        assert properties.content_type == "application/json"
        assert properties.timestamp > 0
        return json.loads(body)

    def report(self, state: dict[str, Any], endpoint_id: str | None = None) -> None:
        message = EPStatusReport(
            endpoint_id=uuid.UUID(endpoint_id or self.endpoint_id), global_state=state, task_statuses={}
        )
        publish(self.inbox, self.registered["heartbeat_queue_info"], codec.pack(message))

    def close(self) -> None:
        self.inbox.close()


class UserEndpoint:
    """A user endpoint: takes tasks, sends results and heartbeats."""

    def __init__(self, command: dict[str, Any]) -> None:
        self.creds = command["kwargs"]["amqp_creds"]
        self.endpoint_id: str = self.creds["endpoint_id"]
        info = self.creds["task_queue_info"]
        self.inbox = Inbox(info["connection_url"], info["queue"])

    def tasks(self, count: int) -> list[tuple[pika.BasicProperties, Task]]:
        return [(properties, codec.unpack(body, Task)) for properties, body in self.inbox.take(count)]

    def answer(self, task_id: Any, data: str = "00\nvalue", error: str | None = None) -> bytes:
        details = ResultErrorDetails(code="RemoteExecutionError", user_message=error) if error else None
        body = codec.pack(Result(task_id=task_id, data=data, error_details=details))
        self.publish_result(body)
        return body

    def publish_result(self, body: bytes) -> None:
        publish(self.inbox, self.creds["result_queue_info"], body)

    def report(self, state: dict[str, Any]) -> None:
        message = EPStatusReport(endpoint_id=uuid.UUID(self.endpoint_id), global_state=state, task_statuses={})
        publish(self.inbox, self.creds["heartbeat_queue_info"], codec.pack(message))

    def close(self) -> None:
        self.inbox.close()
