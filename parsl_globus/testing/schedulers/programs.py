"""Programs of the system: whether they are here, running one to its end, and daemons that end with their owner."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from parsl_globus.errors import SchedulerError

logger = logging.getLogger(__name__)

#: Programs by the Debian packages that bring them.
PACKAGES: Mapping[str, Sequence[str]] = {
    "slurmctld": ("slurmctld",),
    "slurmd": ("slurmd",),
    "slurm-client": ("sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo"),
    "munge": ("munged", "munge"),
    "mpich": ("mpiexec.hydra",),
    "iproute2": ("ip",),
    "nftables": ("nft",),
    "util-linux": ("nsenter", "unshare", "mount"),
}

#: How often a daemon that starts is looked at, in seconds; no task waits for it.
_LOOK_PERIOD_S = 0.05
#: A command of a scheduler that takes longer hangs.
_COMMAND_S = 30.0


def why_not(*packages: str) -> str | None:
    """Why hosts, Slurm and the PBS front end can't be started here, or `None`.

    Args:
        packages: The Debian packages that are needed, by default all.
    """
    if os.geteuid() != 0:
        return "schedulers and separate hosts need root"
    wanted = packages or tuple(PACKAGES)
    missing = [name for name in wanted if not all(shutil.which(program) for program in PACKAGES[name])]
    if not missing:
        return None
    return f"not installed: apt-get install --no-install-recommends {' '.join(missing)}"


def run(command: Sequence[str], *, env: Mapping[str, str] | None = None, given: str | None = None) -> str:
    """Run a command to its end.

    Args:
        command: Its words.
        env: Its whole environment; `None` for this process's own.
        given: What it reads from stdin.

    Returns:
        What it printed.

    Raises:
        SchedulerError: It failed or took too long; the message has its words.
    """
    try:
        done = subprocess.run(
            command, env=env, input=given if given is not None else "", capture_output=True, text=True,
            timeout=_COMMAND_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as exc:
        raise SchedulerError(what=" ".join(command), detail=f"it took more than {_COMMAND_S:.0f} s") from exc
    except OSError as exc:
        raise SchedulerError(what=command[0], detail=str(exc)) from exc
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip() or "it said nothing"
        raise SchedulerError(what=" ".join(command), detail=f"exit code {done.returncode}: {said}")
    return done.stdout


def wait_for(what: str, ready: Callable[[], bool], timeout_s: float, log: Path) -> None:
    """Wait until `ready` says so.

    Raises:
        SchedulerError: It took too long; the message has the last line of `log`.
    """
    deadline = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > deadline:
            try:
                said = log.read_text(errors="replace").strip().rpartition("\n")[2]
            except OSError:
                said = ""
            raise SchedulerError(what=what, detail=f"not ready after {timeout_s:.0f} s; {said or 'it said nothing'}")
        time.sleep(_LOOK_PERIOD_S)


class Daemon:
    """A program in the foreground that this process owns.

    Args:
        command: Its words.
        env: Its whole environment.
        log: Where what it says is added.
    """

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str], log: Path) -> None:
        try:
            with log.open("ab") as stream:
                self._process = subprocess.Popen(
                    command, env=env, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, cwd=log.parent,
                    start_new_session=True,
                )  # fmt: skip
        except OSError as exc:
            raise SchedulerError(what=command[0], detail=str(exc)) from exc

    @property
    def runs(self) -> bool:
        """Whether it lives."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._process.kill()
        self._process.wait()

    def stop(self, timeout_s: float = 10.0) -> None:
        """End it in order, after `timeout_s` by force."""
        self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            logger.warning("%s did not end within %.0f s; it is killed", self._process.args, timeout_s)
            self.kill()
