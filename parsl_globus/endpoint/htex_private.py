"""The one private attribute of Parsl that the agent touches, and why.

HTEX refuses worker pools whose Python or Parsl differs from the interchange's. The agent ships bytes and names its
worker function by import path, so workers may run another Python, such as a conda environment that `worker_init`
activates; the task itself checks versions before it unpickles anything. Parsl offers no argument for this; the
attribute exists for Globus Compute, says the comment where Parsl sets it. `tests/unit/endpoint/test_htex_private.py`
fails when it moves.
"""

from __future__ import annotations

from parsl.executors.high_throughput.executor import HighThroughputExecutor


def relax_version_check(executor: HighThroughputExecutor) -> None:
    """Let worker pools of other Python versions register."""
    executor._check_python_mismatch = False
