"""Pauses before another try, each a little different, so that what failed together does not come back together.

Not from the random numbers of the process: a workflow that calls `random.seed` gets its own sequence, whatever our
threads go through meanwhile.
"""

from __future__ import annotations

import random

_source = random.SystemRandom()


def around(pause_s: float) -> float:
    """From half of `pause_s` to one and a half of it, in seconds."""
    return pause_s * _source.uniform(0.5, 1.5)


def up_to(pause_s: float) -> float:
    """From nothing to `pause_s`, in seconds."""
    return _source.uniform(0.0, pause_s)
