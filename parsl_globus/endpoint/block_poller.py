"""Parsl's poller of blocks, which looks sooner when a worker pool is lost, so that the next block comes sooner."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from parsl.executors.high_throughput.executor import HighThroughputExecutor
from parsl.executors.status_handling import BlockProviderExecutor
from parsl.jobs.job_status_poller import JobStatusPoller
from parsl.utils import Timer

logger = logging.getLogger(__name__)

#: After a pool is lost, the scheduler is asked at each tick of the strategy until the block has ended, but for no
#: longer than this, in seconds: by then Parsl itself asks, and a block of many nodes goes on without one of them.
_LOOK_S = 60.0


class BlockPoller(JobStatusPoller):
    """Asks the scheduler as often as Parsl does, which is once a minute, and in between when a pool is lost.

    As long as a block that has ended counts as running, none comes in its place.

    Args:
        arguments: Those of `JobStatusPoller`.
    """

    def __init__(self, **arguments: Any) -> None:
        # Before the timer starts, which calls `poll` at once.
        self._one_at_a_time = threading.Lock()
        #: The block of each pool that the interchange had when it was asked last.
        self._pools: dict[str, str] = {}
        #: Blocks that have lost a pool, and until when the scheduler is asked about them.
        self._doubtful: dict[str, float] = {}
        super().__init__(**arguments)

    def poll(self) -> None:
        """One tick. Parsl's timer may call it while the engine does, and both would ask for the first blocks."""
        with self._one_at_a_time:
            for executor in self._executors:
                if self._has_doubtful(executor):
                    logger.info("A worker pool is lost; asking for the state of its block")
                    # Parsl's own look at the provider is not due yet. It updates what it has remembered like this, too.
                    executor.status_facade.update(executor.status())
            super().poll()

    def leave(self, timeout_s: float) -> None:
        """Look no more, but leave the blocks as they are, which `close` does not.

        Args:
            timeout_s: How long to wait for a look that is going on: with a dead interchange it never ends.
        """
        Timer.close(self, timeout=timeout_s)

    def _has_doubtful(self, executor: BlockProviderExecutor) -> bool:
        assert isinstance(executor, HighThroughputExecutor)
        pools = {str(one["manager"]): str(one["block_id"]) for one in executor.connected_managers()}
        now_s = time.monotonic()
        for pool, block_id in self._pools.items():
            if pool not in pools:
                self._doubtful[block_id] = now_s + _LOOK_S
        self._pools = pools
        status = executor.status_facade
        self._doubtful = {
            block_id: until_s
            for block_id, until_s in self._doubtful.items()
            if now_s < until_s and block_id in status and not status[block_id].terminal
        }
        return bool(self._doubtful)
