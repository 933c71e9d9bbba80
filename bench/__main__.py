"""Measures the speed of Parsl's executors side by side; see `make bench`. Usage: python -m bench --help."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

# Servers for tests are servers for this, too.
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from bench import check, summary
from bench.parts import NAMES
from bench.rows import BACKENDS, KINDS, ROWS
from bench.run import Options, Run

_RESULTS = Path(__file__).with_name("results")
_INTERRUPTED = 130


def main() -> int:
    """Run it."""
    options = _options()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("bench").setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run = Run(
        Options(
            rows=options.rows,
            kinds=options.kinds,
            backends=options.backends,
            repeats=options.repeats or (1 if options.quick else 5),
            quick=options.quick,
            count=options.count,
            outstanding=options.outstanding or (5_000 if options.quick else 100_000),
            time_limit_s=options.time_limit_s,
        )
    )
    try:
        result = run.measure()
    except KeyboardInterrupt:
        print("Stopped; everything that ran is ended, nothing is kept.", file=sys.stderr)
        return _INTERRUPTED
    text = summary.summary(result)
    print(text)
    if options.keep is not None:
        _keep(result, text, options.keep)
    bad = check.broken(result, options.check) if options.check else []
    for what in bad:
        print(f"Slower than it may be: {what}")
    return 1 if bad else 0


def _stop(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


def _keep(result: dict[str, Any], text: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / "bench.txt").write_text(text + "\n")
    from bench.plot import plot

    plot(result, folder / "bench.png")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    names = [*(row.name for row in ROWS), *NAMES, "imports"]
    parser.add_argument("--rows", nargs="+", choices=names, default=names, metavar="ROW", help=", ".join(names))
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), help="contenders")
    parser.add_argument("--backends", nargs="+", choices=list(BACKENDS), default=list(BACKENDS))
    parser.add_argument("--repeats", type=int, help="rounds; 5, or 1 with --quick")
    parser.add_argument("--quick", action="store_true", help="few tasks: minutes instead of half an hour")
    parser.add_argument("--count", type=int, help="tasks of each row, instead of its own count")
    parser.add_argument("--outstanding", type=int, help="how many tasks wait; 100,000, or 5,000 with --quick")
    parser.add_argument(
        "--time-limit-s", type=float, default=1_800.0, help="leave out further rounds after so long (%(default)g s)"
    )
    parser.add_argument("--keep", type=Path, help=f"a folder for JSON, table and plot, for example {_RESULTS.name}")
    parser.add_argument(
        "--check", nargs="+", type=check.bound, metavar="ROW=BOUND",
        help="fail unless our ratio to local HTEX keeps these, for example noops=0.25 latency=25",
    )  # fmt: skip
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
