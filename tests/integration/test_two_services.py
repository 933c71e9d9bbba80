"""Two service processes on one PostgreSQL and one RabbitMQ: either knows what the other was told; one may die."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path

import pika
import pytest
import requests
from rabbitmq import RabbitMQ, free_port
from service_thread import Inbox, Rest, UserEndpoint

from parsl_globus.service.auth.logins import BrokerLogins
from parsl_globus.service.broker.rabbitmq.settings import server_settings
from parsl_globus.wire import codec
from parsl_globus.wire.messages import Result

DEADLINE_S = 60.0


class Processes:
    """Service processes by name, each with a folder of its own, as on machines of their own."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.folder = folder
        self.running: dict[str, subprocess.Popen[str]] = {}
        self.ports = {name: free_port() for name in ("a", "b")}
        self.database = folder / "database-url"
        self.broker = folder / "broker-url"
        for path, text in ((self.database, database_url), (self.broker, "")):
            path.touch(mode=0o600)
            path.write_text(text)

    def broker_settings(self, asked: str) -> str:
        """What RabbitMQ must know to ask one of them; made before any has started, by the key of its folder."""
        data = self.folder / asked / "service"
        data.mkdir(parents=True, exist_ok=True)
        key = data / "secret.key"
        if not key.exists():
            key.write_bytes(os.urandom(32))
        secret = BrokerLogins(key.read_bytes(), control=True).auth_secret()
        return server_settings(f"http://127.0.0.1:{self.ports[asked]}", secret)

    def start(self, name: str) -> None:
        command = [sys.executable, "-m", "parsl_globus.cli", "service", "run", "--port", str(self.ports[name])]
        with (self.folder / f"{name}.log").open("a") as log:
            process = subprocess.Popen(
                [*command, "--database-file", str(self.database), "--broker-file", str(self.broker)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "PARSL_GLOBUS_HOME": str(self.folder / name)},
            )
        self.running[name] = process
        line = process.stdout.readline()
        assert line.startswith("service ready"), line + (self.folder / f"{name}.log").read_text()

    def kill(self, name: str) -> None:
        process = self.running.pop(name)
        process.kill()
        process.communicate()

    def stop(self) -> None:
        processes, self.running = list(self.running.values()), {}
        for process in processes:
            process.terminate()
        for process in processes:
            process.communicate(timeout=DEADLINE_S)
            assert process.returncode == 0

    def rest(self, name: str) -> Rest:
        known = json.loads((self.folder / name / "credentials.json").read_text())
        ((url, credentials),) = known.items()
        return Rest(url, credentials["client_id"], credentials["client_secret"])


@pytest.fixture(scope="module")
def rabbit(tmp_path_factory):
    server = RabbitMQ(tmp_path_factory.mktemp("rabbitmq"))
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def processes(rabbit, tmp_path_factory, postgres, migrated_database):
    with postgres.database(template=migrated_database) as url:
        processes = Processes(tmp_path_factory.mktemp("services"), url)
        processes.broker.write_text(rabbit.url)
        rabbit.start(processes.broker_settings("b"))
        try:
            # The first one's key becomes all processes'.
            processes.start("b")
            processes.start("a")
            yield processes
            processes.stop()
        finally:
            for process in processes.running.values():
                process.kill()
                process.communicate()


@pytest.fixture
def both(processes):
    a, b = processes.rest("a"), processes.rest("b")
    yield a, b
    a.close()
    b.close()


