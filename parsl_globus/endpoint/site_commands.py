"""Shell commands of a configuration, `endpoint_setup` and `endpoint_teardown`: run, and ended when there is need to."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from typing import IO

from parsl_globus.errors import EndpointStartFailed

logger = logging.getLogger(__name__)

#: How often it is looked whether they are to end; the next second of a command that takes minutes.
_LOOK_PERIOD_S = 0.1
#: How long what was told to end may take.
_GRACE_S = 2.0
_TAIL_BYTES = 2000
_TAIL_LENGTH = 500


def run_commands(
    key: str,
    commands: str | None,
    endpoint_id: uuid.UUID,
    *,
    stopping: threading.Event | None = None,
    limit_s: float | None = None,
) -> bool:
    """Run the shell commands of a configuration's `key`.

    What they have started in the background goes on, as part of the endpoint, unless they are ended.

    Args:
        key: Told in errors.
        commands: For a shell; nothing at all is fine.
        endpoint_id: Told in errors.
        stopping: Ends them when it is set.
        limit_s: Ends them after so long.

    Returns:
        Whether they ran; if not, `stopping` has ended them.

    Raises:
        EndpointStartFailed: They failed, or took too long.
    """
    if not commands:
        return True
    logger.info("Running %s", key)
    # Not a pipe: what they leave in the background may keep that open.
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            ["/bin/sh", "-ec", commands],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # so that all of it can be ended
        )
        why = _wait(process, stopping, limit_s)
        if why is not None:
            _end(process)
            logger.warning("%s was ended: %s", key, why)
            if stopping is not None and stopping.is_set():
                return False
            raise EndpointStartFailed(endpoint_id=str(endpoint_id), detail=f"{key} of the configuration {why}")
        if process.returncode:
            detail = f"{key} of the configuration failed with exit code {process.returncode}: {_tail(output)}"
            raise EndpointStartFailed(endpoint_id=str(endpoint_id), detail=detail)
    return True


def _wait(process: subprocess.Popen[bytes], stopping: threading.Event | None, limit_s: float | None) -> str | None:
    """Wait for its end; why it has to be ended, if it does."""
    deadline_s = time.monotonic() + limit_s if limit_s is not None else None
    while True:
        try:
            process.wait(_LOOK_PERIOD_S)
        except subprocess.TimeoutExpired:
            pass
        else:
            return None
        if stopping is not None and stopping.is_set():
            return "the endpoint is told to stop"
        if deadline_s is not None and time.monotonic() > deadline_s:
            return f"did not end within {limit_s:.0f} s"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Politely first; their session's group is theirs alone."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _tail(output: IO[bytes]) -> str:
    size_bytes = output.seek(0, os.SEEK_END)
    output.seek(max(0, size_bytes - _TAIL_BYTES))
    return output.read().decode(errors="replace").strip()[-_TAIL_LENGTH:]
