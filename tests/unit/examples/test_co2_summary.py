"""The trend, once more by another way; and what is read before and said after."""

from __future__ import annotations

import statistics
from concurrent.futures import Future
from typing import Any

import pytest


def annual_means(raw: Any) -> Any:
    """Means straight from the raw text: a gap is filled by walking from its neighbours, no step of ours is used."""
    for name, text in raw.items():
        values = [float(row.split()[1]) for row in text.splitlines() if not row.startswith("#")]
        measured = [i for i, value in enumerate(values) if value == value]
        if len(measured) < 45:
            continue
        filled = []
        for left, right in zip(measured, measured[1:], strict=False):
            share = (values[right] - values[left]) / (right - left)
            filled += [values[left] + share * k for k in range(right - left)]
        yield int(name[4:8]), statistics.fmean([*filled, values[measured[-1]]])


@pytest.fixture
def steps(load: Any) -> Any:
    return load("co2_join_apps")


@pytest.fixture
def science(load: Any) -> Any:
    return load("co2_science")


@pytest.fixture
def records(steps: Any, raw: Any) -> Any:
    return [steps.post_process.func(steps.analysis(steps.pre_process(name, text)), 45) for name, text in raw.items()]


def test_trend_is_the_independent_one(science: Any, records: Any, raw: Any) -> None:
    years, means = zip(*annual_means(raw), strict=True)
    expected = statistics.linear_regression(years, means)
    summary = science.summarize(records)
    assert summary["trend_ppm_per_year"] == pytest.approx(expected.slope, rel=1e-9)
    at_level = expected.slope * summary["level_year"] + expected.intercept
    assert summary["level_ppm"] == pytest.approx(at_level, rel=1e-9)
    assert 1.3 < expected.slope < 1.4


def test_every_number_of_the_summary(science: Any, records: Any) -> None:
    summary = science.summarize(records)
    assert summary["year_count"] == 44
    assert summary["complete_year_count"] == 42
    assert (summary["first_year"], summary["last_year"]) == (1959, 2001)
    assert {record["year"] for record in records if not record["complete"]} == {1958, 1964}


def test_acceleration_of_a_parabola(science: Any) -> None:
    points = [
        {"year": year, "mean_ppm": 300 + 0.25 * (year - 1950) ** 2, "complete": True}
        for year in (1950, 1951, 1953, 1960)
    ]
    assert science.summarize(points)["acceleration_ppm_per_year2"] == pytest.approx(0.5)


def test_one_year_has_no_trend(science: Any, records: Any) -> None:
    with pytest.raises(science.DataError, match=r"two complete years, of at least 45 .* the data has 1"):
        science.summarize(records[:2])


def test_a_folder_that_is_none(science: Any, tmp_path: Any) -> None:
    with pytest.raises(science.DataError, match="can't be read: No such file or directory"):
        science.read_experiments(tmp_path / "none")


def test_a_folder_without_data(science: Any, tmp_path: Any) -> None:
    with pytest.raises(science.DataError, match=r"has no \*.txt file"):
        science.read_experiments(tmp_path)


def test_an_unreadable_file_does_not_stop_the_others(science: Any, tmp_path: Any) -> None:
    (tmp_path / "good.txt").write_text("1990-01-06 350\n")
    (tmp_path / "image.txt").write_bytes(b"\x89PNG\xff")
    (tmp_path / "ignored.dat").write_text("not ours")
    (tmp_path / "folder.txt").mkdir()
    raw, unreadable = science.read_experiments(tmp_path)
    assert list(raw) == ["good.txt"]
    assert unreadable["image.txt"] == "image.txt is not a text file"
    assert unreadable["folder.txt"] == "folder.txt can't be read: Is a directory"


def test_a_year_counts_once(science: Any) -> Any:
    def done(value: Any) -> Any:
        future: Future[Any] = Future()
        future.set_result(value)
        return future

    outcome = science.Outcome()
    for name in ("a.txt", "b.txt"):
        outcome.add(name, done({"year": 1990, "name": name}), done({"year": 1990}))
    assert len(outcome.records) == 1
    assert outcome.failures == {"b.txt": "b.txt holds the year 1990, which a.txt holds already"}


def test_the_reason_is_the_last_line_of_a_remote_traceback(science: Any) -> None:
    text = "\n\n Traceback from node x:\n---------\nValueError: a.txt line 3: bad\n---------\n\n"
    assert science.reason(RuntimeError(text)) == "a.txt line 3: bad"
    assert science.reason(KeyError()) == "KeyError"
