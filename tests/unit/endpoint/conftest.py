"""Fixtures of the agent's parts; the broker is a stand-in here, the engine, the disk and processes are real."""

from __future__ import annotations

import json
import threading
import uuid
from concurrent.futures import Future

import pytest

from parsl_globus.amqp import Delivery
from parsl_globus.endpoint.spool import Spool


@pytest.fixture
def spool(tmp_path):
    spool = Spool(tmp_path / "spool.db")
    yield spool
    spool.close()


class RecordedBroker:
    """Takes results and answers; confirms at once unless told to hold."""

    def __init__(self) -> None:
        self.published: list[bytes] = []
        self.unconfirmed: list[Future[None]] = []
        self.hold = False
        self.acknowledged: list[Delivery] = []
        self.refused: list[Delivery] = []
        self.answered = threading.Event()
        self._changed = threading.Condition()

    def publish(self, body: bytes) -> Future[None]:
        future: Future[None] = Future()
        with self._changed:
            self.published.append(body)
            self._changed.notify_all()
        if self.hold:
            self.unconfirmed.append(future)
        else:
            future.set_result(None)
        return future

    def acknowledge(self, deliveries):
        with self._changed:
            self.acknowledged.extend(deliveries)
            self._changed.notify_all()

    def refuse(self, deliveries, *, requeue):
        assert not requeue
        with self._changed:
            self.refused.extend(deliveries)
            self._changed.notify_all()

    def wait_for(self, condition, timeout_s=10.0):
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self), timeout_s)


@pytest.fixture
def broker():
    return RecordedBroker()


@pytest.fixture
def delivery():
    """Makes deliveries of tasks."""

    def make(task_id=None, body=b"body", **headers):
        told = {
            "function_uuid": str(uuid.uuid4()),
            "task_uuid": str(task_id or uuid.uuid4()),
            "resource_specification": json.dumps(None),
            **headers,
        }
        return Delivery(
            body=body,
            headers={key: value for key, value in told.items() if value is not None},
            routing_key="tasks",
            redelivered=False,
            content_type=None,
            timestamp_s=None,
            tag=1,
            channel=None,
        )

    return make
