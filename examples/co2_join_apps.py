"""The CO2 workflow once more, with join_apps around Globus Compute's own executor.

    python examples/co2_join_apps.py --perlmutter UUID --polaris UUID

A join_app returns a future, and its own result is that future's result: so whatever makes futures, here the public
`globus_compute_sdk.Executor`, becomes a step of a Parsl workflow.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, Future, as_completed
from pathlib import Path
from typing import Any

import co2_command
import globus_compute_sdk
from co2_science import COMPLETE_WEEKS, Outcome
from parsl import Config, join_app, python_app
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider

from parsl_globus import connect, progress


def config(run_dir: Path) -> Config:
    """This machine only: the sites are reached by Globus Compute's executors, not by Parsl's."""
    return Config(
        executors=[
            HighThroughputExecutor(
                label="local",
                address="127.0.0.1",
                max_workers_per_node=1,
                provider=LocalProvider(init_blocks=1, max_blocks=1),
            ),
        ],
        strategy="none",  # one block, from start to end
        strategy_period=0.5,  # also what the first block waits before it starts: 5 s by default
        run_dir=str(run_dir),
    )


# The three steps stand in this file, and import what they need inside, because functions of the script itself travel
# whole. A function of an imported module travels as that module's name, and no worker has co2_science.py.


def pre_process(name: str, text: str) -> dict[str, Any]:
    """Raw text to a clean weekly series; a gap is filled in a straight line between its neighbours."""
    from datetime import date

    measured: dict[int, float] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        content = line.split("#")[0].split()
        if not content:
            continue
        try:
            day, value = date.fromisoformat(content[0]).toordinal(), float(content[1])
        except (ValueError, IndexError):
            raise ValueError(f"{name} line {number} is not 'date value': {line.strip()[:40]!r}") from None
        if value != value:  # nan: the record has no value for this week
            continue
        if not 250 < value < 500:
            raise ValueError(f"{name} line {number}: {content[1]} ppm is not a CO2 concentration of our time")
        if measured and day <= max(measured):
            raise ValueError(f"{name} line {number}: {content[0]} is not later than the line before")
        if measured and (day - min(measured)) % 7:
            raise ValueError(f"{name} line {number}: {content[0]} is not a whole number of weeks after the first")
        measured[day] = value
    if len(measured) < 10:
        raise ValueError(f"{name} has {len(measured)} measured weeks; at least 10 are needed")
    known = sorted(measured)
    year = date.fromordinal(known[0]).year
    if date.fromordinal(known[-1]).year != year:
        raise ValueError(f"{name} holds more than one year")
    days, ppm = [known[0]], [measured[known[0]]]
    for left, right in zip(known, known[1:], strict=False):
        for day in range(left + 7, right + 1, 7):
            days.append(day)
            ppm.append(measured[left] + (measured[right] - measured[left]) * (day - left) / (right - left))
    dates = [date.fromordinal(day).isoformat() for day in days]
    return {"name": name, "year": year, "dates": dates, "ppm": ppm, "filled": len(days) - len(known)}


def analysis(series: dict[str, Any]) -> dict[str, Any]:
    """Mean, trend within the year and seasonal cycle: a line and two harmonics, by least squares."""
    from datetime import date
    from math import cos, pi, sin

    def terms(t: float) -> list[float]:  # t: fraction of the year
        angle = 2 * pi * t
        return [1.0, t - 0.5, cos(angle), sin(angle), cos(2 * angle), sin(2 * angle)]

    start = date(series["year"], 1, 1).toordinal()
    length = date(series["year"] + 1, 1, 1).toordinal() - start
    rows = [terms((date.fromisoformat(day).toordinal() - start) / length) for day in series["dates"]]
    size = len(rows[0])
    # Normal equations, each with its right-hand side at the end, solved by elimination with pivoting.
    matrix = [
        [sum(row[i] * row[j] for row in rows) for j in range(size)]
        + [sum(row[i] * value for row, value in zip(rows, series["ppm"], strict=True))]
        for i in range(size)
    ]
    for i in range(size):
        pivot = max(range(i, size), key=lambda k: abs(matrix[k][i]))
        matrix[i], matrix[pivot] = matrix[pivot], matrix[i]
        for k in range(size):
            if k != i:
                factor = matrix[k][i] / matrix[i][i]
                matrix[k] = [a - factor * b for a, b in zip(matrix[k], matrix[i], strict=True)]
    fit = [matrix[i][size] / matrix[i][i] for i in range(size)]
    first, last = (date.fromisoformat(series["dates"][i]).toordinal() - start for i in (0, -1))
    cycle = {
        day: sum(c * x for c, x in zip(fit[2:], terms(day / length)[2:], strict=True)) for day in range(first, last + 1)
    }
    return {
        "name": series["name"],
        "year": series["year"],
        "weeks": len(series["ppm"]),
        "filled": series["filled"],
        "mean_ppm": sum(series["ppm"]) / len(series["ppm"]),
        "slope_ppm_per_year": fit[1],
        "amplitude_ppm": max(cycle.values()) - min(cycle.values()),
        "month_of_max": date.fromordinal(start + max(cycle, key=lambda day: cycle[day])).month,
    }


@python_app(executors=["local"])
def post_process(found: dict[str, Any], complete_weeks: int) -> dict[str, Any]:
    """A year's numbers with its row of the table; too few measured weeks keep it out of the trend."""
    from calendar import month_name

    measured = found["weeks"] - found["filled"]
    row = [
        str(found["year"]),
        str(found["weeks"]),
        str(found["filled"]),
        f"{found['mean_ppm']:.2f}",
        f"{found['slope_ppm_per_year']:+.2f}",
        f"{found['amplitude_ppm']:.2f}",
        month_name[found["month_of_max"]],
    ]
    return {**found, "measured": measured, "complete": measured >= complete_weeks, "row": row}


@join_app
def run_pre_process(site: Executor, name: str, text: str) -> Future[dict[str, Any]]:
    """Cleans one file at a site."""
    return site.submit(pre_process, name, text)


@join_app
def run_analysis(site: Executor, series: dict[str, Any]) -> Future[dict[str, Any]]:
    """Analyses one clean series at a site."""
    return site.submit(analysis, series)


def run(perlmutter: Executor, polaris: Executor, raw: dict[str, str]) -> Outcome:
    """Sends every file through the three steps and takes the results as they come."""
    with co2_command.uninterrupted():
        series = {name: run_pre_process(perlmutter, name, text) for name, text in raw.items()}
        names = {post_process(run_analysis(polaris, clean), COMPLETE_WEEKS): name for name, clean in series.items()}
    outcome = Outcome()
    for record in as_completed(names):
        outcome.add(names[record], series[names[record]], record)
    return outcome


def workflow(options: co2_command.Options, raw: dict[str, str]) -> Outcome:
    """Connects, loads Parsl, runs; leaving ends all that was started, also after Ctrl-C."""
    client = connect(options.url)
    co2_command.check_endpoints(client, options)
    perlmutter = globus_compute_sdk.Executor(endpoint_id=options.perlmutter, client=client)
    polaris = globus_compute_sdk.Executor(endpoint_id=options.polaris, client=client)
    try:
        with co2_command.loaded(config(options.output / "runinfo")), progress():
            return run(perlmutter, polaris, raw)
    finally:
        for site in (perlmutter, polaris):
            site.shutdown(wait=False, cancel_futures=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the workflow from the command line."""
    return co2_command.main("The CO2 record with join_apps around Globus Compute's executor.", workflow, argv)


if __name__ == "__main__":
    co2_command.run(main)
