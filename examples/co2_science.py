"""What both workflows do on this machine: read the raw files before, and find the trend over all years after."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COMPLETE_WEEKS = 45
"""A year takes part in the trend when at least so many of its weeks were measured.

A year that begins in March (1958), or has no value from January to May (1964), has lost a part of its seasonal cycle,
which is larger than the growth of a year: its mean would say more about the gap than about the air.
"""


class DataError(Exception):
    """The data can't be used; the text is the sentence for the user."""


@dataclass
class Outcome:
    """What a workflow has found.

    Attributes:
        records: One per year, from `post_process`, in the order of years.
        series: Year to its clean weekly series, from `pre_process`.
        failures: Name of each file that could not be used, and why.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    series: dict[int, dict[str, Any]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, series: Future[dict[str, Any]], record: Future[dict[str, Any]]) -> None:
        """Takes the results of one file, or the reason why it has none; waits for them if need be.

        A second file for the same year is a failure, not a second vote.
        """
        try:
            clean, found = series.result(), record.result()
        except Exception as error:  # noqa: BLE001 - whatever it was, it is reported, and the other files go on
            self.failures[name] = reason(error)
            return
        year = clean["year"]
        if year in self.series:
            self.failures[name] = f"{name} holds the year {year}, which {self.series[year]['name']} holds already"
            return
        self.series[year] = clean
        self.records.append(found)
        self.records.sort(key=lambda each: int(each["year"]))


def read_experiments(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Reads every `*.txt` of a folder.

    Returns:
        File name to raw text, and file name to reason for those that can't be read as text.

    Raises:
        DataError: The folder can't be read, or has no such file.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".txt")
    except OSError as error:
        raise DataError(f"The data folder {folder} can't be read: {error.strerror}.") from error
    if not paths:
        raise DataError(f"The data folder {folder} has no *.txt file.")
    raw: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    for path in paths:
        content = _read(path)
        if isinstance(content, str):
            raw[path.name] = content
        else:
            unreadable[path.name] = str(content)
    return raw, unreadable


def _read(path: Path) -> str | DataError:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        return DataError(f"{path.name} can't be read: {error.strerror}")
    except UnicodeDecodeError:
        return DataError(f"{path.name} is not a text file")


def reason(error: BaseException) -> str:
    """The first cause of a failed step, in one line.

    Parsl wraps an error once per step that depended on it, and Globus Compute's own executor sends a traceback as text,
    whose last line is the cause.
    """
    while causes := getattr(error, "dependent_exceptions_tids", None):
        error = causes[0][0]
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" -")]
    text = lines[-1] if lines else type(error).__name__
    return text.removeprefix("ValueError: ")


def summarize(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The trend over all years: least squares through the means of the complete ones.

    Returns:
        The number of years and of those used, the growth in ppm per year, its change from year to year (`None` below
        three complete years), and the line itself as `level_ppm` at `level_year`.

    Raises:
        DataError: Fewer than two complete years.
    """
    used = [record for record in records if record["complete"]]
    if len(used) < 2:
        raise DataError(
            f"A trend needs two complete years, of at least {COMPLETE_WEEKS} measured weeks each; "
            f"the data has {len(used)}."
        )
    middle = sum(record["year"] for record in used) / len(used)
    x = [record["year"] - middle for record in used]
    y = [record["mean_ppm"] for record in used]
    level = sum(y) / len(y)
    sxx = sum(a * a for a in x)
    slope = sum(a * b for a, b in zip(x, y, strict=True)) / sxx
    return {
        "year_count": len(records),
        "complete_year_count": len(used),
        "first_year": min(record["year"] for record in used),
        "last_year": max(record["year"] for record in used),
        "trend_ppm_per_year": slope,
        "acceleration_ppm_per_year2": _acceleration(x, y, sxx) if len(used) > 2 else None,
        "level_ppm": level,
        "level_year": middle,
    }


def _acceleration(x: list[float], y: list[float], sxx: float) -> float:
    """Twice the second coefficient of a parabola through the points; `x` has mean 0.

    The part of x squared that a straight line can't follow is orthogonal to every line, so y is projected on it.
    """
    mean_square = sxx / len(x)
    skew = sum(a**3 for a in x) / sxx
    curve = [a * a - mean_square - skew * a for a in x]
    return 2 * sum(c * b for c, b in zip(curve, y, strict=True)) / sum(c * c for c in curve)
