"""Every public method of the SDK's classes, each called by a row of its own. Usage: sdk_api.py ENDPOINT_ID [GROUP].

What is printed are the methods that were called, by class, and ids for `sdk_guest.py`.
"""

from __future__ import annotations

import inspect
import json
import sys
import threading
import time
import uuid
from datetime import datetime, timezone
from typing import Any

import globus_sdk
from globus_compute_sdk import Client, Executor, MPIFunction, ShellFunction
from globus_compute_sdk.errors import TaskExecutionFailed, VersionMismatch
from globus_compute_sdk.serialize import ComputeSerializer, JSONData

SOURCE = "def triple(x):\n    return 3 * x\n"


def double(x):
    return 2 * x


def pair(x):
    return (x, x)  # as JSON, a list


def refusal(call, *arguments, **options) -> globus_sdk.GlobusAPIError:
    """The error that a call is answered with."""
    try:
        call(*arguments, **options)
    except globus_sdk.GlobusAPIError as exc:
        return exc
    raise AssertionError(f"{call} was not refused")


class Rows:
    """A row is a method named as the one it calls; all are called, in the order they are written in."""

    #: The class whose public methods need a row each.
    of: type

    def __init__(self, client: Client, endpoint_id: str, group_id: str | None) -> None:
        self.client = client
        self.endpoint_id = endpoint_id
        self.group_id = group_id
        self.told: dict[str, str] = {}

    def run(self) -> list[str]:
        wanted = {name for name, value in inspect.getmembers(self.of, inspect.isfunction) if name[0] != "_"}
        wanted -= {name for name, _ in inspect.getmembers(globus_sdk.BaseClient, inspect.isfunction)}
        rows = [name.removeprefix("row_") for name in vars(type(self)) if name.startswith("row_")]
        assert wanted == set(rows), wanted.symmetric_difference(rows)
        for name in rows:
            getattr(self, f"row_{name}")()
        return sorted(rows)

    def wait(self, task_id: str, within_s: float = 60.0):
        """A task's result, asked for as a user without AMQP does."""
        deadline_s = time.monotonic() + within_s
        pause = threading.Event()
        while (task := self.client.get_task(task_id))["pending"]:
            assert time.monotonic() < deadline_s, task
            pause.wait(0.1)
        return self.client.get_result(task_id)


