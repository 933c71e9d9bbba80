"""Records about tasks, and how a future learns which task of Parsl's it stands for."""

from __future__ import annotations

import logging
import queue
import sys
import time
import uuid
from concurrent.futures import Future
from typing import Any

import parsl
import pytest
from parsl import Config, python_app
from parsl.app.errors import RemoteExceptionWrapper
from parsl.executors.base import ParslExecutor

from parsl_globus.executor import task_log
from parsl_globus.executor.task_log import TaskFuture, TaskLog

ENDPOINT = uuid.uuid4()


class Unreadable(Exception):
    def __str__(self) -> str:
        raise LookupError


class Here(ParslExecutor):
    """Runs each task at once; its "service" gives ids, before or after Parsl has told its own."""

    label = "here"

    def __init__(self, *, early: bool) -> None:
        super().__init__()
        self.log = TaskLog(self.label, ENDPOINT, "the-run")
        self.early = early
        self.ids: list[str] = []
        self.submitted: queue.SimpleQueue[tuple[TaskFuture, uuid.UUID]] = queue.SimpleQueue()
        self.remote_monitoring_radio = None

    def submit(self, func: Any, resource_specification: Any, *args: Any, **kwargs: Any) -> Future[Any]:
        future, task_id = TaskFuture(), uuid.uuid4()
        future.parsl_executor_task_id = str(uuid.uuid4())
        self.log.follow(future)
        self.ids.append(str(task_id))
        if self.early:
            self.log.submitted([task_id], [future])
        self.submitted.put((future, task_id))
        return future

    def end_next(self, outcome: Any) -> None:
        future, task_id = self.submitted.get(timeout=60)
        deadline = time.monotonic() + 60
        while future.parsl_task is None:  # else what has ended by then has no record with it
            assert time.monotonic() < deadline, "Parsl does not tell its id"
            time.sleep(0.001)
        if not self.early:
            self.log.submitted([task_id], [future])
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    def shutdown(self) -> None:
        pass


@python_app
def app() -> None: ...


def records(caplog: Any) -> list[tuple[Any, ...]]:
    """Of each: Parsl's id and try, the service's id, and the words."""
    mine = [one for one in caplog.records if one.name == task_log.logger.name]
    for one in mine:
        assert (vars(one)["parsl.executor"], vars(one)["globus_compute.endpoint"]) == ("here", str(ENDPOINT))
        facts = [vars(one)[name] for name in ("parsl.task", "parsl.try", "globus_compute.task")]
        start = "here: Parsl task {} try {}, task {}, ".format(*facts)
        assert one.getMessage().startswith(f"{start}endpoint {ENDPOINT}: ")
    names = ("parsl.task", "parsl.try", "globus_compute.task")
    return [(*(vars(one)[name] for name in names), one.getMessage().partition(f"{ENDPOINT}: ")[2]) for one in mine]


@pytest.fixture(autouse=True)
def _levels(caplog: Any) -> None:
    caplog.set_level(logging.DEBUG, logger="parsl")


def wrapped() -> RemoteExceptionWrapper:
    """As what an app raised comes home."""
    try:
        raise ValueError("once\nmore")
    except ValueError:
        return RemoteExceptionWrapper(*sys.exc_info())


@pytest.mark.parametrize("first", [ValueError("once\nmore"), wrapped()], ids=["raised", "wrapped"])
@pytest.mark.parametrize("early", [False, True])
def test_records_have_the_ids_of_parsl_and_of_the_service(tmp_path: Any, caplog: Any, early: bool, first: Any) -> None:
    """Fails when Parsl does not give the task's record with its callback any more."""
    executor = Here(early=early)
    config = Config(executors=[executor], run_dir=str(tmp_path), retries=1, initialize_logging=False, strategy="none")
    with parsl.load(config):
        future = app()
        executor.end_next(first)
        executor.end_next(7)
        assert future.result() == 7
    ids = executor.ids
    told = records(caplog)
    if early:  # its record comes again as soon as Parsl's id is known
        assert told.count(("-", "-", ids[0], "submitted")) == 1
        told = [one for one in told if one[0] != "-"]
    assert told == [
        (0, 0, ids[0], "submitted"),
        (0, 0, ids[0], "failed: ValueError: once"),
        (0, 1, ids[1], "submitted"),
        (0, 1, ids[1], "done"),
    ]


def test_other_ends_and_what_is_no_task_of_parsls(caplog: Any) -> None:
    log = TaskLog("here", ENDPOINT, None)
    withdrawn, unreadable, again, late = (TaskFuture() for _ in range(4))
    old, new = uuid.uuid4(), uuid.uuid4()
    for future in (withdrawn, unreadable, again, late):
        log.follow(future)
    withdrawn.cancel()
    withdrawn.set_running_or_notify_cancel()
    unreadable.set_exception(Unreadable())
    log.submitted([old], [again])
    log.again(again, "for a reason")
    log.submitted([new], [again])
    again.set_result(None)
    log.cancelled(late)
    log.runs_on(late)
    assert records(caplog) == [
        ("-", "-", "-", "cancelled before it was sent"),
        ("-", "-", "-", "failed: Unreadable: (it can't be told)"),
        ("-", "-", str(old), "submitted"),
        ("-", "-", str(old), "submitted again, for a reason"),
        ("-", "-", str(new), "submitted"),
        ("-", "-", str(new), "done"),
        ("-", "-", "-", "to be cancelled"),
        ("-", "-", "-", "was cancelled while it was sent, and will run"),
    ]


def test_without_parsls_log_nothing_is_kept(caplog: Any) -> None:
    caplog.set_level(logging.WARNING, logger="parsl")
    log, future = TaskLog("here", ENDPOINT, None), TaskFuture()
    log.follow(future)
    log.submitted([uuid.uuid4()], [future])
    future.set_result(None)
    assert records(caplog) == []
    assert future.task_log is None