class Answering:
    """A user endpoint that answers every task, in a thread, until it is closed."""

    def __init__(self, command: dict) -> None:
        self.site = UserEndpoint(command)
        self.site.report({"heartbeat_period": 120, "active": True})
        self.seen: Counter[str] = Counter()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="user endpoint", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._work()
            except pika.exceptions.AMQPError:
                # As endpoints do: connected again until it works.
                self._stop.wait(0.2)
                with suppress(pika.exceptions.AMQPError, OSError):
                    self.site.close()
                    self.site = UserEndpoint({"kwargs": {"amqp_creds": self.site.creds}})

    def _work(self) -> None:
        info = self.site.creds["result_queue_info"]
        kwargs = dict(info["queue_publish_kwargs"])
        kwargs["properties"] = pika.BasicProperties(**kwargs["properties"])
        results = self.site.inbox.connection.channel()
        results.confirm_delivery()
        channel = self.site.inbox.channel
        for method, properties, _ in channel.consume(self.site.inbox.queue, inactivity_timeout=0.2):
            if self._stop.is_set():
                return
            if method is not None:
                task_id = properties.headers["task_uuid"]
                # A task that comes again is answered again, as after a lost confirm.
                results.basic_publish(body=codec.pack(Result(task_id=uuid.UUID(task_id), data="00\nvalue")), **kwargs)
                channel.basic_ack(method.delivery_tag)
                self.seen[task_id] += 1

    def close(self) -> None:
        self._stop.set()
        self._thread.join(DEADLINE_S)
        self.site.close()


def wait_for(condition, what: str) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline_s, what
        pause.wait(0.1)


def test_either_gives_a_blob_that_the_other_has_taken(both):
    a, b = both
    path, data = f"/v3/blobs/{uuid.uuid4()}", os.urandom(3_000_000)
    assert a.good("PUT", path, data=data)["size_bytes"] == len(data)
    assert b.call("GET", path).content == data
    assert b.good("PUT", path, data=data)["size_bytes"] == len(data)
    b.good("DELETE", path)
    assert a.call("GET", path).status_code == 404


def test_either_knows_what_the_other_was_told(both):
    a, b = both
    assert a.good("GET", "/v2/oauth2/userinfo")["sub"] == b.good("GET", "/v2/oauth2/userinfo")["sub"]
    manager = a.endpoint()
    function = a.function()
    reply = b.submit(manager.endpoint_id, function, ["p"] * 3)
    (ids,) = reply["tasks"].values()
    command = manager.command()
    # The other process does not send it once more.
    b.submit(manager.endpoint_id, function, ["p"], task_group_id=reply["task_group_id"])
    a.submit(manager.endpoint_id, function, ["p"], task_group_id=reply["task_group_id"])
    assert manager.inbox.waiting() == 0
    site = UserEndpoint(command)
    manager.report({"heartbeat_period": 30, "active": True})
    site.report({"heartbeat_period": 30, "active": True})
    assert {str(task.task_id) for _, task in site.tasks(5)} >= set(ids)
    for endpoint_id in (manager.endpoint_id, site.endpoint_id):
        for rest in both:
            status = f"/v2/endpoints/{endpoint_id}/status"
            wait_for(lambda r=rest, s=status: r.good("GET", s)["status"] == "online", "it is online for both")
    site.answer(ids[0])
    inbox = a.results(reply["task_group_id"])
    ((_, body),) = inbox.take(1)
    assert ids[0].encode() in body
    for rest in both:
        assert rest.good("GET", f"/v2/tasks/{ids[0]}")["status"] == "success"
        listed = rest.good("GET", f"/v2/taskgroup/{reply['task_group_id']}")["tasks"]
        assert len(listed) == 5
    # What was deleted at one is gone at the other one.
    a.good("DELETE", f"/v2/functions/{function}")
    body = {"tasks": {function: ["p"]}, "create_queue": False}
    submit = f"/v3/endpoints/{manager.endpoint_id}/submit"
    wait_for(lambda: b.call("POST", submit, body).status_code == 404, "the function is gone")
    other = b.function()
    a.good("DELETE", f"/v2/endpoints/{manager.endpoint_id}")
    refused = b.call("POST", submit, {"tasks": {other: ["p"]}, "create_queue": False})
    assert refused.status_code == 404
    assert b.good("GET", f"/v2/tasks/{ids[1]}")["status"] == "failed"
    for thing in (inbox, site, manager):
        thing.close()


