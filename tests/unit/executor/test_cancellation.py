from __future__ import annotations

import logging
import threading
import uuid
from concurrent.futures import Future

import pytest
from parsl.dataflow.futures import AppFuture

from parsl_globus.errors import ExtensionMissing, ServiceUnreachable, TaskCancelled
from parsl_globus.executor.batcher import Batcher, Waiting
from parsl_globus.executor.cancel import Cancellation, CancelOutcome
from parsl_globus.executor.task_log import TaskLog

DEADLINE_S = 60
LOG = TaskLog("test", uuid.uuid4(), None)


class RecordedService:
    """Takes cancellations down."""

    url = "http://127.0.0.1:9"

    def __init__(self):
        self.asked = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.error = None
        self.called = threading.Semaphore(0)

    def cancel(self, task_ids):
        self.asked += task_ids
        self.called.release()
        assert self.may_answer.wait(DEADLINE_S)
        if self.error is not None:
            raise self.error
        return dict.fromkeys(task_ids, "requested")


@pytest.fixture
def service():
    return RecordedService()


@pytest.fixture
def batcher():
    """Never started, so that what waits stays."""
    return Batcher(
        lambda *_: pytest.fail("nothing should be sent"),
        lambda *_: None,
        renew=lambda: None,
        idempotent=True,
        endpoint_id=uuid.uuid4(),
        label="test",
        max_batch=10,
        linger_s=0,
        service_timeout_s=None,
    )


def submitted(batcher=None):
    future: Future = Future()
    future.parsl_executor_task_id = "1"
    if batcher is not None:
        batcher.put(Waiting(payload="", future=future, group=("", "")))
    return future


def app_future(inner):
    return AppFuture({"id": 1, "exec_fu": inner})


@pytest.mark.parametrize("offered", [True, False])
def test_what_waits_is_withdrawn(service, batcher, offered):
    kept, unwanted = submitted(batcher), submitted(batcher)
    cancellation = Cancellation(service, batcher, offered=offered, log=LOG)
    assert cancellation.cancel([app_future(unwanted)]) == [CancelOutcome.CANCELLED]
    assert isinstance(unwanted.exception(0), TaskCancelled)
    assert len(batcher) == 1
    assert not kept.done()
    assert cancellation.cancel([unwanted]) == [CancelOutcome.FINISHED]
    assert service.asked == []


def test_what_is_being_sent_is_cancelled_as_soon_as_it_has_an_id(service, batcher):
    wanted, unwanted = submitted(), submitted()
    cancellation = Cancellation(service, batcher, offered=True, log=LOG)
    assert cancellation.cancel([unwanted]) == [CancelOutcome.REQUESTED]
    assert service.asked == []
    ids = [uuid.uuid4(), uuid.uuid4()]
    cancellation.submitted(ids, [wanted, unwanted])
    assert service.called.acquire(timeout=DEADLINE_S)
    assert service.asked == ids[1:]
    assert cancellation.cancel([wanted, str(ids[1])]) == [CancelOutcome.REQUESTED] * 2
    assert service.asked[1:] == ids


def test_what_is_no_task_of_this_executor(service, batcher):
    cancellation = Cancellation(service, batcher, offered=True, log=LOG)
    assert cancellation.cancel([Future(), app_future(None)]) == [CancelOutcome.UNKNOWN] * 2


def test_a_service_that_can_t_cancel(service, batcher):
    waiting, sent = submitted(batcher), submitted()
    cancellation = Cancellation(service, batcher, offered=False, log=LOG)
    with pytest.raises(ExtensionMissing, match="1 of 2 tasks had not been sent yet and are cancelled"):
        cancellation.cancel([waiting, sent])
    assert isinstance(waiting.exception(0), TaskCancelled)
    assert not sent.done()
    assert service.asked == []


def late_threads():
    return [thread for thread in threading.enumerate() if thread.name == "cancel-late"]


@pytest.mark.parametrize("error", [ServiceUnreachable(url="http://x"), RuntimeError("shut down")])
def test_a_late_cancellation_neither_holds_up_nor_ends_the_thread_that_submits(service, batcher, caplog, error):
    service.may_answer.clear()
    service.error = error
    unwanted = submitted()
    cancellation = Cancellation(service, batcher, offered=True, log=LOG)
    cancellation.cancel([unwanted])
    cancellation.submitted([uuid.uuid4()], [unwanted])  # returns although the service doesn't answer
    assert service.called.acquire(timeout=DEADLINE_S)
    threads = late_threads()
    service.may_answer.set()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert late_threads() == []
    record, of_the_task = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert of_the_task.getMessage().endswith("was cancelled while it was sent, and will run")
    assert record.getMessage().startswith("1 tasks that were cancelled while they were sent will run")


def test_nothing_is_asked_for_those_of_another_submission(service, batcher):
    cancellation = Cancellation(service, batcher, offered=True, log=LOG)
    unwanted = submitted()
    cancellation.cancel([unwanted])
    cancellation.submitted([uuid.uuid4()], [submitted()])
    assert late_threads() == []
    assert service.asked == []
