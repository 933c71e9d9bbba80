"""Blocks: when their failures mean that an endpoint can't go on, and a record by which the next agent ends them."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from pathlib import Path

from parsl.executors.high_throughput.executor import HighThroughputExecutor
from parsl.executors.status_handling import BlockProviderExecutor
from parsl.jobs.error_handlers import simple_error_handler, windowed_error_handler
from parsl.jobs.states import JobState, JobStatus
from parsl.providers.base import ExecutionProvider
from parsl.providers.cluster_provider import ClusterProvider

logger = logging.getLogger(__name__)

#: Where blocks have worked before, so many in a row must fail without having had a worker, or fail at all.
NEVER_CONNECTED_IN_A_ROW = 3
FAILED_IN_A_ROW = 10
#: Where none has worked yet, so many more than the first ones may be ended by a signal: that is somebody's doing, and
#: no fault of the configuration. A program that crashes ends like that, too, hence the limit.
KILLED_AT_FIRST = 2

_FAILED = frozenset({JobState.FAILED, JobState.MISSING})


def give_up_on_blocks(executor: BlockProviderExecutor, status: Mapping[str, JobStatus]) -> None:
    """HTEX's `block_error_handler`: puts an executor into bad state whose blocks fail for a reason that will stay.

    Parsl's own gives up as soon as all blocks so far have failed. That is right for blocks that never got to work,
    but an endpoint lives for weeks: a node that goes down under its only block must not fail all that waits.
    """
    if not any(one.state in _FAILED for one in status.values()) or not all(one.terminal for one in status.values()):
        return
    assert isinstance(executor, HighThroughputExecutor)
    connected = set(executor.connected_blocks())
    if not connected:
        if not (all(map(_was_killed, status.values())) and len(status) < _first_blocks(executor) + KILLED_AT_FIRST):
            simple_error_handler(executor, dict(status))
        return
    failed = never_connected = 0
    for block_id in sorted(status, key=int, reverse=True):
        if status[block_id].state not in _FAILED:
            break
        if block_id not in connected and never_connected == failed:
            never_connected += 1
        failed += 1
    if never_connected >= NEVER_CONNECTED_IN_A_ROW or failed >= FAILED_IN_A_ROW:
        windowed_error_handler(executor, dict(status), threshold=failed)


def _first_blocks(executor: HighThroughputExecutor) -> int:
    return max(1, getattr(executor.provider, "init_blocks", 1))


def _was_killed(status: JobStatus) -> bool:
    """Whether a signal ended the block, as far as the provider tells: LocalProvider does."""
    # What a shell says of a command that a signal ended; or LocalProvider, of a shell of its own.
    return (status.exit_code is not None and 128 < status.exit_code <= 192) or status.message == "Killed"


def live_jobs(executor: BlockProviderExecutor) -> list[str]:
    """The scheduler's ids of the blocks that have not ended, as far as Parsl knows.

    Parsl itself remembers every block that it ever had, and an endpoint that lives for weeks has many.
    """
    status = executor.status_facade
    jobs = list(executor.blocks_to_job_id.items())  # Parsl's poller adds to it meanwhile, on its thread
    return [str(job_id) for block_id, job_id in jobs if block_id not in status or not status[block_id].terminal]


class BlockRecord:
    """The scheduler's ids of an engine's blocks, on disk: an agent that was killed can't cancel them, the next one can.

    Only for schedulers: blocks on this machine are found as processes.

    Args:
        path: The file.
        provider: Whose blocks.
    """

    def __init__(self, path: Path, provider: ExecutionProvider | None) -> None:
        self._path = path
        self._provider = provider if isinstance(provider, ClusterProvider) else None
        self._noted: frozenset[str] = frozenset()

    def note(self, job_ids: Collection[str]) -> None:
        """These are all blocks that live; costs nothing when they are known."""
        now = frozenset(str(job_id) for job_id in job_ids)
        if self._provider is None or now == self._noted:
            return
        try:
            part = self._path.with_suffix(".part")
            part.write_text(json.dumps(sorted(now)))
            part.replace(self._path)
        except OSError as exc:
            logger.warning("The blocks can't be noted, so nobody would cancel them after a kill: %s", exc)
            return
        self._noted = now

    def cancel_left(self) -> None:
        """Cancel what an earlier agent left, before there are blocks of this one."""
        if self._provider is None:
            return
        try:
            left = [str(job_id) for job_id in json.loads(self._path.read_text())]
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError) as exc:
            logger.warning("The record of blocks %s can't be read: %s", self._path, exc)
            return
        for job_id in left:
            self._cancel(self._provider, job_id)
        self.forget()

    def _cancel(self, provider: ClusterProvider, job_id: str) -> None:
        logger.info("Cancelling block %s of an earlier run", job_id)
        # Providers note the new state of what they cancel, and fail over what they did not submit themselves.
        provider.resources[job_id] = {"job_id": job_id, "status": JobStatus(JobState.UNKNOWN)}
        try:
            if not all(provider.cancel([job_id])):
                logger.info("Block %s could not be cancelled; it may have ended before", job_id)
        except Exception as exc:  # noqa: BLE001 - the providers' commands fail as they like, and the endpoint goes on
            logger.warning("Block %s could not be cancelled: %s", job_id, exc)
        finally:
            provider.resources.pop(job_id, None)

    def forget(self) -> None:
        """No block is left."""
        self._path.unlink(missing_ok=True)
        self._noted = frozenset()
