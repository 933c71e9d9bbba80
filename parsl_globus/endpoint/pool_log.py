"""The log of worker pools and the interchange, as Parsl writes it anyway; in a pool, it brings the pool's guard along.

Parsl has its components make a log configuration when they start, wherever they run and by whatever command: the one
place where something of ours can run in a pool's own process.
"""

from __future__ import annotations

import importlib
import logging
import pathlib
from collections.abc import Callable

from parsl.logconfigs.file import FileLogging

#: Named, as all of the worker's side; a pool imports it, the agent doesn't.
GUARD = "parsl_globus.worker.pool_guard"
#: How Parsl calls the log of a worker pool's own process.
_POOL = "manager"


class PoolLog(FileLogging):
    """Parsl's usual files.

    Args:
        debug: As HighThroughputExecutor's `worker_debug`.
    """

    def __init__(self, *, debug: bool) -> None:
        super().__init__(level=logging.DEBUG if debug else logging.INFO)

    def initialize_logging(self, *, log_dir: pathlib.Path, log_name: str) -> Callable[[], None]:
        """Begin; called by Parsl in each of its processes."""
        end: Callable[[], None] = super().initialize_logging(log_dir=log_dir, log_name=log_name)
        if log_name == _POOL:
            importlib.import_module(GUARD).start()
        return end
