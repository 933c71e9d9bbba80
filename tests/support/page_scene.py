"""A service with something to look at: endpoints of several kinds, and tasks in all states."""

from __future__ import annotations

import time
from typing import Any

import requests
from service_thread import DEADLINE_S, Rest, UserEndpoint

from parsl_globus.wire import codec
from parsl_globus.wire.messages import ActorName, Result, ResultErrorDetails, TaskState, TaskTransition
from parsl_globus.wire.people import ADMIN_SCOPE

TRACEBACK = """\
Traceback (most recent call last):
  File "/home/ada/forest/regrow.py", line 48, in regrow
    biomass = step(state, years)
  File "/home/ada/forest/model.py", line 112, in step
    return grow(state["oaks"], years)
KeyError: 'the oaks of Dodona'
"""


def running(engine: str, provider: str, workers: int, idle: int, blocks: int, most: int) -> dict[str, Any]:
    """A user endpoint's report."""
    busy = workers - idle
    return {
        "heartbeat_period": 30,
        "active": True,
        "engine_type": engine,
        "provider_type": provider,
        "total_workers": workers,
        "idle_workers": idle,
        "managers": blocks,
        "active_managers": blocks,
        "node_info": {str(block): [{"worker_count": workers // max(1, blocks)}] for block in range(blocks)},
        "max_blocks": most,
        "outstanding_tasks": busy,
        "pending_tasks": 0,
    }


def result(task_id: Any, began_ns: int, *, data: str = "00\nvalue", error: str | None = None, code: str = "") -> bytes:
    """A result as our worker sends it."""
    details = ResultErrorDetails(code=code or "RemoteExecutionError", user_message=error) if error else None
    return codec.pack(
        Result(
            task_id=task_id,
            data=data,
            error_details=details,
            details={
                "hostname": "nid004711",
                "os": "Linux-6.1.0-x86_64-with-glibc2.36",
                "python_version": "3.11.2",
                "dill_version": "0.3.9",
                "globus_compute_sdk_version": "4.19.0",
            },
            task_statuses=[
                TaskTransition(timestamp=began_ns, state=TaskState.EXEC_START, actor=ActorName.WORKER),
                TaskTransition(timestamp=began_ns + 4_000_000, state=TaskState.EXEC_END, actor=ActorName.WORKER),
            ],
        )
    )


def login_link(rest: Rest) -> str:
    """A link that logs this caller in, once."""
    return rest.url + rest.good("POST", "/login/link")["path"]


def another_user(rest: Rest, name: str) -> Rest:
    """Somebody who is no administrator; `rest` is one."""
    admin = requests.post(
        f"{rest.url}/v3/admin/users",
        json={"username": name},
        headers={"Authorization": f"Bearer {_admin_token(rest)}"},
        timeout=DEADLINE_S,
    )
    assert admin.status_code == 200, admin.text
    return Rest(rest.url, admin.json()["client_id"], admin.json()["client_secret"])


def _admin_token(rest: Rest) -> str:
    reply = rest.login(*rest.credentials, ADMIN_SCOPE)
    return str(reply.json()["access_token"])


class Scene:
    """Endpoints and tasks, with whose hands the tests play.

    Attributes:
        manager: An endpoint that is online.
        user_endpoint: Its user endpoint.
        task_ids: Of three tasks: one has a value, one failed, one waits.
    """

    def __init__(self, rest: Rest, name: str, function: str = "regrow") -> None:
        self.rest = rest
        self.manager = rest.endpoint(name.lower(), display_name=name, metadata={"hostname": "login1.example.org"})
        self.manager.report({"heartbeat_period": 30})
        self.function_id = rest.function(function_name=function)
        self.task_ids = self.submit(3)
        self.user_endpoint = UserEndpoint(self.manager.command())
        self.user_endpoint.report(running("GlobusComputeEngine", "SlurmProvider", 128, 96, 2, 4))
        self.user_endpoint.tasks(3)
        self.answer(self.task_ids[0])
        self.answer(self.task_ids[1], data=TRACEBACK, error="An error occurred during the execution of this task")

    def submit(self, count: int) -> list[str]:
        reply = self.rest.submit(self.manager.endpoint_id, self.function_id, ["x" * 300] * count)
        return list(reply["tasks"][self.function_id])

    def answer(self, task_id: str, **how: Any) -> None:
        """End a task, and wait until the service has its result."""
        self.user_endpoint.publish_result(result(task_id, time.time_ns() - 5_000_000, **how))
        deadline_s = time.monotonic() + DEADLINE_S
        while self.rest.good("GET", f"/v2/tasks/{task_id}")["status"] not in ("success", "failed"):
            assert time.monotonic() < deadline_s, "the result did not come"

    def close(self) -> None:
        self.user_endpoint.close()
        self.manager.close()
