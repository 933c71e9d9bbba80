"""Processes of an endpoint: a mark by which all of them are found, and their end."""

from __future__ import annotations

import ctypes
import logging
import os
import select
import signal
import socket
import time
import uuid
from collections.abc import Callable, Collection, Container, Iterable
from pathlib import Path

logger = logging.getLogger(__name__)

#: Environment variable that all processes of a user endpoint inherit: interchange, worker pools, workers, tasks.
TREE_VARIABLE = "PARSL_GLOBUS_TREE"
_TREE_SPACE = uuid.UUID("0c8f25f7-0c5a-5ac4-9df1-2bb1e2c4d8a3")
_PR_SET_CHILD_SUBREAPER = 36


def tree_mark(directory: Path, name: str = "") -> str:
    """The value of `TREE_VARIABLE` for the user endpoint `name` of the endpoint in `directory`.

    It is the same in each run, so that a manager finds what one that was killed left behind. Without a name, it is
    what all marks of this endpoint start with.
    """
    return f"{uuid.uuid5(_TREE_SPACE, f'{socket.gethostname()}:{directory}')}/{name}"


def become_subreaper() -> None:
    """Have orphaned descendants become children of this process, which then can reap them."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def tree_environment(mark: str) -> dict[str, str]:
    """Environment variables for the root of a tree with this mark."""
    # Parsl names its processes by setproctitle, where that is installed, and it writes the name over the environment
    # that /proc shows, mark included, unless it is told not to.
    return {TREE_VARIABLE: mark, "SPT_NOENV": "1"}


class Known(Container[int]):
    """Some processes, and all that bear a mark at the time when somebody asks.

    Args:
        pids: The processes.
        mark: What the marks of the others start with.
    """

    def __init__(self, pids: Collection[int], mark: str) -> None:
        self._pids = pids
        self._wanted = f"{TREE_VARIABLE}={mark}".encode()

    def __contains__(self, pid: object) -> bool:
        return pid in self._pids or _has_variable(f"/proc/{pid}", lambda variable: variable.startswith(self._wanted))


def end_orphans(known: Container[int], *, grace_s: float) -> int:
    """End all children of this process other than `known`, with their descendants, as `end_marked` does.

    In a subreaper these are what ended children left behind, whatever they did to their environment.

    Returns:
        How many there were.
    """
    found = _orphans(known)
    _signal(found, signal.SIGTERM)
    wait_ended(found, grace_s)
    for _ in range(3):
        left = _orphans(known)
        if not left:
            break
        _signal(left, signal.SIGKILL)
        wait_ended(left, 1.0)
    return len(found)


def _orphans(known: Container[int]) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                # "pid (name) state parent ..."; the name may hold anything, even a parenthesis.
                state, parent = Path(entry.path, "stat").read_text().rpartition(")")[2].split()[:2]
            except (OSError, ValueError):
                continue
            if state != "Z":
                children.setdefault(int(parent), []).append(int(entry.name))
    found = [pid for pid in children.get(os.getpid(), []) if pid not in known]
    for pid in found:  # grows while it is gone through
        found.extend(children.get(pid, []))
    return found


def marked(mark: str) -> list[int]:
    """The processes of this user on this machine whose mark starts with `mark`, without this one."""
    wanted = f"{TREE_VARIABLE}={mark}".encode()
    return _with_variable(lambda variable: variable.startswith(wanted))


def _with_variable(fits: Callable[[bytes], bool]) -> list[int]:
    return [
        int(entry.name)
        for entry in os.scandir("/proc")
        if entry.name.isdigit() and int(entry.name) != os.getpid() and _has_variable(entry.path, fits)
    ]


def _has_variable(process: str, fits: Callable[[bytes], bool]) -> bool:
    try:
        environment = Path(process, "environ").read_bytes()
    except OSError:
        return False  # it has ended, or is another user's
    return any(fits(variable) for variable in environment.split(b"\0"))


def end_marked(mark: str, *, grace_s: float) -> int:
    """End all processes whose mark starts with `mark`: politely first, after `grace_s` by force.

    Returns:
        How many there were.
    """
    return _end_all(lambda: marked(mark), grace_s=grace_s)


def end_having(variable: str, value: str, *, grace_s: float) -> int:
    """End all processes of this user that have this environment variable, as `end_marked` does.

    Returns:
        How many there were.
    """
    wanted = f"{variable}={value}".encode()
    return _end_all(lambda: _with_variable(wanted.__eq__), grace_s=grace_s)


def _end_all(find: Callable[[], list[int]], *, grace_s: float) -> int:
    found = find()
    _signal(found, signal.SIGTERM)
    if found and not wait_ended(found, grace_s):
        logger.debug("%d processes did not end within %.1f s", len(found), grace_s)
    # What was started meanwhile counts too, hence another look; a killed process can't start any more.
    for _ in range(3):
        left = find()
        if not left:
            break
        _signal(left, signal.SIGKILL)
        wait_ended(left, 1.0)
    return len(found)


def wait_ended(pids: Iterable[int], timeout_s: float) -> bool:
    """Wait until these processes have ended.

    Returns:
        Whether they have, within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            poller = select.poll()
            poller.register(handle, select.POLLIN)
            if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return False
        finally:
            os.close(handle)
    return True


def _signal(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except OSError:
            continue  # it has ended meanwhile
