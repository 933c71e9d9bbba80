"""Runs several short tasks that came in one trip, one after another."""

from __future__ import annotations

import functools
import importlib
import io
import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from parsl_globus.wire.fused import FusedResult, pack_result, split_bodies

logger = logging.getLogger(__name__)

#: With so much to send home, no further task begins: what shares a trip is in memory together on all its way.
RESULTS_BYTES = 1024 * 1024


def run_fused(
    bodies: bytes,
    calls: Sequence[tuple[Sequence[Any], Mapping[str, Any]]],
    *,
    run_task: str,
    results: str,
    limit_s: float,
) -> bytes:
    """Run tasks until all are done, or `limit_s` have passed, or their results are large.

    Args:
        bodies: Packed task messages, packed once more.
        calls: Further arguments, of which the first is its id, and keyword arguments of `run_task`, for each.
        run_task: Import path of what runs each.
        results: Path of a file in which each result is noted at once: should this worker die, or one of the tasks take
            long, the agent has the others' results from there.
        limit_s: After so long no further one begins, in seconds.

    Returns:
        The results, packed; those that are missing have not begun.
    """
    began_s = time.monotonic()
    run = _function(run_task)
    done: list[bytes] = []
    size_bytes = 0
    with _Notes(results) as notes:
        for body, (arguments, keywords) in zip(split_bodies(bodies), calls, strict=True):
            if done and (size_bytes > RESULTS_BYTES or time.monotonic() - began_s > limit_s):
                break
            start_ns = time.monotonic_ns()
            result = run(body, *arguments, **keywords)
            took_ns = time.monotonic_ns() - start_ns
            done.append(pack_result(FusedResult(uuid.UUID(arguments[0]), took_ns, result)))
            size_bytes += len(done[-1])
            notes.write(done[-1])
    return b"".join(done)


@functools.cache
def _function(path: str) -> Callable[..., bytes]:
    module, _, name = path.rpartition(".")
    function: Callable[..., bytes] = getattr(importlib.import_module(module), name)
    return function


class _Notes:
    """The file of results; without it, for example on a full disk, they come with the trip's end only."""

    def __init__(self, path: str) -> None:
        try:
            self._file: io.FileIO | None = io.FileIO(path, "xb", opener=_readable)
        except OSError as exc:
            self._give_up(exc)

    def write(self, result: bytes) -> None:
        view = memoryview(result)
        try:
            while view and self._file is not None:
                view = view[self._file.write(view) :]
        except OSError as exc:
            self.close()
            self._give_up(exc)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _give_up(self, exc: OSError) -> None:
        logger.warning("Results of short tasks can't be noted: %s", exc)
        self._file = None

    def __enter__(self) -> _Notes:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def _readable(path: str, flags: int) -> int:
    # Their folder is the account's alone; a container's user may be another one than the agent's.
    return os.open(path, flags, 0o644)
