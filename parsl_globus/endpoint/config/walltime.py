"""Walltimes as people write them, to the `HH:MM:SS` that every provider of Parsl takes."""

from __future__ import annotations

import re
from typing import Any

from parsl_globus.errors import ConfigError

_CLOCK = re.compile(r"(?:(?P<days>\d+)-)?(?P<clock>\d+(?::\d+){0,2})")


def canonical_walltime(value: Any, key_path: str) -> str:
    """Return `value` as `HH:MM:SS`.

    Taken are a number of seconds, `MM:SS` (as Slurm and PBS read it), `HH:MM:SS`, and `D-HH[:MM[:SS]]`.

    Raises:
        ConfigError: It is none of these, or shorter than a minute: Parsl makes that `--time=0`, which Slurm takes
            as unlimited.
    """
    match = _CLOCK.fullmatch(str(value).strip()) if not isinstance(value, bool) else None
    if match is None:
        raise ConfigError(
            f"'{value}' is no walltime; write HH:MM:SS, D-HH:MM:SS or a number of seconds.", key_path=key_path
        )
    parts = [int(part) for part in match["clock"].split(":")]
    if match["days"] is not None:
        hours, minutes, seconds = [*parts, 0, 0][:3]
        hours += 24 * int(match["days"])
    else:
        hours, minutes, seconds = [0, 0, *parts][-3:]
    total_s = hours * 3600 + minutes * 60 + seconds
    if total_s < 60:
        raise ConfigError(f"The walltime '{value}' is under a minute; schedulers count in minutes.", key_path=key_path)
    return f"{total_s // 3600:02d}:{total_s // 60 % 60:02d}:{total_s % 60:02d}"
