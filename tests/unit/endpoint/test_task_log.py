from __future__ import annotations

import logging
import uuid

from parsl_globus.endpoint.task_log import TaskLog

LOGGER = logging.getLogger("parsl_globus.test_task_log")


def test_tasks_are_told_by_their_ids(caplog):
    caplog.set_level(logging.INFO)
    ids = [uuid.uuid4() for _ in range(45)]
    TaskLog(LOGGER).note("Accepted", ids)
    TaskLog(LOGGER).note("Accepted", [])
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
