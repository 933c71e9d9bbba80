"""What a user endpoint does, told in a file of its folder when another process on this machine asks for it.

A file that is made by whoever asks, and one that answers: no port, no socket whose path may be too long, and it costs
the agent one look a second.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

_ASK = "status.ask"
_ANSWER = "status.json"
#: How often someone who has asked looks for the answer, in seconds.
_LOOK_PERIOD_S = 0.05


def is_asked(directory: Path) -> bool:
    """Whether someone has asked for the state."""
    return (directory / _ASK).exists()


def answer(directory: Path, state: Callable[[], Mapping[str, Any]]) -> None:
    """Tell the state if someone has asked for it."""
    ask = directory / _ASK
    if not ask.exists():
        return
    try:
        part = directory / f"{_ANSWER}.part"
        part.touch(mode=0o600)
        part.write_text(json.dumps({**state(), "at_unix_s": time.time()}))
        part.replace(directory / _ANSWER)
        ask.unlink(missing_ok=True)
    except Exception as exc:  # noqa: BLE001 - Parsl may raise anything; tasks are not to suffer for a question
        logger.warning("The state can't be told to whoever has asked: %s", exc)
        with suppress(OSError):
            ask.unlink(missing_ok=True)


def ask(directory: Path, timeout_s: float) -> dict[str, Any] | None:
    """Ask the user endpoint in `directory` for its state, which has `at_unix_s` besides.

    Returns:
        `None` when there is no answer in time: it starts, ends or hangs.
    """
    asked = directory / _ASK
    try:
        (directory / _ANSWER).unlink(missing_ok=True)
        asked.touch(mode=0o600)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                told = json.loads((directory / _ANSWER).read_text())
            except (FileNotFoundError, ValueError):
                time.sleep(_LOOK_PERIOD_S)
                continue
            return told if isinstance(told, dict) else None
        asked.unlink(missing_ok=True)
    except OSError as exc:
        logger.warning("The user endpoint in %s can't be asked: %s", directory, exc)
    return None