def test_a_submission_with_one_key_counts_once_wherever_it_is_sent(both):
    a, b = both
    manager, function = a.endpoint(), a.function()
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    replies = []

    def submit(rest: Rest) -> None:
        replies.append(rest.submit(manager.endpoint_id, function, ["p"] * 50, headers=headers))

    threads = [threading.Thread(target=submit, args=(rest,)) for rest in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert len(replies) == 2
    assert replies[0] == replies[1]
    manager.close()


def submit_until_taken(ways, endpoint_id: str, function: str, group_id: str) -> list[str]:
    """Submit as clients do: again with the same key, at whichever process answers, until there is an answer."""
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    deadline_s = time.monotonic() + DEADLINE_S
    pause = threading.Event()
    body = {"create_queue": True, "tasks": {function: ["p"] * 20}, "task_group_id": group_id}
    while time.monotonic() < deadline_s:
        for rest in ways:
            try:
                reply = rest.call("POST", f"/v3/endpoints/{endpoint_id}/submit", body, headers=headers)
            except requests.RequestException:
                continue
            if reply.status_code == 200:
                (ids,) = reply.json()["tasks"].values()
                return ids
            assert reply.status_code == 503, reply.text
        pause.wait(0.1)
    raise AssertionError("no process took the submission")


def run_under_load(processes, both, disturb) -> None:
    """Submit through both processes while `disturb(number)` is called between; every task must end, once."""
    a, b = both
    manager, function = b.endpoint(), b.function()
    group_id = b.submit(manager.endpoint_id, function, [])["task_group_id"]
    ids = submit_until_taken([a, b], manager.endpoint_id, function, group_id)
    with closing(manager), closing(Answering(manager.command())):
        for number in range(30):
            disturb(number)
            ways = [a, b] if number % 2 else [b, a]
            ids += submit_until_taken(ways, manager.endpoint_id, function, group_id)

        def unfinished() -> list[str]:
            results = b.good("POST", "/v2/batch_status", {"task_ids": ids})["results"]
            return [task_id for task_id in ids if results[task_id]["status"] != "success"]

        wait_for(lambda: not unfinished(), "all tasks end")
        with closing(b.results(group_id)) as inbox:
            assert delivered(inbox, set(ids)) == set(ids)
        counts = b.good("GET", f"/v2/endpoints/{manager.endpoint_id}/status")["details"]["parsl_globus"]["tasks"]
        assert (counts["done"], counts["failed"], counts["waiting"] + counts["running"]) == (len(ids), 0, 0)


def delivered(inbox: Inbox, wanted: set[str]) -> set[str]:
    """The tasks whose results come, until all of `wanted` have, or no more does."""
    seen: set[str] = set()
    for method, _, body in inbox.channel.consume(inbox.queue, inactivity_timeout=DEADLINE_S):
        if method is None:
            break
        inbox.channel.basic_ack(method.delivery_tag)
        seen.add(json.loads(body[1:])["data"]["task_id"])
        if seen >= wanted:
            break
    inbox.channel.cancel()
    return seen


def test_one_of_them_is_killed_under_load_and_comes_back(processes, both):
    def disturb(number: int) -> None:
        if number == 10:
            processes.kill("a")
        if number == 20:
            processes.start("a")

    run_under_load(processes, both, disturb)


def test_the_broker_loses_everything_under_load(processes, both, rabbit):
    def disturb(number: int) -> None:
        if number == 10:
            rabbit.stop(kill=True)
            rabbit.wipe()
        if number == 15:
            rabbit.start()

    run_under_load(processes, both, disturb)


def test_the_database_is_away_under_load(processes, both, postgres):
    def disturb(number: int) -> None:
        if number == 10:
            postgres.stop(immediately=True)
            threading.Timer(3.0, postgres.start).start()

    run_under_load(processes, both, disturb)
