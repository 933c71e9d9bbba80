"""Whether a run keeps bounds that are given by hand: for CI, where they are generous."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from bench import report
from bench.rows import BY_NAME


def bound(text: str) -> tuple[str, float]:
    """A row and its bound, from `row=number`.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    name, equals, number = text.partition("=")
    row = BY_NAME.get(name)
    if not equals or row is None or (row.at_least is None and row.at_most is None):
        bounded = ", ".join(row.name for row in BY_NAME.values() if row.target)
        raise argparse.ArgumentTypeError(f"'{text}' is not ROW=NUMBER with one of the rows {bounded}")
    try:
        return name, float(number)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{number}' is no number") from None


def broken(result: Mapping[str, Any], bounds: Sequence[tuple[str, float]]) -> list[str]:
    """What does not keep its bound; a row that was not measured keeps none.

    Args:
        result: Of a run.
        bounds: Of our ratio to local HTEX, by row: a lowest one for rates, a highest one for times.
    """
    bad = [f"{skipped['what']} was left out: {skipped['why']}" for skipped in result["skipped"]]
    for name, limit in bounds:
        rows = [row for row in result["rows"] if row["row"] == name]
        for ours in (row for row in rows if row["kind"] == "ours"):
            local = [row for row in rows if row["kind"] == "local" and row["backend"] == ours["backend"]]
            bad += _broken(name, limit, ours, local[0] if local else None)
        if not any(row["kind"] == "ours" for row in rows):
            bad.append(f"{name}: not measured")
    return bad


def _broken(name: str, limit: float, ours: Mapping[str, Any], local: Mapping[str, Any] | None) -> list[str]:
    bad = [f"{name}: {why}" for why in ours["why"]]
    if max(ours["failed"], default=0):
        bad.append(f"{name}: {max(ours['failed'])} of {ours['count']} tasks failed")
    found = report.ratios(ours, local)
    if not found:
        return bad or [f"{name}: there is nothing to compare with"]
    # The best round: a machine that was busy for a while has not made the code slower.
    if BY_NAME[name].at_least is not None:
        if max(found) < limit:
            bad.append(f"{name}: {report.short(max(found))} of local, less than {limit:g}")
    elif min(found) > limit:
        bad.append(f"{name}: {report.short(min(found))} x local, more than {limit:g}")
    return bad
