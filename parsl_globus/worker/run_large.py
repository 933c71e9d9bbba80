"""Runs a task whose message is in a file."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any


def run_large(_body: bytes, *arguments: str, run_task: str, path: str, **keywords: Any) -> bytes:
    """Read the task's message, and run it.

    Args:
        _body: Nothing, as the message is elsewhere.
        arguments: As for `run_task`.
        run_task: Import path of the function that runs it.
        path: Where the message is.
        keywords: As for `run_task`.

    Returns:
        What `run_task` returns.

    Raises:
        OSError: The file can't be read; nothing was begun.
    """
    try:
        body = Path(path).read_bytes()
    except FileNotFoundError:
        body = b""  # the task was answered already: it may not begin, and `run_task` sees to that
    module, _, name = run_task.rpartition(".")
    function: Callable[..., bytes] = getattr(importlib.import_module(module), name)
    return function(body, *arguments, **keywords)
