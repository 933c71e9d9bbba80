"""All that was measured, for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from bench import pace, report, tables
from bench.report import Record, Table, short
from bench.rows import BACKENDS, BY_NAME
from bench.targets import targets


def as_text(lines: Iterable[Sequence[str]]) -> str:
    """A table for a terminal."""
    lines = list(lines)
    if not lines:
        return ""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def conditions(result: Record) -> str:
    """What and where, in a sentence."""
    meta = result["meta"]
    versions = ", ".join(f"{name} {number}" for name, number in meta["versions"].items())
    load = f"load {meta['load_before']:.1f} before and {meta['load_after']:.1f} after"
    ran = pace.described(meta)
    return (
        f"{meta['when']}: {meta['cores']} cores ({meta['processor']}), {meta['memory_gb']:g} GB, {meta['system']}, "
        f"Python {meta['python']}, {versions}; {meta['repeats']} rounds{', short ones' if meta['quick'] else ''}, "
        f"in {meta['taken_s'] / 60:.0f} minutes; {load}"
        f"{ran and '; '}{ran}"
    )


def target_table(result: Record) -> Table:
    """Targets, and whether they are met."""
    lines = [["", "found", "aimed at", ""]]
    for one in targets(result):
        sign = ">=" if one.lowest else "<="
        lines.append([one.title, short(one.found), f"{sign} {one.bound:.3g}", "met" if one.met else "not met"])
    return lines if len(lines) > 1 else []


def sections(result: Record) -> Iterator[tuple[str, Table]]:
    """Titles and tables, in order."""
    for backend in report.backends(result):
        yield BACKENDS[backend], report.table(result, backend)
    for backend in report.backends(result):
        for name in ("noops", "bare", "latency"):
            title = f"processor time per task in microseconds, {BY_NAME[name].title.format(count='many')}"
            yield f"{title}, {BACKENDS[backend]}", report.hops(result, backend, name)
    for backend in report.backends(result):
        title = f"peak memory in megabytes, {BY_NAME['noops'].title.format(count='many')}"
        yield f"{title}, {BACKENDS[backend]}", report.memory(result, backend, "noops")
    yield "other tools, without Parsl", tables.others(result)
    yield "while tasks wait", tables.outstanding(result)
    yield "with a journal", tables.journal(result)
    yield "with the number of outstanding tasks", tables.scale(result, "outstanding")
    yield "with the number of endpoints", tables.scale(result, "endpoints")
    yield "with the number of workers", tables.workers(result)
    yield "start-up", tables.startup(result)


def summary(result: Record) -> str:
    """All of it."""
    parts = [conditions(result)]
    for title, lines in sections(result):
        if lines:
            parts += [f"\n{title}\n", as_text(lines)]
    reached = target_table(result)
    if reached:
        parts += ["\ntargets\n", as_text(reached)]
    failed = report.failures(result)
    if failed:
        parts += ["\nwhat failed, or was left out\n", *failed]
    return "\n".join(parts)
