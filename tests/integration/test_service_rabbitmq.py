"""The service with RabbitMQ: set up as an operator does, and through the loss of all that the broker held."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from contextlib import ExitStack, suppress

import pika
import pytest
import requests
from rabbitmq import RabbitMQ, free_port
from service_thread import Inbox, Manager, Rest, ServiceThread, UserEndpoint

DEADLINE_S = 60.0
#: Without any task that ends: 60 s went by so on a busy machine once. It may have been the disk, which confirms wait
#: for: while two processes wrote gigabytes, 1.4 tasks a second ended instead of 40. Busy processors alone don't do it.
STALLED_S = 180.0
BATCH = 25


def wait_for(condition, complaint: str) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline_s, complaint
        pause.wait(0.05)


def start_broker_for(server: RabbitMQ, data_dir) -> None:
    """What the operator does while the service waits for the broker: take the lines it has written, and start it."""
    settings = data_dir / "rabbitmq.conf"
    wait_for(settings.exists, "the service wrote no settings for RabbitMQ")
    assert settings.stat().st_mode & 0o777 == 0o600
    server.start(settings.read_text())


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "rabbitmq"
    folder.mkdir()
    server = RabbitMQ(folder)
    yield server
    server.close()


@pytest.fixture
def service(tmp_path, server):
    # The port is in RabbitMQ's settings, so it must be known before both are there.
    service = ServiceThread(tmp_path / "data", port=free_port(), broker_url=server.url, start_repeat_s=0.0)
    starter = threading.Thread(target=start_broker_for, args=(server, tmp_path / "data"))
    starter.start()
    try:
        yield service.start()
    finally:
        starter.join()
        service.stop()


class Site(threading.Thread):
    """A user endpoint that answers each task, and comes back whenever the broker does."""

    def __init__(self, creds: dict) -> None:
        super().__init__(name="site", daemon=True)
        self.creds = creds
        self.ending = threading.Event()
        self.answered: list[str] = []
        self.refused: Exception | None = None

    def run(self) -> None:
        while not self.ending.is_set():
            try:
                self._work()
            except pika.exceptions.ProbableAuthenticationError as exc:
                self.refused = exc  # final for the public agent
                return
            except (pika.exceptions.AMQPError, OSError):
                self.ending.wait(0.2)

    def _work(self) -> None:
        site = UserEndpoint({"kwargs": {"amqp_creds": self.creds}})
        try:
            for method, properties, _ in site.inbox.channel.consume(site.inbox.queue, inactivity_timeout=0.2):
                if self.ending.is_set():
                    return
                if method is None:
                    continue
                task_id = properties.headers["task_uuid"]
                # As the public agent: acknowledged when it is taken, not when it is done.
                site.inbox.channel.basic_ack(method.delivery_tag)
                self.answered.append(task_id)
                site.answer(uuid.UUID(task_id))
        finally:
            with suppress(pika.exceptions.AMQPError, OSError):
                site.close()


def submit(rest: Rest, endpoint_id: str, function_id: str, group_id: str | None) -> dict:
    more = {} if group_id is None else {"task_group_id": group_id}
    return rest.submit(endpoint_id, function_id, ["payload"] * BATCH, **more)


def unfinished(rest: Rest, ids: list[str]) -> set[str]:
    left = set(ids)
    for start in range(0, len(ids), 500):
        results = rest.good("POST", "/v2/batch_status", {"task_ids": ids[start : start + 500]})["results"]
        left -= {task_id for task_id, status in results.items() if status["status"] == "success"}
    return left


def wait_for_ends(rest: Rest, ids: list[str], site: Site) -> None:
    """Wait for as long as tasks end: how many there are depends on how long the broker took to start."""
    left, deadline_s = set(ids), time.monotonic() + STALLED_S
    pause = threading.Event()
    while (still := unfinished(rest, ids)) and site.refused is None:
        if len(still) < len(left):
            left, deadline_s = still, time.monotonic() + STALLED_S
        answered = len(left & set(site.answered))
        assert time.monotonic() < deadline_s, (
            f"{len(left)} of {len(ids)} tasks have not ended, none within {STALLED_S} s; {answered} were answered"
        )
        pause.wait(0.2)


@pytest.mark.timeout(900)  # it ends by its own deadline when no task ends any more; four at a time took 250 s
def test_every_task_ends_although_the_broker_is_wiped_under_load(service, server):
    with ExitStack() as stack:
        rest = service.rest()
        stack.callback(rest.close)
        manager = rest.endpoint()
        function_id = rest.function()
        reply = submit(rest, manager.endpoint_id, function_id, None)
        group_id = reply["task_group_id"]
        (ids,) = reply["tasks"].values()
        site = Site(manager.command()["kwargs"]["amqp_creds"])
        manager.close()
        site.start()
        stack.callback(site.join, DEADLINE_S)
        stack.callback(site.ending.set)

        wiped = threading.Event()

        def wipe() -> None:
            server.stop(kill=True)
            server.wipe()
            server.start()
            wiped.set()

        wiper = threading.Thread(target=wipe)
        stack.callback(wiper.join, DEADLINE_S)
        after = 0
        while after < 4:
            if len(ids) == 8 * BATCH:
                wiper.start()
            (more,) = submit(rest, manager.endpoint_id, function_id, group_id)["tasks"].values()
            ids += more
            # Not so many in the meantime that the site is at them for minutes: nothing holds up who submits.
            after += wiped.wait(1.0 if wiper.ident is not None else 0.0)
        wait_for_ends(rest, ids, site)
        assert site.refused is None
        assert set(site.answered) == set(ids)

        # And what the client's queue held is there again.
        access = rest.good("GET", "/v2/get_amqp_result_connection_url")
        inbox = Inbox(access["connection_url"], access["queue_prefix"] + group_id)
        stack.callback(inbox.close)
        missing = set(ids)
        while missing:
            ((_, body),) = inbox.take(1)
            missing.discard(json.loads(body[1:])["data"]["task_id"])


def test_a_service_that_comes_back_finds_what_the_broker_kept(service, server):
    with ExitStack() as stack:
        rest = service.rest()
        manager = rest.endpoint()
        reply = submit(rest, manager.endpoint_id, rest.function(), None)
        (ids,) = reply["tasks"].values()
        manager.close()
        rest.close()
        service.stop()
        again = ServiceThread(service.config.data_dir, port=service.config.port, broker_url=server.url).start()
        stack.callback(again.stop)
        rest = again.rest()
        stack.callback(rest.close)
        manager = Manager(rest.good("PUT", f"/v3/endpoints/{manager.endpoint_id}", {"endpoint_name": "site"}))
        command = manager.command()
        manager.close()
        site = Site(command["kwargs"]["amqp_creds"])
        site.start()
        stack.callback(site.join, DEADLINE_S)
        stack.callback(site.ending.set)
        wait_for(lambda: not unfinished(rest, ids), "some tasks did not end")
        inbox = rest.results(reply["task_group_id"])
        stack.callback(inbox.close)
        assert {json.loads(body[1:])["data"]["task_id"] for _, body in inbox.take(BATCH)} == set(ids)


def test_only_the_broker_may_ask(service, server):
    for path in ("user", "vhost", "resource", "topic"):
        for secret in ("guess", "%00", "é"):
            reply = requests.post(f"{service.url}/broker-auth/{secret}/{path}", data={"username": "u"}, timeout=20)
            assert reply.status_code == 404, reply.text
    settings = (service.config.data_dir / "rabbitmq.conf").read_text()
    (url,) = [line.split(" = ")[1] for line in settings.splitlines() if line.startswith("auth_http.user_path")]
    for data in ({}, {"username": "m.x", "password": "y"}, {"username": f"m.{uuid.uuid4()}", "password": ""}):
        reply = requests.post(url, data=data, timeout=20)
        assert (reply.status_code, reply.text) == (200, "deny")
    assert requests.post(url, data=b"x" * 100_000, timeout=20).status_code == 413
    assert requests.post(url, data=b"\xff\xfe=1", timeout=20).status_code == 400


# ---- the command ------------------------------------------------------------------------------------------------


COMMAND = [sys.executable, "-m", "parsl_globus.cli", "service", "run", "--port", "0"]


def refused(*options: str, **environment: str) -> str:
    result = subprocess.run(
        [*COMMAND, *options], capture_output=True, text=True, timeout=60, env={**os.environ, **environment}, check=False
    )
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1, result.stderr
    return result.stderr


def test_a_file_that_others_can_read_is_refused(tmp_path):
    file = tmp_path / "broker"
    file.write_text("amqp://u:hidden@127.0.0.1:1")
    file.chmod(0o644)
    assert f"chmod 600 {file}" in refused("--broker-file", str(file))
    file.chmod(0o600)
    file.write_text("\n")
    assert "no URL" in refused("--broker-file", str(file))


def test_a_url_that_is_none_is_refused_without_being_shown():
    for options, environment in (
        (["--broker", "http://u:hidden@host"], {}),
        ([], {"PARSL_GLOBUS_BROKER_URL": "http://u:hidden@host"}),
    ):
        text = refused(*options, **environment)
        assert "amqp://USER:PASSWORD@HOST" in text
        assert "hidden" not in text


def test_the_url_comes_from_a_file(server, tmp_path):
    file = tmp_path / "broker"
    file.touch(mode=0o600)
    file.write_text(f"{server.url}\n")
    server.start("")
    process = subprocess.Popen(
        [*COMMAND, "--broker-file", str(file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline().endswith(f"(AMQP port {server.port})\n")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0, errors
    finally:
        process.kill()
        process.communicate()
