"""What pika says of a failure, in words."""

from __future__ import annotations

from typing import Any


def reason_text(reason: Any) -> str:
    """Why there is no connection or channel. pika wraps what happened to an attempt, and then says nothing of it."""
    inner = reason
    while not isinstance(inner, str):
        attempts = getattr(inner, "exceptions", None) or [arg for arg in _args(inner) if isinstance(arg, Exception)]
        deeper = attempts[-1] if attempts else getattr(inner, "exception", None)
        if deeper is None:
            break
        inner = deeper
    return f"{type(inner).__name__}: {inner}"


def _args(reason: Any) -> tuple[Any, ...]:
    return reason.args if isinstance(reason, Exception) else ()
