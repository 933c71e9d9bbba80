"""Work in turns: in the order in which it came, whoever does it."""

from __future__ import annotations

import queue
import threading

import pytest
from once import wait_until

from parsl_globus.endpoint.turns import Turns

DEADLINE_S = 60


class Worker:
    """Notes what it works on, and where; waits with what it is told to wait with."""

    def __init__(self) -> None:
        self.done: list[tuple[str, list[str]]] = []
        self.failures: queue.Queue[str] = queue.Queue()
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.turns: Turns[str] = Turns(self.work, name="turns", on_failure=self.failures.put)
        self.turns.start()

    def work(self, items: list[str]) -> None:
        if "slow" in items:
            self.begun.set()
            assert self.go_on.wait(DEADLINE_S)
        if "bad" in items:
            raise ValueError("it is bad")
        self.done.append((threading.current_thread().name, items))


@pytest.fixture
def worker():
    worker = Worker()
    yield worker
    worker.go_on.set()
    worker.turns.stop(finish=True)
    assert not worker.turns._thread.is_alive()


def test_what_comes_alone_is_done_by_who_brings_it(worker):
    worker.turns.put_alone("a")
    assert worker.done == [(threading.current_thread().name, ["a"])]


@pytest.mark.parametrize("_time", range(10))  # without the order kept, it is overtaken in about half of them
def test_nothing_overtakes_what_the_thread_has_taken_and_waits_with(worker, _time):
    with worker.turns._turn:  # as somebody has it who works on an item
        worker.turns.put("first")
        wait_until(worker.turns._queue.empty, "the thread did not take it")
    worker.turns.put_alone("second")
    worker.turns.stop(finish=True)
    assert [item for _, items in worker.done for item in items] == ["first", "second"]


def test_what_comes_meanwhile_is_done_by_the_thread(worker):
    bringing = threading.Thread(target=worker.turns.put_alone, args=["slow"], name="other")
    bringing.start()
    assert worker.begun.wait(DEADLINE_S)
    for item in "abc":
        worker.turns.put_alone(item)
    worker.go_on.set()
    bringing.join(DEADLINE_S)
    worker.turns.stop(finish=True)
    assert worker.done[0] == ("other", ["slow"])
    assert {name for name, _ in worker.done[1:]} == {"turns"}
    assert [item for _, items in worker.done[1:] for item in items] == ["a", "b", "c"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("alone", [True, False])
def test_nothing_is_done_after_a_failure_which_is_told_once(worker, alone):
    (worker.turns.put_alone if alone else worker.turns.put)("bad")
    assert worker.failures.get(timeout=DEADLINE_S) == "it is bad"
    worker.turns.put_alone("a")
    worker.turns.put("b")
    worker.turns._thread.join(DEADLINE_S)
    assert worker.done == []
    assert worker.failures.empty()


def test_a_stop_drops_what_waits_unless_it_is_to_be_finished(worker):
    bringing = threading.Thread(target=worker.turns.put_alone, args=["slow"], name="other")
    bringing.start()
    assert worker.begun.wait(DEADLINE_S)
    worker.turns.put("dropped")
    stopping = threading.Thread(target=worker.turns.stop, kwargs={"finish": False})
    stopping.start()
    wait_until(lambda: worker.turns._over, "the stop did not begin")
    worker.go_on.set()
    for thread in (bringing, stopping):
        thread.join(DEADLINE_S)
    worker.turns.put_alone("late")
    assert worker.done == [("other", ["slow"])]
