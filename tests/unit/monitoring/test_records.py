"""What comes home from workers is checked, record by record, before Parsl's database gets it."""

from __future__ import annotations

import datetime
import time

import pytest
from parsl.monitoring.message_type import MessageType

from parsl_globus.monitoring.records import decode

RUN = "0a1b"
FIRST = {
    "type": "WORKER_TASK_INFO",
    "run_id": RUN,
    "task_id": 3,
    "try_id": 0,
    "timestamp": 1_700_000_000.5,
    "hostname": "node1",
    "block_id": "0",
    "first_msg": True,
    "last_msg": False,
}
SAMPLE = {
    "type": "RESOURCE_INFO",
    "run_id": RUN,
    "task_id": 3,
    "try_id": 0,
    "timestamp": 1_700_000_001.0,
    "hostname": "node1",
    "psutil_process_memory_resident": 10**9,
    "psutil_process_time_user": 1.5,
    "psutil_process_status": "sleeping",
    "psutil_cpu_num": 7,
}
NODE = {
    "hostname": "node1",
    "uid": "pool",
    "block_id": "0",
    "job_id": None,
    "worker_count": 4,
    "cpu_count": 64,
    "total_memory": 2**38,
    "python_v": "3.11.7",
    "timestamp": 1_700_000_000.0,
}


def test_good_records_become_messages_of_parsl_s():
    taken = decode({"records": [FIRST, SAMPLE], "node": NODE}, RUN)
    assert taken.troubles == []
    assert [kind for kind, _ in taken.messages] == [MessageType.WORKER_TASK_INFO, MessageType.RESOURCE_INFO]
    content = taken.messages[1][1]
    assert content["psutil_process_memory_resident"] == 10**9
    assert "type" not in content
    assert taken.node.cpu_count == 64


@pytest.fixture
def far_zone(monkeypatch):
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_times_become_this_machine_s_wherever_the_worker_was(far_zone):
    (message,) = decode({"records": [FIRST]}, RUN).messages
    assert message[1]["timestamp"] == datetime.datetime(2023, 11, 15, 12, 13, 20, 500_000)  # UTC + 14 h


@pytest.mark.parametrize(
    "bad",
    [
        {**FIRST, "run_id": "another"},
        {**FIRST, "task_id": "3"},
        {**FIRST, "task_id": 2**70},
        {**FIRST, "timestamp": 1e300},
        {**FIRST, "timestamp": None},
        {**FIRST, "first_msg": False},
        {key: value for key, value in FIRST.items() if key != "last_msg"},
        {**SAMPLE, "psutil_process_memory_resident": "much"},
        {**SAMPLE, "psutil_process_disk_read": 10**30},
        {**SAMPLE, "psutil_process_status": "x" * 5000},
        {**SAMPLE, "new_field": {"nested": True}},
        {**SAMPLE, "type": "TASK_INFO"},
        {**SAMPLE, "type": ["RESOURCE_INFO"]},
        "no record",
        None,
    ],
)
def test_a_bad_record_is_told_and_harms_no_other(bad):
    taken = decode({"records": [FIRST, bad, SAMPLE], "node": NODE}, RUN)
    assert len(taken.messages) == 2
    assert len(taken.troubles) == 1
    assert taken.node is not None


def test_a_new_field_of_a_newer_parsl_passes():
    assert decode({"records": [{**SAMPLE, "psutil_gpu": 3}]}, RUN).troubles == []


def test_records_of_one_moment_are_one_as_they_are_a_key_of_the_database():
    assert len(decode({"records": [FIRST, SAMPLE, SAMPLE]}, RUN).messages) == 2


@pytest.mark.parametrize("home", [None, [], {}, {"records": 3}])
def test_what_is_no_such_thing_at_all_is_told(home):
    assert decode(home, RUN).troubles == ["they are not what a runner sends"]


@pytest.mark.parametrize("bad", [3, {}, {**NODE, "cpu_count": None}, {**NODE, "total_memory": -1}])
def test_a_bad_node_is_told_and_the_records_stay(bad):
    taken = decode({"records": [FIRST], "node": bad}, RUN)
    assert len(taken.messages) == 1
    assert len(taken.troubles) == 1
    assert taken.node is None


def test_what_the_worker_had_trouble_with_is_told():
    taken = decode({"records": [], "trouble": "No space left on device"}, RUN)
    assert taken.troubles == ["the worker says: No space left on device"]
