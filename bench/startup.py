"""How long it takes until something can be used: imports, and the service."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
from typing import Any

_IMPORTS = {
    "import parsl": "import parsl",
    "import parsl_globus": "import parsl_globus",
    "from parsl_globus import GlobusComputeExecutor": "from parsl_globus import GlobusComputeExecutor",
    "parsl and its own executor with the SDK": (
        "import parsl; from parsl.executors import GlobusComputeExecutor; import globus_compute_sdk"
    ),
}


def imports(repeats: int) -> dict[str, Any]:
    """Processor time of imports, in seconds, and their ratios to Parsl's, in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in _IMPORTS}
    for _round in range(repeats + 1):
        for name, code in _IMPORTS.items():
            seconds[name].append(_cpu_s([sys.executable, "-c", code]))
    plain = [first - _cpu_s([sys.executable, "-c", ""]) for first in seconds["import parsl"][1:]]
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}  # the first warms the disk
    base = medians["import parsl"]
    return {
        "cpu_s": {name: round(value, 3) for name, value in medians.items()},
        "ratio": {name: round(value / base, 3) for name, value in medians.items()},
        "parsl_without_python_s": round(statistics.median(plain), 3),
    }


def _cpu_s(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
