"""What both workflows leave behind: a table, summary.json and co2.png."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

from co2_science import Outcome
from rich.console import Console
from rich.table import Table
from rich.text import Text

COLUMNS = ("year", "weeks", "filled", "mean", "growth", "cycle", "highest")


def print_table(outcome: Outcome) -> None:
    """One row per year, then one per file that failed."""
    table = Table(
        title="CO2 at Mauna Loa", caption="filled: weeks without a value; mean and cycle in ppm, growth in ppm per year"
    )
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("year", "highest") else "right")
    table.add_column("in trend", no_wrap=True)
    for record in outcome.records:
        table.add_row(*record["row"], "yes" if record["complete"] else "no")
    for name in sorted(outcome.failures):
        table.add_row(Text(name), *[""] * (len(COLUMNS) - 1), "failed")
    Console().print(table)


def write_summary(path: Path, outcome: Outcome, summary: dict[str, Any]) -> None:
    """Every number of the table and the trend, as JSON."""
    years = [{key: value for key, value in record.items() if key != "row"} for record in outcome.records]
    document = {**summary, "years": years, "failed_files": dict(sorted(outcome.failures.items()))}
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def plot(path: Path, outcome: Outcome, summary: dict[str, Any]) -> None:
    """The weekly series, the annual means and the trend line."""
    import matplotlib as mpl

    mpl.use("Agg")  # no display needed
    from matplotlib import pyplot as plt

    def fraction(day: date) -> float:
        start = date(day.year, 1, 1)
        return day.year + (day - start).days / (date(day.year + 1, 1, 1) - start).days

    figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
    for index, series in enumerate(outcome.series[year] for year in sorted(outcome.series)):
        days = [fraction(date.fromisoformat(day)) for day in series["dates"]]
        axes.plot(days, series["ppm"], color="tab:blue", lw=0.7, label=None if index else "weekly")
    used = [record for record in outcome.records if record["complete"]]
    middles = [record["year"] + 0.5 for record in used]
    axes.plot(middles, [record["mean_ppm"] for record in used], "o", ms=3, color="black", label="annual mean")
    slope = summary["trend_ppm_per_year"]
    ends = (summary["first_year"], summary["last_year"])
    heights = [summary["level_ppm"] + slope * (year - summary["level_year"]) for year in ends]
    label = f"trend: {slope:.3f} ppm per year"
    axes.plot([year + 0.5 for year in ends], heights, color="tab:red", label=label)
    axes.set(title="CO2 at Mauna Loa", xlabel="year", ylabel="ppm")
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
