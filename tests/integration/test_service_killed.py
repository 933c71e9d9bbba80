"""The service is killed with -9 while results arrive: what it had confirmed is there when it is back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pika
from service_thread import Rest, UserEndpoint

COUNT = 400


def start(port: int, amqp_port: int) -> tuple[subprocess.Popen[str], dict]:
    command = [sys.executable, "-m", "parsl_globus.cli", "service", "run"]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--amqp-port", str(amqp_port)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline().startswith("service ready")
    return process, json.loads(Path(os.environ["PARSL_GLOBUS_HOME"], "service.json").read_text())


def log_in(url: str) -> Rest:
    known = json.loads(Path(os.environ["PARSL_GLOBUS_HOME"], "credentials.json").read_text())
    (credentials,) = known.values()
    return Rest(url, credentials["client_id"], credentials["client_secret"])


def test_a_confirmed_result_survives(tmp_path):
    process, record = start(0, 0)
    try:
        rest = log_in(record["url"])
        manager = rest.endpoint()
        reply = rest.submit(manager.endpoint_id, rest.function(), ["p"] * COUNT)
        (ids,) = reply["tasks"].values()
        site = UserEndpoint(manager.command())
        assert [str(task.task_id) for _, task in site.tasks(COUNT)] == ids
        confirmed = answer_until_killed(site, ids, process)
        process.communicate()
        for thing in (site, manager, rest):
            thing.close()

        process, record = start(int(record["url"].rpartition(":")[2]), record["amqp_port"])
        rest = log_in(record["url"])
        results = rest.good("POST", "/v2/batch_status", {"task_ids": ids})["results"]
        finished = {task_id for task_id, status in results.items() if status["status"] == "success"}
        assert confirmed <= finished
        # Everything else is handed out again, and every result is delivered.
        site = UserEndpoint({"kwargs": {"amqp_creds": site.creds}})
        again = [task.task_id for _, task in site.tasks(COUNT - len(finished))]
        assert {str(task_id) for task_id in again} == set(ids) - finished
        for task_id in again:
            site.answer(task_id)
        inbox = rest.results(reply["task_group_id"])
        delivered = {json.loads(body[1:])["data"]["task_id"] for _, body in inbox.take(COUNT)}
        assert delivered == set(ids)
        inbox.close()
        site.close()
        rest.close()
    finally:
        process.kill()
        process.communicate()


def answer_until_killed(site: UserEndpoint, ids: list[str], process: subprocess.Popen[str]) -> set[str]:
    """Answer tasks one by one; kills the service amid them. Returns those whose results were confirmed."""
    confirmed: set[str] = set()
    try:
        for task_id in ids:
            if len(confirmed) == COUNT // 2:
                process.kill()
            site.answer(task_id)
            confirmed.add(task_id)
    except pika.exceptions.AMQPError:
        pass
    assert len(confirmed) < COUNT
    return confirmed
