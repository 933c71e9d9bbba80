"""Whether a run's machine was quiet is told by the run."""

from __future__ import annotations

import pytest

from bench.pace import Pace, described
from bench.summary import conditions


def pace_of(*loops_ms):
    left = iter(loops_ms)
    pace = Pace(lambda: next(left))
    for _ in range(len(loops_ms) // 3):
        pace.note()
    return pace.summary()


def test_what_came_in_between_is_not_the_pace():
    assert pace_of(9.0, 2.0, 2.5) == {"least": 2.0, "median": 2.0, "most": 2.0}


@pytest.mark.parametrize(("median", "quiet"), [(2.6, True), (3.9, False)])
def test_a_slow_machine_is_told_in_the_conditions(result, median, quiet):
    result["meta"]["pace_ms"] = pace_of(*[2.0] * 3, *[median] * 3, *[4.0] * 3)
    text = conditions(result)
    assert f"took {median} ms (2 to 4)" in text
    assert ("no quiet machine" not in text) == quiet


def test_a_run_without_it(result):
    assert Pace(lambda: 1.0).summary() is None
    result["meta"]["pace_ms"] = None
    assert described(result["meta"]) == ""
    assert conditions(result).endswith("load 0.1 before and 1.9 after")
