from __future__ import annotations

import uuid
from concurrent.futures import Future

from parsl_globus.executor.pending import Pending


def make(count):
    return {uuid.uuid4(): Future() for _ in range(count)}


def test_each_result_finds_its_future_once():
    pending: Pending[str] = Pending()
    futures = make(3)
    assert pending.add(futures) == []
    results = [(task_id, str(task_id)) for task_id in futures]
    assert [(f, r) for f, r in pending.match(results)] == [(futures[i], str(i)) for i in futures]
    assert pending.match(results) == []
    assert len(pending) == 0


def test_a_result_that_overtakes_the_reply_waits_for_it():
    pending: Pending[str] = Pending()
    futures = make(2)
    early, late = futures
    with pending.expecting():
        assert pending.match([(early, "r")]) == []
        assert pending.add(futures) == [(futures[early], "r")]
    assert pending.ids() == [late]


def test_results_of_strangers_are_not_kept():
    pending: Pending[str] = Pending()
    stranger = make(1)
    pending.match([(next(iter(stranger)), "r")])
    with pending.expecting():
        assert pending.add(stranger) == []
    with pending.expecting():
        pending.match([(uuid.UUID(int=1), "r")])
    with pending.expecting():
        assert pending.add({uuid.UUID(int=1): Future()}) == []


def test_drain_gives_up_all():
    pending: Pending[str] = Pending()
    futures = make(2)
    pending.add(futures)
    assert pending.drain() == list(futures.values())
    assert pending.ids() == []
