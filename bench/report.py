"""What was measured, as a table of ratios, and kept as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.chain import PARTS
from bench.rows import BACKENDS, BY_NAME, KINDS

Record = Mapping[str, Any]


def ratios(row: Record, local: Record) -> list[float]:
    """Round by round, a contender's value to local HTEX's."""
    return [value / base for value, base in zip(row["values"], local["values"], strict=False) if base]


def median_and_spread(values: Sequence[float]) -> tuple[float, float, float]:
    """The median, the lowest and the highest."""
    return statistics.median(values), min(values), max(values)


def short(value: float) -> str:
    """With three digits that say something."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def table(result: Record, backend: str) -> list[list[str]]:
    """Rows of the table, its heading first."""
    rows: list[Record] = [row for row in result["rows"] if row["backend"] == backend]
    kinds = [kind for kind in KINDS if any(row["kind"] == kind for row in rows)]
    lines = [["", *(KINDS[kind] for kind in kinds), "ours : local", "aimed at"]]
    for name in dict.fromkeys(row["row"] for row in rows):
        found = {row["kind"]: row for row in rows if row["row"] == name}
        any_row = next(iter(found.values()))
        count = f"{max(row['count'] for row in found.values()):,}"
        cells = [f"{BY_NAME[name].title.format(count=count)} ({any_row['unit']})"]
        cells += [_cell(found.get(kind), found.get("local")) for kind in kinds]
        cells += [_ratio_text(found.get("ours"), found.get("local")), BY_NAME[name].target]
        lines.append(cells)
        if name == "megabytes":
            lines.append(
                ["its client's peak memory (MB)", *(_peak(found.get(kind)) for kind in kinds), *_peak_ratio(found)]
            )
        if name == "monitored":
            lines.append(
                [
                    "its registrations of functions",
                    *(_last(found.get(kind), "registrations") for kind in kinds),
                    "",
                    "1",
                ]
            )
    return lines


def _cell(row: Record | None, local: Record | None) -> str:
    if row is None:
        return ""
    text = short(statistics.median(row["values"]))
    if local is not None and row["kind"] not in ("local", "ours"):
        text += f" (x {short(statistics.median(ratios(row, local)))})"
    failed = max(row["failed"])
    return f"{text}; {failed} of {row['count']} failed" if failed else text


def _ratio_text(row: Record | None, local: Record | None) -> str:
    found = ratios(row, local) if row is not None and local is not None else []
    if not found:
        return ""
    middle, low, high = median_and_spread(found)
    return f"{short(middle)} ({short(low)} to {short(high)})"


def _peaks(row: Record | None) -> list[float]:
    return [extra["peak_mb"] for extra in row["extra"]] if row is not None else []


def _peak(row: Record | None) -> str:
    return short(statistics.median(_peaks(row))) if _peaks(row) else ""


def _peak_ratio(found: Mapping[str, Record]) -> list[str]:
    ours, local = _peaks(found.get("ours")), _peaks(found.get("local"))
    return [short(statistics.median(ours) / statistics.median(local)) if ours and local else "", "<= 1.2"]


def _last(row: Record | None, name: str) -> str:
    return str(row["extra"][-1].get(name, "")) if row is not None else ""


def hops(result: Record, backend: str, row_name: str) -> list[list[str]]:
    """Processor time of each part per task, in microseconds, the heading first."""
    rows = [row for row in result["rows"] if row["backend"] == backend and row["row"] == row_name]
    if not rows:
        return []
    lines = [["", *PARTS, "all"]]
    for row in rows:
        by_part = {part: statistics.median(cpu.get(part, 0.0) for cpu in row["cpu_us"]) for part in PARTS}
        whole = statistics.median(sum(cpu.values()) for cpu in row["cpu_us"])
        lines.append(
            [KINDS[row["kind"]], *(f"{by_part[part]:,.0f}" if by_part[part] else "" for part in PARTS), f"{whole:,.0f}"]
        )
    return lines


def as_text(lines: Iterable[Sequence[str]]) -> str:
    """A table for a terminal."""
    lines = list(lines)
    if not lines:
        return ""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def summary(result: Record) -> str:
    """All of it, for a terminal."""
    parts = [conditions(result)]
    for backend in dict.fromkeys(row["backend"] for row in result["rows"]):
        parts += [f"\n{BACKENDS[backend]}\n", as_text(table(result, backend))]
        for name in ("noops", "bare", "latency"):
            lines = hops(result, backend, name)
            if lines:
                parts.append(f"\nprocessor time per task, microseconds: {BY_NAME[name].title.format(count='many')}\n")
                parts.append(as_text(lines))
    parts += [_outstanding(result), _startup(result)]
    return "\n".join(part for part in parts if part)


def conditions(result: Record) -> str:
    """What and where."""
    meta = result["meta"]
    return (
        f"{meta['when']}: {meta['cores']} cores ({meta['machine']}), load {meta['load_before']:.1f} before and "
        f"{meta['load_after']:.1f} after; parsl {meta['versions']['parsl']}, globus-compute-sdk "
        f"{meta['versions']['globus-compute-sdk']}, Python {meta['python']}; {meta['repeats']} rounds"
        f"{', short' if meta['quick'] else ''}"
    )


def outstanding_table(result: Record) -> list[list[str]]:
    """Costs of a task that waits, the heading first."""
    found = {one["kind"]: one for one in result.get("outstanding", [])}
    if "local" not in found or "ours" not in found:
        return []
    names = {"nothing": "futures alone", "local": KINDS["local"], "ours": KINDS["ours"]}
    lines = [["", *(name for kind, name in names.items() if kind in found), "ours : local", "aimed at"]]
    for case, bound in (("plain", "<= 3"), ("monitored", "<= 1.2")):
        cells = [short(found[kind][case]["wall_us"]) for kind in names if kind in found]
        ratio = found["ours"][case]["wall_us"] / found["local"][case]["wall_us"]
        lines.append([f"submit, {case} (microseconds)", *cells, short(ratio), bound])
    cells = [short(found[kind]["plain"]["memory_bytes"]) for kind in names if kind in found]
    count = found["ours"]["plain"]["count"]
    lines.append([f"memory per task, {count:,} outstanding (bytes)", *cells, "", "<= 1,500"])
    return lines


def _outstanding(result: Record) -> str:
    lines = outstanding_table(result)
    return "\nwhile tasks wait\n\n" + as_text(lines) if lines else ""


def _startup(result: Record) -> str:
    lines = startup_table(result)
    return "\nstart-up\n\n" + as_text(lines) if lines else ""


def startup_table(result: Record) -> list[list[str]]:
    """Imports and programs, the heading first."""
    found = result.get("imports")
    lines = [["", "seconds", "ratio", "aimed at"]] if found or result["ready_s"] else []
    if found:
        for name, seconds in found["cpu_s"].items():
            bound = "<= 1.3" if "parsl_globus" in name else ""
            lines.append([f"{name} (processor time)", short(seconds), short(found["ratio"][name]), bound])
    for backend, seconds in result["ready_s"].items():
        lines.append([f"service run to ready, {BACKENDS[backend]}", short(seconds), "", "<= 2"])
    for row in result["rows"]:
        if row["row"] == "cold" and row["kind"] != "local":
            times = [
                value + extra["endpoint_start_s"] for value, extra in zip(row["values"], row["extra"], strict=True)
            ]
            text = f"endpoint start to first result, workflow's own start included, {KINDS[row['kind']]}"
            lines.append([f"{text}, {BACKENDS[row['backend']]}", short(statistics.median(times)), "", ""])
    return lines
