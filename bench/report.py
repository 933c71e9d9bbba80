"""The rows that were measured, as tables: values, ratios, processor time and memory."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.chain import PARTS
from bench.rows import BACKENDS, BY_NAME, KINDS

#: Of what is kept; whoever reads it must know it.
FORMAT = 2

Record = Mapping[str, Any]
Table = list[list[str]]


def ratios(row: Record, local: Record | None) -> list[float]:
    """Round by round, a contender's value to local HTEX's, where both have one."""
    if local is None:
        return []
    pairs = zip(row["values"], local["values"], strict=False)
    return [value / base for value, base in pairs if value is not None and base]


def median(values: Iterable[float | None]) -> float | None:
    """The median of those that there are."""
    there = [value for value in values if value is not None]
    return statistics.median(there) if there else None


def short(value: float | None) -> str:
    """With three digits that say something."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def spread(values: Sequence[float]) -> str:
    """The median, and the lowest and the highest where there are several."""
    if not values:
        return ""
    middle = short(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({short(min(values))} to {short(max(values))})"


def backends(result: Record) -> list[str]:
    """Those that were measured, in order."""
    return [name for name in BACKENDS if any(row["backend"] == name for row in result["rows"])]


def by_row(result: Record, backend: str) -> dict[str, dict[str, Record]]:
    """Rows of a backend: by name, then by contender."""
    found: dict[str, dict[str, Record]] = {}
    for row in result["rows"]:
        if row["backend"] == backend:
            found.setdefault(row["row"], {})[row["kind"]] = row
    return found


def table(result: Record, backend: str) -> Table:
    """Values of a backend, its heading first."""
    rows = by_row(result, backend)
    kinds = [kind for kind in KINDS if any(kind in found for found in rows.values())]
    lines = [["", *(KINDS[kind] for kind in kinds), "ours : local", "aimed at"]]
    for name, found in rows.items():
        count = f"{max(row['count'] for row in found.values()):,}"
        unit = next(iter(found.values()))["unit"]
        lines.append(
            [
                f"{BY_NAME[name].title.format(count=count)} ({unit})",
                *(_cell(found.get(kind), found.get("local")) for kind in kinds),
                spread(ratios(found["ours"], found.get("local"))) if "ours" in found else "",
                BY_NAME[name].target,
            ]
        )
        if name == "megabytes":
            ratio = peak_ratio(found)
            cells = [short(median(extras(found.get(kind), "peak_mb"))) for kind in kinds]
            lines.append(["its client's peak memory (MB)", *cells, short(ratio), "<= 1.2"])
        if name == "monitored":
            cells = [short(median(extras(found.get(kind), "registrations"))) for kind in kinds]
            lines.append(["its registrations of functions", *cells, "", "1"])
    return lines


def _cell(row: Record | None, local: Record | None) -> str:
    if row is None:
        return ""
    middle = median(row["values"])
    if middle is None:
        return "failed"
    text = short(middle)
    found = ratios(row, local)
    if found and row["kind"] not in ("local", "ours"):
        text += f" (x {short(statistics.median(found))})"
    failed = max(row["failed"])
    return f"{text}; {failed} of {row['count']} failed" if failed else text


def extras(row: Record | None, name: str) -> list[float]:
    """What else a workflow told, by round."""
    return [extra[name] for extra in row["extra"] if name in extra] if row is not None else []


def peak_ratio(found: Mapping[str, Record]) -> float | None:
    """Our client's peak memory to local HTEX's."""
    ours, local = median(extras(found.get("ours"), "peak_mb")), median(extras(found.get("local"), "peak_mb"))
    return ours / local if ours is not None and local else None


def hops(result: Record, backend: str, row_name: str) -> Table:
    """Processor time of each part per task, in microseconds, the heading first."""
    return _by_part(result, backend, row_name, "cpu_us", [*PARTS])


def memory(result: Record, backend: str, row_name: str) -> Table:
    """Peak memory of each part, in megabytes, the heading first."""
    return _by_part(result, backend, row_name, "memory_mb", ["client", "service", "broker", "agent", "pool"])


def _by_part(result: Record, backend: str, row_name: str, key: str, parts: Sequence[str]) -> Table:
    lines = [["", *parts, "all"]]
    for kind, row in by_row(result, backend).get(row_name, {}).items():
        rounds = row[key]
        if not any(rounds):
            continue
        middles = [statistics.median(one.get(part, 0.0) for one in rounds) for part in parts]
        whole = statistics.median(sum(one.get(part, 0.0) for part in parts) for one in rounds)
        lines.append([KINDS[kind], *(f"{value:,.0f}" if value else "" for value in middles), f"{whole:,.0f}"])
    return lines if len(lines) > 1 else []


def chain_us(row: Record) -> float | None:
    """Processor time of the whole chain per task, in microseconds."""
    return median(sum(one.values()) for one in row["cpu_us"] if one)


def failures(result: Record) -> list[str]:
    """Why a contender, or a part, gave no value."""
    found = [f"{skipped['what']}: {skipped['why']}" for skipped in result["skipped"]]
    for row in result["rows"]:
        found += [f"{KINDS[row['kind']]}, {row['row']}, {BACKENDS[row['backend']]}: {why}" for why in row["why"]]
    for one in result.get("others", []):
        found += [f"{one['tool']}: {why}" for why in one["why"]]
    found += [f"outstanding, {one['kind']}: {one['why']}" for one in result.get("outstanding", []) if "why" in one]
    if "why" in result.get("journal", {}):
        found.append(f"journal: {result['journal']['why']}")
    for name, levels in result.get("scale", {}).items():
        found += [f"{name}, {one['level']:,}: {one['why']}" for one in levels if "why" in one]
    return found
