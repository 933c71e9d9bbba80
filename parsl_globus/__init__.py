"""Run Parsl apps on Globus Compute endpoints, with Globus's service or one of your own.

The names are loaded when they are first used: workers import this package on every core, and need none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from parsl_globus.version import __version__

if TYPE_CHECKING:
    from parsl_globus.client.connect import connect
    from parsl_globus.errors import ParslGlobusError
    from parsl_globus.executor.executor import GlobusComputeExecutor
    from parsl_globus.executor.progress.view import progress

__all__ = ("GlobusComputeExecutor", "ParslGlobusError", "__version__", "connect", "progress")

_HOMES = {
    "GlobusComputeExecutor": "parsl_globus.executor.executor",
    "ParslGlobusError": "parsl_globus.errors",
    "connect": "parsl_globus.client.connect",
    "progress": "parsl_globus.executor.progress.view",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
