"""What the commands of the PBS Pro front end share: Slurm's jobs as PBS sees them."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

VERSION = "23.06.06"

#: Exit codes of PBS's commands.
UNKNOWN_JOB = 153
JOB_FINISHED = 35
UNKNOWN_QUEUE = 170
ILLEGAL_VALUE = 171
UNKNOWN_RESOURCE = 187
REFUSED = 188

_ENDED = frozenset(
    ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED")
    + ("REVOKED", "TIMEOUT")
)
_LIVE = {
    "PENDING": "Q", "CONFIGURING": "Q", "REQUEUED": "Q", "RUNNING": "R", "COMPLETING": "E", "SUSPENDED": "S",
    "STOPPED": "S",
}  # fmt: skip

SlurmJob = Mapping[str, str]


def end(command: str, message: str, code: int) -> NoReturn:
    """Say why a command fails, as PBS does, and exit."""
    print(f"{command}: {message}", file=sys.stderr)  # noqa: T201 - a command's words
    sys.exit(code)


def user() -> str:
    """Name of the account."""
    return pwd.getpwuid(os.getuid()).pw_name


def server() -> str:
    """Name of the PBS server: this host."""
    return os.uname().nodename.partition(".")[0]


def folder() -> Path:
    """Where PBS would have its spool folder: beside the Slurm configuration."""
    conf = os.environ.get("SLURM_CONF")
    if not conf:
        end("pbs", "cannot connect to server: SLURM_CONF is not set", 1)
    spool = Path(conf).resolve().parent.parent / "pbs"
    for name in ("aux", "jobs", "requests"):
        (spool / name).mkdir(parents=True, exist_ok=True)
    return spool


def keep_script(text: str) -> str:
    """PBS runs the copy that it took at `qsub`, whatever becomes of the file."""
    handle, path = tempfile.mkstemp(prefix="job.", suffix=".SC", dir=folder() / "jobs")
    with os.fdopen(handle, "w") as stream:
        stream.write(text)
    return path


def keep_request(name: str, asked: Mapping[str, Any]) -> str:
    """Keep a request in PBS's words; a comment by which `request` finds it, as Slurm's are too short for paths."""
    (folder() / "requests" / name).write_text(json.dumps(asked))
    return f"pbs:{name}"


def request(job: SlurmJob) -> dict[str, Any]:
    """What was asked for with `qsub`; empty for a job that came another way."""
    kind, _, name = job.get("Comment", "").partition(":")
    if kind != "pbs":
        return {}
    asked = json.loads((folder() / "requests" / name).read_text())
    assert isinstance(asked, dict)
    return asked


def slurm(*command: str) -> str:
    """What a command of Slurm prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and "Invalid job id" not in done.stderr:
        end("pbs", f"cannot connect to server: {done.stderr.strip()}", 1)
    return done.stdout


def jobs() -> dict[str, SlurmJob]:
    """Every job that the controller still knows, by PBS id; ended ones as long as its MinJobAge says."""
    found: dict[str, SlurmJob] = {}
    for line in slurm("scontrol", "-o", "show", "job").splitlines():
        record: dict[str, str] = {}
        for word in line.split():
            key, equals, value = word.partition("=")
            if equals:
                record.setdefault(key, value)
        if "JobId" in record:
            found[full_id(record["JobId"])] = record
    return found


def full_id(job_id: str) -> str:
    """A job id with its server."""
    return job_id if "." in job_id else f"{job_id}.{server()}"


def state(job: SlurmJob) -> str:
    """PBS's letter for the state of a job."""
    name = job["JobState"].partition("+")[0]
    if name in _ENDED:
        return "F"
    if name == "PENDING" and job.get("Reason") in ("JobHeldUser", "JobHeldAdmin"):
        return "H"
    return _LIVE.get(name, "T")


def stamp(text: str | None) -> str | None:
    """Slurm's time as PBS writes it; `None` for what is no time."""
    try:
        return time.strftime("%a %b %d %H:%M:%S %Y", time.strptime(text or "", "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None


def has_gpus() -> bool:
    """Whether this cluster's nodes have GPUs that can be asked for."""
    return "GresTypes = gpu" in " ".join(slurm("scontrol", "show", "config").split())
