"""Optional dependencies: a missing one is told with the extra that brings it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from parsl_globus.errors import MissingExtra


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Imports in this context need `extra`.

    Example::

        with needs_extra("service"):
            import fastapi

    Raises:
        MissingExtra: A module that isn't ours can't be found.
    """
    try:
        yield
    except ModuleNotFoundError as exc:
        if (exc.name or "").split(".")[0] == "parsl_globus":
            raise
        raise MissingExtra(extra=extra, module=exc.name or "?") from exc
