"""A picture of the ratios."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import report
from bench.rows import BACKENDS, KINDS


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Draw how many times local HTEX's time each contender takes, a panel per backend."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    backends = report.backends(result)
    if not backends:
        return
    figure, panels = pyplot.subplots(1, len(backends), figsize=(5.5 * len(backends), 4), squeeze=False, sharey=True)
    for panel, backend in zip(panels[0], backends, strict=True):
        rows = report.by_row(result, backend)
        names = list(rows)
        kinds = [kind for kind in KINDS if kind != "local" and any(kind in found for found in rows.values())]
        for number, kind in enumerate(kinds):
            places, heights = [], []
            for place, name in enumerate(names):
                found = rows[name]
                if kind not in found or max(found[kind]["failed"]):
                    continue
                ratio = report.median(report.ratios(found[kind], found.get("local")))
                if ratio:
                    places.append(place + 0.8 * number / len(kinds))
                    heights.append(1 / ratio if found[kind]["unit"] == "tasks/s" else ratio)
            panel.bar(places, heights, width=0.8 / len(kinds), align="edge", label=KINDS[kind])
        panel.axhline(1, color="black", linewidth=0.8)
        panel.set_yscale("log")
        panel.set_xticks([place + 0.4 for place in range(len(names))], names, rotation=30)
        panel.set_title(BACKENDS[backend])
    panels[0][0].set_ylabel("time, local HighThroughputExecutor = 1")
    panels[0][0].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
