"""What was measured besides the rows, as tables with their headings first; empty where it was not measured."""

from __future__ import annotations

from bench.report import Record, Table, backends, by_row, extras, median, short, spread
from bench.rows import BACKENDS, KINDS

_TOOLS = {
    "processes": "ProcessPoolExecutor",
    "executorlib": "executorlib",
    "ray": "Ray",
    "dask": "Dask distributed",
    "ours": "parsl_globus, service and agent included",
}
_SCALE = {"outstanding": "outstanding tasks", "endpoints": "endpoints"}


def outstanding(result: Record) -> Table:
    """Costs of a task that waits."""
    found = {one["kind"]: one for one in result.get("outstanding", []) if "plain" in one}
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
    more = found["ours"]["plain"]["memory_bytes"] - found["local"]["plain"]["memory_bytes"]
    lines.append([f"memory per task, {count:,} outstanding (bytes)", *cells, f"{more:,.0f} more", "<= 1,500 more"])
    return lines


def journal(result: Record) -> Table:
    """Costs of a journal."""
    found = result.get("journal", {})
    if "with" not in found:
        return []
    lines = [["", "without", "with", "with : without"]]
    titles = {
        "submit_us": "submit (microseconds)",
        "rate": f"{found['count']:,} no-ops at once (tasks/s)",
        "latency_ms": "one after another, median (ms)",
    }
    for key, title in titles.items():
        ratio = median(found["with"][key]) / median(found["without"][key])
        lines.append([title, spread(found["without"][key]), spread(found["with"][key]), short(ratio)])
    return lines


def others(result: Record) -> Table:
    """Tools without Parsl."""
    found = result.get("others", [])
    if not found:
        return []
    count = max(one["count"] for one in found)
    lines = [["", "version", f"{count:,} no-ops at once (tasks/s)", "one after another, median (ms)"]]
    for one in found:
        why = "; ".join(one["why"])
        if not one["rate"]:
            lines.append([_TOOLS[one["tool"]], "", f"left out: {why}", ""])
        else:
            name = _TOOLS[one["tool"]]
            lines.append([name, one["version"], spread(one["rate"]), spread(one["latency_ms"])])
    return lines


def scale(result: Record, name: str) -> Table:
    """Rate, time and memory against outstanding tasks, or endpoints."""
    levels = result.get("scale", {}).get(name, [])
    if not levels:
        return []
    heading = ["tasks/s", "median (ms)", "99 % within (ms)", "client (MB)", "service (MB)", "agent (MB)"]
    lines = [[_SCALE[name], *heading]]
    for one in levels:
        if "why" in one:
            lines.append([f"{one['level']:,}", "failed", *[""] * (len(heading) - 1)])
            continue
        memory = [short(one["memory_mb"].get(part)) for part in ("client", "service", "agent")]
        failed = f"; {one['failed']} failed" if one["failed"] else ""
        times = [short(one["latency_ms"]), short(one.get("p99_ms"))]
        lines.append([f"{one['level']:,}", short(one["rate"]) + failed, *times, *memory])
    # Columns that nothing was measured for.
    used = [number for number in range(len(lines[0])) if any(line[number] for line in lines[1:])]
    return [[line[number] for number in used] for line in lines]


def workers(result: Record) -> Table:
    """Tasks that sleep, against workers."""
    levels = result.get("scale", {}).get("workers", [])
    if not levels:
        return []
    lines = [["workers", "at best (s)", f"{KINDS['local']} (s)", f"{KINDS['ours']} (s)", "ours : local"]]
    for one in levels:
        if "why" in one:
            lines.append([str(one["level"]), "", "failed", "failed", ""])
            continue
        ratio = one["ours_s"] / one["local_s"]
        lines.append([str(one["level"]), *(short(one[key]) for key in ("ideal_s", "local_s", "ours_s")), short(ratio)])
    return lines


def startup(result: Record) -> Table:
    """Imports and programs."""
    found = result.get("imports")
    lines = [["", "seconds", "ratio", "aimed at"]] if found or result["ready_s"] else []
    if found:
        for name, seconds in found["cpu_s"].items():
            bound = "<= 1.3" if "parsl_globus" in name else ""
            lines.append([f"{name} (processor time)", short(seconds), short(found["ratio"][name]), bound])
    for backend, seconds in result["ready_s"].items():
        lines.append([f"service run to ready, {BACKENDS[backend]}", spread(seconds), "", "<= 2"])
    for backend in backends(result):
        for kind, row in by_row(result, backend).get("cold", {}).items():
            values = [value for value in row["values"] if value is not None]
            starts = extras(row, "endpoint_start_s")
            if kind == "local" or not starts:
                continue
            whole = median(value + start for value, start in zip(values, starts, strict=True))
            text = f"endpoint start to first result, workflow's own start included, {KINDS[kind]}, {BACKENDS[backend]}"
            lines.append([text, short(whole), "", ""])
    return lines
