"""The figures of docs/performance.rst, from what is kept in bench/results. Usage: python -m bench.docs [FOLDER]."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import report
from bench.report import FORMAT
from bench.summary import conditions, sections, target_table

_HERE = Path(__file__).parent
RESULTS = _HERE / "results"
TRIED = _HERE / "tried.rst"
_NONE_KEPT = "No run is kept in this copy of the repository; ``make bench`` makes one."
_SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\*`|_"})


def kept(folder: Path) -> dict[str, Any] | None:
    """The run that is kept in a folder, unless there is none, or it is of another format."""
    try:
        result = json.loads((folder / "bench.json").read_text())
    except (OSError, ValueError):
        return None
    return dict(result) if isinstance(result, dict) and result.get("format") == FORMAT else None


def list_table(lines: Sequence[Sequence[str]]) -> str:
    """A table in reStructuredText, its heading first."""
    rows = [".. list-table::", "   :header-rows: 1", "   :stub-columns: 1", ""]
    for line in lines:
        rows += [f"   {'  ' if number else '* '}- {cell.translate(_SPECIAL)}" for number, cell in enumerate(line)]
    return "\n".join(row.rstrip() for row in rows) + "\n"


def page(result: dict[str, Any] | None, *, tried: str | None = None, picture: str | None = None) -> str:
    """The part of the page that is made.

    Args:
        result: Of a run, if one is kept.
        tried: What was tried without success, in reStructuredText.
        picture: Path of the plot, as the page sees it.
    """
    parts = [_NONE_KEPT + "\n"] if result is None else _measured(result, picture)
    if tried is not None:
        parts += [_heading("What was tried without success"), tried.strip() + "\n"]
    return "\n".join(parts)


def _measured(result: dict[str, Any], picture: str | None) -> list[str]:
    parts = [f"Measured {conditions(result)}.\n".translate(_SPECIAL)]
    reached = target_table(result)
    if reached:
        parts += [_heading("What is aimed at, and what is reached"), list_table(reached)]
    if picture is not None:
        words = "time of each contender on each row, local HighThroughputExecutor being 1"
        parts.append(f".. image:: {picture}\n   :alt: {words}\n")
    for title, lines in sections(result):
        if lines:
            parts += [_heading(title[0].upper() + title[1:]), list_table(lines)]
    failed = report.failures(result)
    if failed:
        parts.append(_heading("What failed, or was left out"))
        parts.append("\n".join(f"* {line.translate(_SPECIAL)}" for line in failed) + "\n")
    return parts


def _heading(title: str) -> str:
    return f"{title}\n{'-' * len(title)}\n"


def write(folder: Path, *, results: Path = RESULTS, tried: Path = TRIED) -> None:
    """Write the part of the page that is made, `performance.txt`, and its picture.

    Args:
        folder: Where; below the page's own folder.
        results: What is kept of a run.
        tried: What was tried without success, if there is such a file.
    """
    folder.mkdir(exist_ok=True)
    result = kept(results)
    picture = None
    if result is not None and (results / "bench.png").exists():
        shutil.copy(results / "bench.png", folder / "performance.png")
        picture = f"{folder.name}/performance.png"
    words = tried.read_text() if tried.exists() else None
    (folder / "performance.txt").write_text(page(result, tried=words, picture=picture))


def main() -> None:
    """Print it."""
    parser = argparse.ArgumentParser(prog="python -m bench.docs", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=RESULTS, help="what is kept of a run")
    options = parser.parse_args()
    sys.stdout.write(page(kept(options.folder), tried=TRIED.read_text() if TRIED.exists() else None))


if __name__ == "__main__":
    main()
