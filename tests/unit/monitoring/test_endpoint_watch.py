"""Rows of blocks and nodes, from what the two agents report and from where tasks ran."""

from __future__ import annotations

import datetime
import threading
import uuid

import pytest
from parsl.monitoring.message_type import MessageType

from parsl_globus.errors import ServiceUnreachable
from parsl_globus.monitoring import endpoint_watch as watch_module
from parsl_globus.monitoring.endpoint_watch import EndpointWatch
from parsl_globus.monitoring.records import Node

UEP = uuid.uuid4()
SINCE = datetime.datetime(2026, 1, 1)


def node(block_id="0", job_id=None, uid="pool"):
    return Node("node1", uid, block_id, job_id, 4, 64, 2**38, "3.11.7", SINCE)


class Scene:
    """A watch, and a service that answers with what is set."""

    def __init__(self):
        self.rows = []
        self.listed: dict | None = {str(UEP): {}}
        self.reports = {UEP: {}}
        self.failing = False
        self.rounds = threading.Semaphore(0)
        self.watch = EndpointWatch(self.rows.append, run_id="run", label="site", ask=self.ask)

    def ask(self, endpoint_id):
        if endpoint_id is None:
            self.rounds.release()
        if self.failing:
            raise ServiceUnreachable(url="http://127.0.0.1:1")
        if endpoint_id is not None:
            return self.reports[endpoint_id]
        if self.listed is None:
            return {}
        reports = [{"endpoint_id": str(key), "report": report} for key, report in self.reports.items()]
        return {"parsl_globus": {"user_endpoints": reports}}

    def report(self, **report):
        """Have the next two rounds see it."""
        self.reports[UEP] = report
        for _ in range(2):
            assert self.rounds.acquire(timeout=60)

    def blocks(self):
        rows = [row for kind, content in self.rows if kind == MessageType.BLOCK_INFO for row in content]
        return [(row["block_id"], row["job_id"], row["status"]) for row in rows]

    def nodes(self):
        return [content for kind, content in self.rows if kind == MessageType.NODE_INFO]


@pytest.fixture
def scene(monkeypatch):
    monkeypatch.setattr(watch_module, "PERIOD_S", 0.01)
    scene = Scene()
    scene.watch.start()
    yield scene
    scene.watch.stop()


def test_our_agent_tells_each_block_s_state(scene):
    scene.report(blocks={"0": {"job_id": "77", "status": "PENDING"}})
    scene.report(blocks={"0": {"job_id": "77", "status": "RUNNING"}, "1": {"job_id": None, "status": "FAILED"}})
    scene.report(blocks={"0": {"job_id": "77", "status": "COMPLETED"}})
    scene.watch.stop()
    assert [row for row in scene.blocks() if row[0] == "0"] == [
        ("0", "77", "PENDING"),
        ("0", "77", "RUNNING"),
        ("0", "77", "COMPLETED"),
    ]
    assert ("1", None, "FAILED") in scene.blocks()


def test_rows_of_a_block_have_times_of_their_own(scene):
    for number in range(20):
        scene.reports[UEP] = {"blocks": {"0": {"job_id": str(number), "status": "RUNNING"}}}
        assert scene.rounds.acquire(timeout=60)
    scene.watch.stop()
    times = [content[0]["timestamp"] for kind, content in scene.rows if kind == MessageType.BLOCK_INFO]
    assert sorted(times) == times
    assert len(set(times)) == len(times)


def test_the_public_agent_tells_jobs_and_workers_their_blocks(scene):
    scene.watch.note(node("0", "77"), str(UEP))
    scene.watch.note(node("1", "78", uid="other"), str(UEP))
    scene.report(node_info={"78": [{"worker_count": 2}], "77": [{"worker_count": 2}]}, managers=2)
    scene.report(node_info={"78": [{"worker_count": 2}]}, managers=1)
    scene.watch.stop()
    assert sorted(scene.blocks()) == [("0", "77", "RUNNING"), ("0", "77", "UNKNOWN"), ("1", "78", "RUNNING")]


def test_one_job_and_one_block_are_the_same_though_no_scheduler_says_so(scene):
    scene.watch.note(node("0"), str(UEP))
    scene.report(node_info={"4711": [{"worker_count": 2}]})
    scene.watch.stop()
    assert scene.blocks() == [("0", "4711", "RUNNING")]
    assert len(scene.nodes()) == 1


def test_a_service_that_lists_no_user_endpoints_is_asked_for_those_that_ran_tasks(scene):
    scene.listed = None
    scene.report(blocks={"0": {"job_id": "77", "status": "RUNNING"}})
    assert scene.blocks() == []
    scene.watch.note(node(), str(UEP))
    scene.report(blocks={"0": {"job_id": "77", "status": "RUNNING"}})
    scene.watch.stop()
    assert scene.blocks() == [("0", "77", "RUNNING")]


def test_of_several_user_endpoints_those_count_that_ran_tasks(scene):
    scene.reports[uuid.uuid4()] = {"blocks": {"9": {"job_id": "1", "status": "RUNNING"}}}
    scene.report(blocks={"0": {"job_id": "77", "status": "RUNNING"}})
    assert scene.blocks() == []
    scene.watch.note(node(), str(UEP))
    scene.report(blocks={"0": {"job_id": "77", "status": "RUNNING"}})
    scene.watch.stop()
    assert scene.blocks() == [("0", "77", "RUNNING")]


def test_where_a_task_ran_a_block_ran_though_no_report_came_since(scene):
    scene.report(blocks={"0": {"job_id": "77", "status": "PENDING"}})
    scene.watch.note(node(), str(UEP))
    scene.watch.stop()
    assert scene.blocks() == [("0", "77", "PENDING"), ("0", "77", "RUNNING")]


def test_each_node_has_one_row_and_so_has_one_that_ran_no_task(scene):
    scene.watch.note(node(), str(UEP))
    scene.watch.note(node(), None)
    manager = {"worker_count": 2, "python_version": "3.11"}
    scene.report(node_info={"77": [manager, manager]}, blocks={"0": {"job_id": "77", "status": "RUNNING"}})
    scene.watch.stop()
    known, unknown = scene.nodes()
    assert (known["hostname"], known["cpu_count"], known["timestamp"]) == ("node1", 64, SINCE)
    assert (unknown["hostname"], unknown["worker_count"], unknown["block_id"]) == ("unknown", 2, "0")


def test_an_odd_report_or_an_outage_ends_nothing(scene):
    scene.report(blocks={"0": "odd"}, node_info=3)
    scene.failing = True
    scene.report()
    scene.failing = False
    scene.report(blocks={"0": {"job_id": "77", "status": "RUNNING"}})
    scene.watch.stop()
    assert scene.blocks() == [("0", "77", "RUNNING")]


def test_nothing_is_put_after_the_end(scene):
    scene.watch.stop()
    scene.watch.note(node(), str(UEP))
    assert scene.rows == []
