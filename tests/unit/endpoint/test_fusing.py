from __future__ import annotations

import json
import uuid

import pytest

from parsl_globus.endpoint.fusing import (
    DEEP,
    SHORT_NS,
    TRIP_NS,
    TRIP_TASKS,
    Durations,
    function_key,
    took_ns,
    trips,
)
from parsl_globus.wire.codec import pack
from parsl_globus.wire.messages import Task
from parsl_globus.wire.payload import pack_runner_call, pack_runner_code
from parsl_globus.worker import runner
from parsl_globus.worker.run import run_task

FUNCTION = str(uuid.uuid4())


def packed_task(*, digest="0123456789abcdef" * 2, function="") -> bytes:
    with open(runner.__file__) as source:
        code = pack_runner_code(source.read())
    header = json.dumps({"python": "3.11", "parsl": "1", "function": digest})
    buffer = code + pack_runner_call([header, function, ""])
    return pack(Task(task_id=uuid.uuid4(), task_buffer=buffer))


def test_an_app_is_known_by_its_own_digest():
    assert function_key(FUNCTION, packed_task()) == "0123456789abcdef" * 2


def test_a_function_of_others_is_known_by_its_id():
    body = pack(Task(task_id=uuid.uuid4(), task_buffer="7\n11\n[1,2"))
    assert function_key(FUNCTION, body) == FUNCTION


def test_a_duration_is_read_off_a_real_result(tmp_path):
    result = run_task(packed_task(), str(uuid.uuid4()), None, run_dir=str(tmp_path))
    duration_ns = took_ns(result)
    assert duration_ns is not None
    assert 0 < duration_ns < 60e9
    assert took_ns(b"no message") is None


def test_a_function_is_short_once_measured_often_enough():
    durations = Durations()
    for _ in range(7):
        durations.note("f", 1000)
    assert durations.short_ns("f") is None
    for _ in range(3):
        durations.note("f", 2000)
    assert durations.short_ns("f") == 2000  # the usual ones, not the shortest
    assert durations.short_ns("g") is None


def test_a_function_that_held_up_others_is_measured_anew():
    durations = Durations()
    for _ in range(100):
        durations.note("f", 1000)
    durations.forget("f")
    count = 0
    while durations.short_ns("f") is None:
        durations.note("f", 1000)
        count += 1
    assert count == 8
    durations.forget("unknown")


def test_a_busy_node_makes_no_function_long():
    durations = Durations()
    for _ in range(10):
        for duration_ns in (1000, 1000, 1000, 4 * SHORT_NS):
            durations.note("f", duration_ns)
    assert durations.short_ns("f") == 1000


def test_a_function_that_is_often_long_is_long():
    durations = Durations()
    for _ in range(10):
        for duration_ns in (1000, 1000, 2 * SHORT_NS):
            durations.note("f", duration_ns)
    assert durations.short_ns("f") is None


def test_large_results_make_a_function_long():
    durations = Durations()
    for _ in range(20):
        durations.note("f", 1000, 1_000_000)
    assert durations.short_ns("f") is None


def test_functions_are_forgotten_those_first_that_were_not_seen_for_longest():
    durations = Durations()
    for _ in range(8):
        durations.note("old", 1000)
        durations.note("kept", 1000)
    for number in range(1023):
        durations.note(str(number), 1000)
        durations.note("kept", 1000)
    assert durations.short_ns("old") is None
    assert durations.short_ns("kept") == 1000


@pytest.mark.parametrize("outstanding", [0, 1000])
def test_all_tasks_go_once_and_short_ones_in_order(outstanding):
    tasks = [(n, None if n % 5 == 0 else 500_000.0) for n in range(1000)]
    found = trips(tasks, outstanding)
    assert sorted(task for trip in found for task in trip) == list(range(1000))
    shared = [task for trip in found for task in trip if task % 5]
    assert shared == sorted(shared)
    assert [trip for trip in found if trip[0] % 5 == 0] == [[n] for n in range(0, 1000, 5)]
    assert max(len(trip) for trip in found) == TRIP_NS / 500_000


def test_a_trip_is_bounded_by_number():
    assert {len(trip) for trip in trips([(n, 1.0) for n in range(TRIP_TASKS * 3)], 0)} == {TRIP_TASKS}


def test_few_tasks_go_alone_unless_many_wait():
    few = [(n, 1000.0) for n in range(DEEP - 1)]
    assert trips(few, 0) == [[n] for n in range(DEEP - 1)]
    assert trips(few, 1) == [list(range(DEEP - 1))]
    assert trips([(1, 1000.0)], 1000) == [[1]]