class ClientRows(Rows):
    of = Client

    def row_version_check(self):
        self.client.version_check()
        self.client.version_check("4.19.0")
        try:
            self.client.version_check("0.0.1")
        except VersionMismatch:
            return
        raise AssertionError("an endpoint of version 0.0.1 is good enough")

    def row_register_function(self):
        self.double = self.client.register_function(double, description="twice as much")
        self.told["private"] = self.double
        self.told["public"] = self.client.register_function(double, public=True)
        if self.group_id is not None:
            self.told["group"] = self.client.register_function(double, group=self.group_id)
        stranger = refusal(self.client.register_function, double, group=str(uuid.uuid4()))
        assert stranger.http_status == 403, stranger

    def row_register_source_code(self):
        versions = {"python_version": "3.9.1", "sdk_version": "4.18.0"}
        self.triple = self.client.register_source_code(SOURCE, "triple", metadata=versions)

    def row_get_function(self):
        found = self.client.get_function(self.double)
        assert (found["function_uuid"], found["function_name"]) == (self.double, "double"), found
        assert found["description"] == "twice as much"
        source = self.client.get_function(self.triple)
        assert source["metadata"] == {"python_version": "3.9.1", "sdk_version": "4.18.0"}, source
        assert refusal(self.client.get_function, uuid.uuid4()).http_status == 404

    def row_run(self):
        self.task_id = self.client.run(21, endpoint_id=self.endpoint_id, function_id=self.double)
        assert self.wait(self.task_id, 120.0) == 42
        assert self.wait(self.client.run(x=5, endpoint_id=self.endpoint_id, function_id=self.triple)) == 15

    def row_get_task(self):
        assert Client().get_task(self.task_id)["status"] == "success"
        assert refusal(self.client.get_task, str(uuid.uuid4())).http_status == 404

    def row_get_result(self):
        assert Client().get_result(self.task_id) == 42

    def row_create_batch(self):
        self.batch = self.client.create_batch(result_serializers=[f"{JSONData.__module__}.{JSONData.__name__}"])
        pairs = self.client.register_function(pair)
        for x in range(3):
            self.batch.add(pairs, args=(x,))
        self.batch.add(self.triple, kwargs={"x": 7})

    def row_batch_run(self):
        reply = self.client.batch_run(self.endpoint_id, self.batch)
        assert uuid.UUID(reply["task_group_id"])
        self.batch_ids = [task_id for ids in reply["tasks"].values() for task_id in ids]
        for task_id in self.batch_ids:
            self.wait(task_id)

    def row_get_batch_result(self):
        found = Client().get_batch_result(self.batch_ids)
        # Lists, not tuples: the results came as JSON.
        assert [found[task_id]["result"] for task_id in self.batch_ids] == [[0, 0], [1, 1], [2, 2], 21], found

    def row_get_worker_hardware_details(self):
        report = self.wait(self.client.get_worker_hardware_details(self.endpoint_id))
        assert "CPU" in report.upper(), report

    def row_register_endpoint(self):
        asked = {"display_name": "A new one", "allowed_functions": [self.triple], "metadata": {"a": 1}}
        reply = self.client.register_endpoint("new", None, **asked)
        self.new_id = reply["endpoint_id"]
        assert self.client.register_endpoint("new", self.new_id, **asked)["endpoint_id"] == self.new_id

    def row_get_endpoints(self):
        for role in (None, "owner", "any"):
            found = {endpoint["uuid"]: endpoint["name"] for endpoint in self.client.get_endpoints(role=role)}
            assert found[self.new_id] == "new"
            assert self.endpoint_id in found

    def row_get_endpoint_metadata(self):
        found = self.client.get_endpoint_metadata(self.new_id)
        assert (found["uuid"], found["display_name"], found["metadata"]) == (self.new_id, "A new one", {"a": 1})

    def row_get_endpoint_status(self):
        assert self.client.get_endpoint_status(self.endpoint_id)["status"] == "online"

    def row_get_allowed_functions(self):
        found = self.client.get_allowed_functions(self.new_id)
        assert (found["restricted"], found["functions"]) == (True, [self.triple])
        assert not self.client.get_allowed_functions(self.endpoint_id)["restricted"]
        refused = refusal(self.client.run, 1, endpoint_id=self.new_id, function_id=self.double)
        assert (refused.http_status, refused.code) == (403, "FUNCTION_NOT_PERMITTED")

    def row_stop_endpoint(self):
        assert self.client.stop_endpoint(self.new_id)["endpoint_id"] == self.new_id
        refused = refusal(self.client.register_endpoint, "again", self.new_id, metadata={})
        assert (refused.http_status, refused.code) == (423, "ENDPOINT_LOCKED")

    def row_delete_endpoint(self):
        self.client.delete_endpoint(self.new_id)
        assert refusal(self.client.get_endpoint_metadata, self.new_id).http_status == 404

    def row_delete_function(self):
        self.client.delete_function(self.triple)
        assert refusal(self.client.get_function, self.triple).http_status == 404

    def row_get_result_amqp_url(self):
        found = self.client.get_result_amqp_url()
        assert found["connection_url"].startswith("amqp://")
        assert found["queue_prefix"]

    def row_logout(self):
        leaving = Client()
        leaving.logout()
        # A client that logs in by its secret comes back by itself.
        assert Client().get_function(self.double)["function_uuid"] == self.double


class ExecutorRows(Rows):
    of = Executor

    def executor(self, **options) -> Executor:
        # By default, all executors of a process have the same group.
        executor = Executor(endpoint_id=self.endpoint_id, **{"task_group_id": uuid.uuid4(), **options})
        executor.api_burst_limit = 1  # its rate limiter is off at 1
        return executor

    def row_submit(self):
        self.main = self.executor()
        assert self.main.submit(double, 4).result(120) == 8
        shell = self.main.submit(ShellFunction("echo {what}; exit 3"), what="hello").result(60)
        assert (shell.returncode, shell.stdout.strip()) == (3, "hello"), shell
        with self.executor(result_serializers=[JSONData()]) as other:
            assert other.submit(pair, 1).result(60) == [1, 1]
        self.submit_mpi()

    def submit_mpi(self):
        """An engine without MPI says so, in the words of Parsl's error."""
        with self.executor() as other:
            other.resource_specification = {"num_nodes": 1, "ranks_per_node": 2}
            error = other.submit(MPIFunction("hostname")).exception(60)
        assert isinstance(error, TaskExecutionFailed), error
        assert "Invalid Resource Specification" in str(error), error

    def row_map(self):
        try:
            self.main.map(double, [1])
        except NotImplementedError:
            return  # the SDK offers none
        raise AssertionError("there is a map now: test it")

    def row_register_function(self):
        self.function_id = self.main.register_function(pair)

    def row_register_source_code(self):
        self.source_id = self.main.register_source_code(SOURCE, "triple")

    def row_submit_to_registered_function(self):
        assert self.main.submit_to_registered_function(self.function_id, args=(6,)).result(60) == (6, 6)
        assert self.main.submit_to_registered_function(self.source_id, kwargs={"x": 6}).result(60) == 18

    def row_get_worker_hardware_details(self):
        assert "CPU" in self.main.get_worker_hardware_details().upper()

    def row_shutdown(self):
        self.main.shutdown()

    def row_reload_tasks(self):
        with self.executor(task_group_id=self.main.task_group_id) as again:
            results = [future.result(60) for future in again.reload_tasks()]
        assert len(results) == 5, results
        assert all(expected in results for expected in (8, (6, 6), 18)), results


