"""A whole run: every row and part on every backend, whatever fails on the way."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench import startup
from bench.pace import Pace
from bench.parts import NAMES, Parts
from bench.process import ContenderFailedError
from bench.progress import Progress
from bench.report import FORMAT
from bench.rounds import Plan, Rounds
from bench.rows import ROWS
from bench.stage import OUTCOMES, Stage, open_stage
from parsl_globus.errors import ParslGlobusError

_ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = ("parsl", "globus-compute-sdk", "globus-compute-endpoint", "parsl-globus")


@dataclass(frozen=True)
class Options:
    """What is measured.

    Attributes:
        rows: Rows, and parts besides them.
        kinds: Contenders.
        backends: On the first of them run the parts, too.
        repeats: How many rounds.
        quick: Whether to take the short counts.
        count: Tasks of each row, instead of its own count.
        outstanding: How many tasks wait.
        time_limit_s: Rounds that have not begun by then are left out.
    """

    rows: Sequence[str]
    kinds: Sequence[str]
    backends: Sequence[str]
    repeats: int
    quick: bool
    count: int | None
    outstanding: int
    time_limit_s: float | None


class Run:
    """Measures; what fails is noted, and the rest goes on.

    Args:
        options: What.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._progress = Progress(options.time_limit_s)
        self._pace = Pace()
        self._names = [name for name in NAMES if name in options.rows]
        rows = [row for row in ROWS if row.name in options.rows]
        self._plan = Plan(options.kinds, rows, options.repeats, options.quick, options.count)
        self.result: dict[str, Any] = {
            "format": FORMAT, "meta": _meta(options), "rows": [], "ready_s": {}, "skipped": [],
        }  # fmt: skip

    def measure(self) -> dict[str, Any]:
        """Do it."""
        options, result = self._options, self.result
        backends = options.backends if self._plan.rows or self._names else []
        self._progress.total = sum(self._plan.steps(backend) for backend in backends)
        if "imports" in options.rows:
            self._progress.total += 1
            result["imports"] = startup.imports(options.repeats)
            self._progress.step("imports")
        for number, backend in enumerate(backends):
            with tempfile.TemporaryDirectory(prefix="bench-") as folder:
                try:
                    starts = 1 if options.quick else min(options.repeats, 5)
                    with open_stage(backend, Path(folder), starts=starts) as stage:
                        self._on_stage(stage, backend, first=number == 0)
                except (*OUTCOMES, OSError, AssertionError, ParslGlobusError) as exc:
                    words = [line for line in str(exc).splitlines() if line.strip()] or [type(exc).__name__]
                    result["skipped"].append({"what": backend, "why": words[0][:300]})
                    self._progress.step(f"{backend}: failed: {words[0]}")
        result["meta"] |= {
            "load_after": os.getloadavg()[0],
            "taken_s": round(self._progress.elapsed_s()),
            "pace_ms": self._pace.summary(),
        }
        return result

    def _on_stage(self, stage: Stage, backend: str, *, first: bool) -> None:
        options, result = self._options, self.result
        result["ready_s"][backend] = stage.ready_s
        alone = len(options.backends) == 1
        share = 1.0 if alone or not first else 0.45
        if self._plan.rows:
            rounds = Rounds(backend, stage, self._plan, self._progress, self._pace, share=share)
            result["rows"] += [asdict(one) for one in rounds.run()]
        if not first:
            return
        parts = Parts(
            stage,
            self._progress,
            repeats=options.repeats,
            quick=options.quick,
            count=options.count,
            outstanding=options.outstanding,
        )
        self._progress.total += parts.steps(self._names)
        for name in self._names:
            try:
                result[name] = getattr(parts, name)()
            except ContenderFailedError as exc:
                result["skipped"].append({"what": name, "why": str(exc)})
                self._progress.step(f"{name}: failed: {exc}")


def _meta(options: Options) -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=_ROOT, capture_output=True, text=True, check=False
    )
    return {
        "when": time.strftime("%Y-%m-%d %H:%M"),
        "cores": os.cpu_count(),
        "processor": _first_match("/proc/cpuinfo", r"model name\s*:\s*(.+)") or platform.machine(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"Linux {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "commit": commit.stdout.strip(),
        "load_before": os.getloadavg()[0],
        "repeats": options.repeats,
        "quick": options.quick,
        "count": options.count,
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _first_match(path: str, pattern: str) -> str | None:
    try:
        found = re.search(pattern, Path(path).read_text())
    except OSError:
        return None
    return found[1].strip() if found else None
