from __future__ import annotations

import logging
import uuid

from parsl_globus.endpoint.task_log import TaskLog

LOGGER = logging.getLogger("parsl_globus.test_task_log")


def test_tasks_are_told_by_their_ids(caplog):
    caplog.set_level(logging.INFO)
    ids = [uuid.uuid4() for _ in range(45)]
    log = TaskLog(LOGGER)
    log.note("Accepted", ids)
    log.note("Accepted", [])
    assert [line.split(":")[0] for line in caplog.messages] == [
        "Accepted 20 tasks",
        "Accepted 20 tasks",
        "Accepted 5 tasks",
    ]
    assert all(str(one) in caplog.text for one in ids)


def test_too_many_are_counted_only(caplog):
    caplog.set_level(logging.INFO)
    ids = [uuid.uuid4() for _ in range(4_000)]
    log = TaskLog(LOGGER)
    log.note("Accepted", ids)
    caplog.clear()
    log.note("Accepted", ids)
    assert caplog.messages == ["Accepted 4000 tasks; there are too many for their ids"]
    caplog.set_level(logging.DEBUG)
    log.note("Accepted", ids)
    assert str(ids[-1]) in caplog.text


def test_few_wait_for_others(caplog):
    caplog.set_level(logging.INFO)
    log = TaskLog(LOGGER)
    ids = [uuid.uuid4() for _ in range(23)]
    for one in ids[:3]:
        log.note("Accepted", [one])
    log.note("Done:", ids[:1])
    assert (caplog.messages, log.waiting) == ([], True)
    log.tell()
    told = " ".join(map(str, ids[:3]))
    assert (caplog.messages, log.waiting) == ([f"Accepted 3 tasks: {told}", f"Done: 1 task: {ids[0]}"], False)
    caplog.clear()
    for one in ids[3:]:
        log.note("Accepted", [one])
    assert (len(caplog.messages), log.waiting) == (1, False)
    caplog.set_level(logging.DEBUG)
    log.note("Failed:", ids[:1])
    assert caplog.messages[1:] == [f"Failed: 1 task: {ids[0]}"]
