"""Blocks on this machine: what they leave behind when they end is ended too, as a scheduler does for its jobs."""

from __future__ import annotations

import logging
from pathlib import Path

from parsl.providers import LocalProvider
from parsl.providers.base import ExecutionProvider

from parsl_globus.endpoint.processes import end_having

logger = logging.getLogger(__name__)

#: Exported by the scripts of LocalProvider, so that all processes of a block have it: the script's own name.
_VARIABLE = "JOBNAME"


class LocalBlocks:
    """Ends the workers of a pool that was killed: they finish what they run before they look whether their pool lives.

    Args:
        provider: Whose blocks; nothing happens unless it is LocalProvider.
    """

    def __init__(self, provider: ExecutionProvider | None) -> None:
        self._provider = provider if isinstance(provider, LocalProvider) else None
        self._seen: set[str] = set()

    def end_left(self) -> None:
        """Look which blocks have ended since; costs nothing when none has."""
        if self._provider is None:
            return
        for job_id, job in list(self._provider.resources.items()):
            if str(job_id) not in self._seen and job["status"].terminal:
                self._seen.add(str(job_id))
                count = end_having(_VARIABLE, Path(job["script_path"]).stem, grace_s=1.0)
                if count:
                    logger.warning("Block %s ended and left %d processes, which were ended", job_id, count)
