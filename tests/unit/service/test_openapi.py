"""Whatever a request looks like, the service's own OpenAPI document in hand: it is answered, and not with a 5xx."""

from __future__ import annotations

import re
import uuid
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from people import People
from schemathesis.checks import not_a_server_error
from service_thread import ServiceThread

from parsl_globus.service.app import create_app
from parsl_globus.service.auth.logins import BrokerLogins
from parsl_globus.service.auth.static import StaticAuthenticator
from parsl_globus.service.broker.embedded import EmbeddedBroker
from parsl_globus.service.config import ServiceConfig
from parsl_globus.service.routes.openapi import document
from parsl_globus.service.store.memory import MemoryStore

#: Of each operation; each is sent as it is, and once more with ids that the service knows.
EXAMPLES = 15


def _schema():
    store = MemoryStore()
    auth = StaticAuthenticator(store, token_life_s=1)
    logins = BrokerLogins(b"k" * 32, control=True)
    app = create_app(ServiceConfig(Path("unused")), store, EmbeddedBroker(), auth, logins)
    return schemathesis.openapi.from_dict(document(app))


schema = _schema()


class World:
    """A service with one of everything."""

    def __init__(self, folder) -> None:
        self.service = ServiceThread(folder).start()
        self.people = People(self.service)
        self.owner = self.people.root
        self.known = {"endpoint_id": self.owner.good("POST", "/v3/endpoints", {"endpoint_name": "e"})["endpoint_id"]}
        self.known["function_id"] = self.owner.function()
        submitted = self.owner.submit(self.known["endpoint_id"], self.known["function_id"], ["x"])
        self.known["task_id"] = submitted["tasks"][self.known["function_id"]][0]
        self.known["group_id"] = submitted["task_group_id"]
        self.known["blob_id"] = str(uuid.uuid4())
        assert self.owner.call("PUT", f"/v3/blobs/{self.known['blob_id']}", data=b"x").ok
        self.people.user("someone")
        self.people.group("devs")
        self.known |= {"kind": "user", "user": "someone"}

    def authorization(self, path: str) -> str:
        session = self.people.admin.session if path.startswith("/v3/admin") else self.owner.session
        return str(session.headers["Authorization"])

    def close(self) -> None:
        self.people.close()
        self.service.stop()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("openapi") / "data")
    yield world
    world.close()


def is_answered(case, world):
    headers = {"Authorization": world.authorization(case.path)}
    case.call_and_validate(base_url=world.service.url, headers=headers, checks=[not_a_server_error])
    if case.method != "DELETE":
        use_known(case, world.known)
        case.call_and_validate(base_url=world.service.url, headers=headers, checks=[not_a_server_error])


def _test_of(operation):
    @schema.include(path=operation.path, method=operation.method).parametrize()
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def test(case, world):
        is_answered(case, world)

    return test


# A function for each operation: the tests of one for all have the same ID with pytest 9.2 and schemathesis 4.32.
OPERATIONS = {
    f"test_no_request_is_answered_with_a_5xx_{operation.method}_{re.sub('[^a-z0-9]+', '_', operation.path).strip('_')}":
    operation for operation in (found.ok() for found in schema.get_all_operations())
}  # fmt: skip
globals().update({name: _test_of(operation) for name, operation in OPERATIONS.items()})


def test_each_operation_is_tested():
    told = {(path, method) for path, methods in schema.raw_schema["paths"].items() for method in methods}
    assert {(operation.path, operation.method) for operation in OPERATIONS.values()} == told


def use_known(case, known):
    """Name what there is, so that the request goes further than to a 404."""
    case.path_parameters = {name: known.get(name, value) for name, value in (case.path_parameters or {}).items()}
    case.headers.pop("Idempotency-Key", None)
    if isinstance(case.body, dict):
        tasks = case.body.get("tasks")
        if isinstance(tasks, dict) and tasks:
            case.body["tasks"] = {known["function_id"]: next(iter(tasks.values()))}
        if isinstance(tasks, list):
            payloads = [task[-1] if isinstance(task, list) and task else task for task in tasks]
            case.body["tasks"] = [[known["function_id"], known["endpoint_id"], payload] for payload in payloads]
        if case.body.get("task_ids") == []:
            case.body["task_ids"] = [known["task_id"]]


def test_the_document_is_told_to_everybody(world):
    told = world.owner.good("GET", "/openapi.json")
    assert told == schema.raw_schema
    assert told["paths"]["/v2/tasks/{task_id}"]["get"]["parameters"][0]["schema"]["format"] == "uuid"
