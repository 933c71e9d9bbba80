"""What the files of a user endpoint in another account tell, read as that account: root had better not follow them.

`python -I -c PROGRAM FOLDER ANSWER_S JOBS` is what runs there; it prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import pwd
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parsl_globus.errors import EndpointError

#: A user endpoint's record of its blocks, see `blocks`.
BLOCKS_FILE = "blocks.json"

_PROGRAM = f"from {__name__} import main; main()"
#: The account may have the program say anything, so no more of it is read, for no longer than it may take.
_MOST_BYTES = 256 * 1024
_START_S = 20.0
_MOST_JOBS = 1000
#: Of tasks and workers; as seconds since 1970 it is in the year 2242.
_MOST = 2**33


@dataclass(frozen=True)
class Told:
    """What the files tell.

    Attributes:
        state: What it does, if it runs and answers; see `status_file`.
        tasks: How many have not ended.
        results: How many are not confirmed.
        jobs: The scheduler's ids of blocks that it has on record.
    """

    state: Mapping[str, Any] | None = None
    tasks: int = 0
    results: int = 0
    jobs: tuple[str, ...] = field(default=())


def look(directory: Path, *, jobs: bool = False) -> Told:
    """What the user endpoint in `directory` of this account has on its disk.

    Args:
        directory: Its folder.
        jobs: Whether to read its record of blocks, too.

    Raises:
        EndpointError: Its spool or its record can't be read.
    """
    from parsl_globus.endpoint.spool import outstanding

    tasks, results = outstanding(directory)
    return Told(tasks=tasks, results=results, jobs=_jobs(directory / BLOCKS_FILE) if jobs else ())


def _jobs(path: Path) -> tuple[str, ...]:
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as exc:
        raise EndpointError(f"The record of blocks {path} can't be read: {exc}.") from exc
    return tuple(map(str, found)) if isinstance(found, list) else (str(found),)


def ask(record: Mapping[str, Any], *, answer_s: float = 0.0, jobs: bool = False) -> Told:
    """The same of a user endpoint in another account, for root.

    Args:
        record: The manager's note of it, see `EndpointFolder.account_record`.
        answer_s: How long it may take to say itself what it does; 0 where it doesn't run.
        jobs: As for `look`.

    Raises:
        EndpointError: The account is gone, or its files can't be read there.
    """
    name, uid, directory = str(record["account"]), int(record["uid"]), str(Path(record["log"]).parent)
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise EndpointError(f"There is no account '{name}' any more.") from None
    if entry.pw_uid != uid or uid == 0:
        raise EndpointError(f"The account '{name}' is another one than it was.")
    command = [sys.executable, "-I", "-c", _PROGRAM, directory, str(answer_s), str(int(jobs))]
    try:
        # All ids of the process become the account's, which takes the capabilities along.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={"PATH": "/usr/bin:/bin"},
            user=uid,
            group=entry.pw_gid,
            extra_groups=os.getgrouplist(name, entry.pw_gid),
            umask=0o077,
            start_new_session=True,
        )
    except (OSError, subprocess.SubprocessError) as exc:
        raise EndpointError(f"The account '{name}' can't run {sys.executable}: {exc}.") from exc
    with process:
        try:
            text = _read(process, _START_S + answer_s)
        finally:
            process.kill()
    try:
        return _told(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        raise EndpointError(f"The files in {directory} can't be read as '{name}'.") from None


def _read(process: subprocess.Popen[bytes], timeout_s: float) -> bytes:
    """What it prints, as far as it is worth reading."""
    assert process.stdout is not None
    handle, text = process.stdout.fileno(), b""
    poller = select.poll()
    poller.register(handle, select.POLLIN)
    deadline_s = time.monotonic() + timeout_s
    while len(text) < _MOST_BYTES and (left_s := deadline_s - time.monotonic()) > 0:
        if not poller.poll(left_s * 1000):
            break
        part = os.read(handle, 65536)
        if not part:
            break
        text += part
    return text


def _told(document: Mapping[str, Any]) -> Told:
    """The document with nothing in it but what it should have: another account has made it."""
    state = document["state"]
    jobs = [_plain(job) or "?" for job in document["jobs"][:_MOST_JOBS]]
    return Told(
        state=_state(state) if state is not None else None,
        tasks=_number(document["tasks"]),
        results=_number(document["results"]),
        jobs=tuple(jobs),
    )


def _state(state: Mapping[str, Any]) -> dict[str, Any]:
    numbers = ("pid", "start_unix", "outstanding_tasks", "pending_tasks", "total_workers", "idle_workers")
    blocks = dict(list((state["blocks"] or {}).items())[:_MOST_JOBS])
    return {
        **{key: _number(state[key]) for key in numbers},
        "tasks": {key: _number(state["tasks"][key]) for key in ("done", "failed")},
        "blocks": {
            _plain(block_id): {key: _plain(block[key]) for key in ("job_id", "status")}
            for block_id, block in blocks.items()
        },
    }


def _number(value: Any) -> int:
    number = int(value)
    if not 0 <= number <= _MOST:
        raise ValueError("no number of tasks, workers or seconds")
    return number


def _plain(text: Any) -> str | None:
    """Text that does nothing to a terminal, and isn't long."""
    return None if text is None else "".join(filter(str.isprintable, str(text)))[:100]


def main() -> None:
    """Tell what is asked for; runs as the account."""
    directory, answer_s, jobs = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3] == "1"
    from parsl_globus.endpoint import status_file

    told = look(directory, jobs=jobs)
    state = status_file.ask(directory, answer_s) if answer_s else None
    print(json.dumps({"state": state, "tasks": told.tasks, "results": told.results, "jobs": told.jobs}))  # noqa: T201
