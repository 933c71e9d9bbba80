"""Short tasks in one trip: each ends as if it were alone."""

from __future__ import annotations

import time
import uuid
from concurrent.futures import wait
from dataclasses import replace

import pytest

from parsl_globus.endpoint.engine import EngineFailure, EngineTask
from parsl_globus.endpoint.fusing import DEEP, Durations
from parsl_globus.endpoint.marks import mark_name
from parsl_globus.endpoint.trips import NOTES_FOLDER, LeftNotes

DEADLINE_S = 60
#: As in a result message: 0.1 ms.
TOOK = b'"timestamp": 1700000000000000000, "timestamp": 1700000000000100000'


def _short(body=b"echo:x"):
    return EngineTask(uuid.uuid4(), body, function="known")


@pytest.fixture(scope="module")
def engine(started):
    engine = started("htex")
    yield engine
    deadline_s = time.monotonic() + DEADLINE_S
    while list((engine.folder / NOTES_FOLDER).iterdir()):  # a trip is over right after its last task's end
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def known_to_be_short(engine):
    """However busy this machine is."""
    engine._durations = Durations()
    for _ in range(100):
        engine._durations.note("known", 100_000)


@pytest.fixture
def payloads(engine, monkeypatch):
    """Sizes of what was handed to Parsl's executor."""
    sizes: list[int] = []
    submit = engine._executor.submit_payload

    def counting(context, buffer):
        sizes.append(len(context["task_executor"]["a"][0]) if "run_fused" in context["task_executor"]["f"] else 1)
        return submit(context, buffer)

    monkeypatch.setattr(engine._executor, "submit_payload", counting)
    return sizes


@pytest.fixture
def gate(tmp_path):
    """Holds up tasks until it is opened, at the latest at the test's end."""
    path = tmp_path / "gate"
    yield path
    path.touch()


def trip_of(engine, *bodies):
    """Futures of tasks that go together, the given ones first."""
    tasks = [_short(body) for body in bodies] + [_short() for _ in range(DEEP - len(bodies))]
    return engine.submit_all(tasks)[: len(bodies)]


def never_began(future) -> bool:
    error = future.exception(DEADLINE_S)
    assert isinstance(error, EngineFailure)
    return error.lost and not error.begun


def test_many_share_trips_and_each_has_its_own_result(engine, payloads):
    tasks = [_short(b"echo:%d" % number) for number in range(500)]
    futures = engine.submit_all(tasks)
    assert sum(payloads) == 500
    assert len(payloads) < 100
    wait(futures, DEADLINE_S)
    begun = engine.folder / "begun"
    for number, future in enumerate(futures):
        # On a machine that is busy with other things, a trip's time may be up before all have begun. The intake
        # submits those again.
        again = future if future.exception(0) is None else engine.submit(replace(tasks[number], attempt=2))
        assert future is again or never_began(future)
        assert again.result(DEADLINE_S) == b"%d" % number
        assert (begun / mark_name(tasks[number].task_id, 1 if again is future else 2)).exists()


def test_few_go_alone(engine, payloads):
    for future in engine.submit_all([_short() for _ in range(5)]):
        future.result(DEADLINE_S)
    assert payloads == [1] * 5


def test_others_go_alone(engine, payloads):
    big = EngineTask(uuid.uuid4(), b"echo:" + b"x" * 100_000, function="known")
    unknown = [EngineTask(uuid.uuid4(), b"echo:x", function="unknown") for _ in range(DEEP)]
    again = EngineTask(uuid.uuid4(), b"echo:x", attempt=2, function="known")
    for future in engine.submit_all([big, *unknown, again, *[_short() for _ in range(DEEP)]]):
        future.result(DEADLINE_S)
    assert payloads[: DEEP + 2] == [1] * (DEEP + 2)
    assert sum(payloads[DEEP + 2 :]) == DEEP


def test_one_that_takes_long_holds_up_none_of_the_others(engine, gate):
    before, long, after = trip_of(engine, b"echo:before", b"wait:" + bytes(gate), b"echo:after")
    assert before.result(DEADLINE_S) == b"before"
    assert never_began(after)
    assert not long.done()
    gate.touch()
    assert long.result(DEADLINE_S) == b"waited"
    # And is not taken for short any more.
    assert engine._short_ns(_short()) is None
    for future in [engine.submit(_short(b"echo:" + TOOK)) for _ in range(200)]:
        future.result(DEADLINE_S)
    assert engine._short_ns(_short()) is not None


def test_one_that_kills_its_worker_takes_only_itself(engine):
    before, deadly, after = trip_of(engine, b"echo:before", b"die", b"echo:after")
    assert before.result(DEADLINE_S) == b"before"
    assert deadly.exception(DEADLINE_S).code == "WorkerLost"
    assert after.exception(DEADLINE_S).lost  # the intake sees by its mark that it hasn't begun
    assert (engine.folder / "begun").exists()


def test_one_whose_worker_breaks_its_promise_takes_only_itself(engine):
    before, broken, after = trip_of(engine, b"echo:before", b"raise", b"echo:after")
    assert before.result(DEADLINE_S) == b"before"
    assert broken.exception(DEADLINE_S).code == "EngineFailed"
    assert never_began(after)


def counts_are(engine, *expected) -> bool:
    """Whether the status comes to count so many outstanding and pending tasks; pools are slower than futures."""
    deadline_s = time.monotonic() + DEADLINE_S
    status = engine.status()
    while (status.outstanding_tasks, status.pending_tasks) != expected and time.monotonic() < deadline_s:
        time.sleep(0.01)
        status = engine.status()
    return (status.outstanding_tasks, status.pending_tasks) == expected


def test_the_status_counts_tasks_not_trips(engine, gate):
    held = [engine.submit(_short(b"wait:" + bytes(gate))) for _ in range(2)]
    assert counts_are(engine, 2, 0)
    waiting = engine.submit_all([_short() for _ in range(2 * DEEP)])
    assert counts_are(engine, 2 + 2 * DEEP, 2 * DEEP)
    gate.touch()
    wait([*held, *waiting], DEADLINE_S)
    assert counts_are(engine, 0, 0)


def test_the_status_counts_what_is_left_of_a_trip(engine, gate):
    before, long, after = trip_of(engine, b"echo:before", b"wait:" + bytes(gate), b"echo:after")
    assert before.result(DEADLINE_S) == b"before"
    assert never_began(after)
    assert counts_are(engine, 1, 0)
    gate.touch()
    assert long.result(DEADLINE_S) == b"waited"


def test_results_that_an_earlier_agent_did_not_get(engine, gate):
    before, long = trip_of(engine, b"echo:before", b"wait:" + bytes(gate))
    assert before.result(DEADLINE_S) == b"before"  # from the worker's notes
    notes = LeftNotes(engine.folder / NOTES_FOLDER)
    assert b"before" in notes.read().values()
    notes.forget()
    assert notes.read() == {}
    gate.touch()
    assert long.result(DEADLINE_S) == b"waited"