class RestRows(Rows):
    """The clients of REST that the SDK's are made of."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.rest: Any = self.of(app=self.client.app, base_url=self.client.web_service_address)
        self.payload = ComputeSerializer().pack_buffers(
            [ComputeSerializer().serialize((8,)), ComputeSerializer().serialize({})]
        )

    def registration(self) -> dict:
        code = ComputeSerializer().serialize(double)
        return {"function_name": "double", "function_code": ComputeSerializer().pack_buffers([code])}


class V2Rows(RestRows):
    of = globus_sdk.ComputeClientV2

    def row_get_version(self):
        assert "api" in self.rest.get_version()
        assert {"api", "min_sdk_version", "min_ep_version"} <= set(self.rest.get_version(service="all").data)

    def row_get_result_amqp_url(self):
        assert self.rest.get_result_amqp_url()["queue_prefix"]

    def row_register_endpoint(self):
        self.new_id = self.rest.register_endpoint({"endpoint_name": "v2"})["endpoint_id"]

    def row_get_endpoint(self):
        assert self.rest.get_endpoint(self.new_id)["name"] == "v2"

    def row_get_endpoint_status(self):
        assert self.rest.get_endpoint_status(self.endpoint_id)["status"] == "online"

    def row_get_endpoints(self):
        assert self.new_id in {endpoint["uuid"] for endpoint in self.rest.get_endpoints()}
        assert self.new_id in {endpoint["uuid"] for endpoint in self.rest.get_endpoints(role="owner")}

    def row_lock_endpoint(self):
        until = self.rest.lock_endpoint(self.new_id)["lock_expiration_timestamp"]
        assert datetime.fromisoformat(until) > datetime.now(timezone.utc).replace(tzinfo=None)

    def row_delete_endpoint(self):
        self.rest.delete_endpoint(self.new_id)
        assert refusal(self.rest.get_endpoint, self.new_id).http_status == 404

    def row_register_function(self):
        self.function_id = self.rest.register_function(self.registration())["function_uuid"]

    def row_get_function(self):
        assert self.rest.get_function(self.function_id)["function_name"] == "double"

    def row_submit(self):
        task = [self.function_id, self.endpoint_id, self.payload]
        reply = self.rest.submit({"tasks": [task, task], "create_websocket_queue": False})
        self.group_id = reply["task_group_id"]
        self.task_ids = [result["task_uuid"] for result in reply["results"]]
        assert [self.wait(task_id, 120.0) for task_id in self.task_ids] == [16, 16]
        assert refusal(self.rest.submit, {"tasks": []}).http_status == 422

    def row_get_task(self):
        assert self.rest.get_task(self.task_ids[0])["status"] == "success"

    def row_get_task_batch(self):
        assert set(self.rest.get_task_batch(self.task_ids)["results"]) == set(self.task_ids)

    def row_get_task_group(self):
        assert {task["id"] for task in self.rest.get_task_group(self.group_id)["tasks"]} == set(self.task_ids)

    def row_delete_function(self):
        self.rest.delete_function(self.function_id)
        assert refusal(self.rest.get_function, self.function_id).http_status == 404


class V3Rows(RestRows):
    of = globus_sdk.ComputeClientV3

    def row_register_endpoint(self):
        self.new_id = self.rest.register_endpoint({"endpoint_name": "v3"})["endpoint_id"]

    def row_update_endpoint(self):
        assert self.rest.update_endpoint(self.new_id, {"endpoint_name": "v3 again"})["endpoint_id"] == self.new_id

    def row_lock_endpoint(self):
        until = self.rest.lock_endpoint(self.new_id)["lock_expiration_timestamp"]
        assert datetime.fromisoformat(until) > datetime.now(timezone.utc).replace(tzinfo=None)

    def row_get_endpoint_allowlist(self):
        assert self.rest.get_endpoint_allowlist(self.new_id)["functions"] == []
        self.client.delete_endpoint(self.new_id)

    def row_register_function(self):
        self.function_id = self.rest.register_function(self.registration())["function_uuid"]

    def row_submit(self):
        reply = self.rest.submit(self.endpoint_id, {"tasks": {self.function_id: [self.payload]}})
        assert self.wait(reply["tasks"][self.function_id][0]) == 16


def main(endpoint_id: str, group_id: str | None = None) -> None:
    client = Client()
    called, told = {}, {}
    for kind in (ClientRows, ExecutorRows, V2Rows, V3Rows):
        rows = kind(client, endpoint_id, group_id)
        called[kind.of.__name__] = rows.run()
        told.update(rows.told)
    print(json.dumps({"called": called, "functions": told}))


if __name__ == "__main__":
    main(*sys.argv[1:])
