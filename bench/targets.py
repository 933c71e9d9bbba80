"""What was set out to reach, and whether it is."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from bench import report
from bench.report import Record, by_row, extras, median, ratios
from bench.rows import BACKENDS, BY_NAME

#: On servers of their own the same bounds hold within this factor.
LAB_FACTOR = 1.3


@dataclass(frozen=True)
class Target:
    """One of them.

    Attributes:
        title: What it is about.
        found: What was measured.
        bound: What is aimed at.
        lowest: Whether the bound is a lowest value.
    """

    title: str
    found: float
    bound: float
    lowest: bool = False

    @property
    def met(self) -> bool:
        """Whether it is reached."""
        return self.found >= self.bound if self.lowest else self.found <= self.bound


def targets(result: Record) -> list[Target]:
    """All that something was measured for."""
    found: list[Target] = []
    for backend in report.backends(result):
        factor = LAB_FACTOR if backend == "lab" else 1.0
        found += [
            Target(f"{target.title}, {BACKENDS[backend]}", target.found, _wider(target, factor), target.lowest)
            for target in _of_rows(by_row(result, backend))
        ]
    found += _of_others(result)
    if "imports" in result:
        found.append(
            Target("import parsl_globus : import parsl", result["imports"]["ratio"]["import parsl_globus"], 1.3)
        )
    for backend, seconds in result["ready_s"].items():
        found.append(Target(f"service run to ready, s, {BACKENDS[backend]}", statistics.median(seconds), 2.0))
    return found


def _wider(target: Target, factor: float) -> float:
    if target.bound in (0.0, 1.0) and not target.lowest:
        return target.bound  # a count of failures or of registrations is the same everywhere
    return target.bound / factor if target.lowest else target.bound * factor


def _of_rows(rows: dict[str, dict[str, Record]]) -> Iterator[Target]:
    for name, found in rows.items():
        row = BY_NAME[name]
        if "ours" not in found:
            continue
        ours = found["ours"]
        against = ratios(ours, found.get("local"))
        title = f"{row.title.format(count=format(ours['count'], ','))}, ours : local"
        if against and row.at_least is not None:
            yield Target(title, statistics.median(against), row.at_least, lowest=True)
        if against and row.at_most is not None:
            yield Target(title, statistics.median(against), row.at_most)
        yield from _more(name, found)


def _more(name: str, found: dict[str, Record]) -> Iterator[Target]:
    ours = found["ours"]
    value = median(ours["values"])
    if name == "latency" and value is not None:
        yield Target("one task after another, ms", value, 10.0)
    if name == "noops":
        whole = report.chain_us(ours)
        if whole is not None:
            yield Target("processor time of the chain per no-op, ms", whole / 1e3, 1.8)
    if name == "megabytes":
        yield Target("1 MB arguments that failed", float(max(ours["failed"])), 0.0)
        peak = report.peak_ratio(found)
        if peak is not None:
            yield Target("client's peak memory with 1 MB arguments, ours : local", peak, 1.2)
    if name == "monitored":
        registrations = median(extras(ours, "registrations"))
        if registrations is not None:
            yield Target("registrations of functions with monitoring", registrations, 1.0)


def _of_others(result: Record) -> Iterator[Target]:
    rates = {one["tool"]: median(one["rate"]) for one in result.get("others", [])}
    ours, ray = rates.get("ours"), rates.get("ray")
    if ours is not None and ray:
        yield Target("no-ops at once without the DataFlowKernel, ours : Ray", ours / ray, 1.0, lowest=True)
