"""Forty years of CO2 in one Parsl workflow: cleaned on Perlmutter, analysed on Polaris, finished on this machine.

python examples/co2_workflow.py --perlmutter UUID --polaris UUID
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import co2_command
from co2_science import COMPLETE_WEEKS, Outcome
from globus_compute_sdk import Client
from parsl import Config, python_app
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider

from parsl_globus import GlobusComputeExecutor, connect, progress


def config(perlmutter: UUID, polaris: UUID, client: Client, run_dir: Path) -> Config:
    """Two sites and this machine. The labels are what the apps below ask for."""
    return Config(
        executors=[
            GlobusComputeExecutor(endpoint_id=perlmutter, label="perlmutter", client=client, offline_timeout_s=60),
            GlobusComputeExecutor(endpoint_id=polaris, label="polaris", client=client, offline_timeout_s=60),
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


@python_app(executors=["perlmutter"])
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


@python_app(executors=["polaris"])
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


def run(raw: dict[str, str]) -> Outcome:
    """Sends every file through the three steps; Parsl starts each step when the one before it has its result."""
    with co2_command.uninterrupted():
        series = {name: pre_process(name, text) for name, text in raw.items()}
        records = {name: post_process(analysis(clean), COMPLETE_WEEKS) for name, clean in series.items()}
    outcome = Outcome()
    for name in raw:
        outcome.add(name, series[name], records[name])
    return outcome


def workflow(options: co2_command.Options, raw: dict[str, str]) -> Outcome:
    """Connects, loads Parsl, runs; leaving the block ends all that Parsl started, also after Ctrl-C."""
    client = connect(options.url)
    co2_command.check_endpoints(client, options)
    settings = config(options.perlmutter, options.polaris, client, options.output / "runinfo")
    with co2_command.loaded(settings), progress():
        return run(raw)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the workflow from the command line."""
    return co2_command.main("The CO2 record as a Parsl workflow over two endpoints.", workflow, argv)


if __name__ == "__main__":
    co2_command.run(main)
