"""The verdict of `python -m bench --check`."""

from __future__ import annotations

import argparse

import pytest

from bench import check


def test_bounds_that_are_kept(result):
    result["skipped"] = []
    assert check.broken(result, [("noops", 0.9), ("latency", 3.0)]) == []


def test_the_best_round_counts_and_both_directions_are_judged(result):
    result["skipped"] = []
    assert check.broken(result, [("noops", 0.91), ("latency", 2.9)]) == [
        "noops: 0.9 of local, less than 0.91",
        "latency: 3 x local, more than 2.9",
    ]


def test_failed_tasks_and_failed_contenders_break_every_bound(result):
    result["skipped"] = []
    ours = [row for row in result["rows"] if row["kind"] == "ours"]
    ours[0]["failed"] = [0, 3, 0]
    ours[1].update(values=[None], why=["it ended"], failed=[1_000])
    assert check.broken(result, [("noops", 0.1), ("latency", 100.0)]) == [
        "noops: 3 of 1000 tasks failed",
        "latency: it ended",
        "latency: 1000 of 1000 tasks failed",
    ]


def test_what_was_not_measured_keeps_no_bound(result):
    assert check.broken(result, [("stages", 9.0)]) == [
        "lab was left out: PostgreSQL is not installed",
        "stages: not measured",
    ]
    result["skipped"] = []
    result["rows"] = [row for row in result["rows"] if row["kind"] == "ours"]
    assert check.broken(result, [("noops", 0.1)]) == ["noops: there is nothing to compare with"]


def test_a_bound_as_it_is_written():
    assert check.bound("noops=0.25") == ("noops", 0.25)
    for text in ("noops", "nothing=1", "bare=1", "noops=fast"):
        with pytest.raises(argparse.ArgumentTypeError):
            check.bound(text)
