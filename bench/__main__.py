"""Measures the speed of Parsl's executors side by side; see `make bench`. Usage: python -m bench --help."""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# Servers for tests are servers for this, too.
sys.path.append(str(ROOT / "tests" / "support"))

from bench import outstanding, report, startup  # noqa: E402
from bench.rounds import Rounds  # noqa: E402
from bench.rows import BACKENDS, BY_NAME, KINDS, ROWS  # noqa: E402
from bench.stage import Stage, open_stage  # noqa: E402

RESULTS = Path(__file__).with_name("results")
_MORE = ("outstanding", "imports")


def main() -> int:
    """Run it."""
    options = _options()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("bench").setLevel(logging.INFO)
    result = _measure(options)
    text = report.summary(result)
    print(text)
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
        (options.keep / "bench.json").write_text(json.dumps(result, indent=1) + "\n")
        (options.keep / "bench.txt").write_text(text + "\n")
        from bench.plot import plot

        plot(result, options.keep / "bench.png")
    return _verdict(result, options.check)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    names = [row.name for row in ROWS] + list(_MORE)
    parser.add_argument("--rows", nargs="+", choices=names, default=names)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--backends", nargs="+", choices=list(BACKENDS), default=list(BACKENDS))
    parser.add_argument("--repeats", type=int, help="rounds; 5, or 1 with --quick")
    parser.add_argument("--quick", action="store_true", help="few tasks: seconds instead of minutes")
    parser.add_argument("--count", type=int, help="tasks of each row, instead of its own count")
    parser.add_argument("--outstanding", type=int, default=None, help="how many tasks wait; 100,000, or 5,000")
    parser.add_argument("--keep", type=Path, help=f"a folder for JSON, table and plot, for example {RESULTS.name}")
    parser.add_argument("--check", type=float, help="fail unless each ratio is within this factor of what is aimed at")
    options = parser.parse_args()
    options.repeats = options.repeats or (1 if options.quick else 5)
    options.outstanding = options.outstanding or (5_000 if options.quick else 100_000)
    return options


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    rows = [row for row in ROWS if row.name in options.rows]
    result: dict[str, Any] = {"meta": _meta(options), "rows": [], "ready_s": {}, "outstanding": []}
    if "imports" in options.rows:
        result["imports"] = startup.imports(options.repeats)
    for number, backend in enumerate(options.backends if rows or "outstanding" in options.rows else []):
        with tempfile.TemporaryDirectory(prefix="bench-") as folder, open_stage(backend, Path(folder)) as stage:
            result["ready_s"][backend] = round(stage.ready_s, 2)
            if rows:
                rounds = Rounds(
                    backend,
                    stage,
                    options.kinds,
                    rows,
                    repeats=options.repeats,
                    quick=options.quick,
                    count=options.count,
                )
                result["rows"] += [asdict(one) for one in rounds.run()]
            if number == 0 and "outstanding" in options.rows:
                result["outstanding"] = _outstanding(stage, options.outstanding)
    result["meta"]["load_after"] = os.getloadavg()[0]
    return result


def _outstanding(stage: Stage, count: int) -> list[dict[str, Any]]:
    endpoint_id = stage.start_endpoint("ours")
    stage.stop_endpoint("ours")
    program = Path(outstanding.__file__)
    found = []
    for kind in ("nothing", "local", "ours"):
        words = [kind, "--count", str(count)] + (["--endpoint", str(endpoint_id)] if kind == "ours" else [])
        found.append(json.loads(stage.output([sys.executable, program, *words]).splitlines()[-1]))
    return found


def _meta(options: argparse.Namespace) -> dict[str, Any]:
    packages = ("parsl", "globus-compute-sdk", "globus-compute-endpoint", "parsl-globus")
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "when": time.strftime("%Y-%m-%d %H:%M"),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "commit": commit.stdout.strip(),
        "load_before": os.getloadavg()[0],
        "repeats": options.repeats,
        "quick": options.quick,
    }


def _verdict(result: dict[str, Any], factor: float | None) -> int:
    """Whether every ratio that has a bound keeps it, widened by a factor."""
    if factor is None:
        return 0
    bad = []
    for row in (row for row in result["rows"] if row["kind"] == "ours"):
        aim = BY_NAME[row["row"]]
        local = next(
            r for r in result["rows"] if (r["row"], r["backend"], r["kind"]) == (row["row"], row["backend"], "local")
        )
        # The best round: a machine that was busy for a while has not made the code slower.
        found = report.ratios(row, local)
        if any(row["failed"]):
            bad.append(f"{row['row']}: {max(row['failed'])} tasks failed")
        if aim.at_least is not None and max(found) < aim.at_least / factor:
            bad.append(f"{row['row']}: {max(found):.2f} of local, less than {aim.at_least:g} / {factor:g}")
        if aim.at_most is not None and min(found) > aim.at_most * factor:
            bad.append(f"{row['row']}: {min(found):.2f} x local, more than {aim.at_most:g} x {factor:g}")
    for text in bad:
        print(f"Slower than it was: {text}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
