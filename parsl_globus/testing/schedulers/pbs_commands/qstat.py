"""`qstat` of PBS Pro over Slurm: `qstat [-x] [-f] [-F json] [JOB...]`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from parsl_globus.testing.schedulers.pbs_commands import records

_EXIT_STATUS_WALLTIME = -29


@dataclass
class _Asked:
    history: bool = False
    full: bool = False
    form: str | None = None
    job_ids: list[str] = field(default_factory=list)


def main() -> int:
    """Show the jobs."""
    asked = _asked(sys.argv[1:])
    code, chosen = _choose(asked)
    if asked.form == "json":
        told: dict[str, Any] = {
            "timestamp": int(time.time()),
            "pbs_version": records.VERSION,
            "pbs_server": records.server(),
        }
        if chosen:
            told["Jobs"] = chosen
        print(json.dumps(told, indent=4))  # noqa: T201 - a command's words
    elif chosen:
        _print_table(chosen)
    return code


def _asked(words: list[str]) -> _Asked:
    asked = _Asked()
    left = iter(words)
    for word in left:
        if word == "-x":
            asked.history = True
        elif word == "-f":
            asked.full = True
        elif word == "-F":
            asked.form = next(left, "")
        elif word.startswith("-"):
            records.end("qstat", f"invalid option -- '{word.lstrip('-')}'", 2)
        else:
            asked.job_ids.append(word)
    if asked.form not in (None, "json") or (asked.form and not asked.full):
        records.end("qstat", "this front end gives the table, or -f -F json", 2)
    return asked


def _choose(asked: _Asked) -> tuple[int, dict[str, dict[str, Any]]]:
    known = records.jobs()
    code, chosen = 0, {}
    for job_id in asked.job_ids or list(known):
        key = records.full_id(job_id)
        message = ""
        if key not in known:
            message, code = f"Unknown Job Id {job_id}", records.UNKNOWN_JOB
        elif records.state(known[key]) != "F" or asked.history:
            chosen[key] = _attributes(known[key])
        elif asked.job_ids:
            message = f"{key} Job has finished, use -x or -H to obtain historical job information"
            code = records.JOB_FINISHED
        if message:
            print(f"qstat: {message}", file=sys.stderr)  # noqa: T201 - a command's words
    return code, chosen


def _attributes(job: records.SlurmJob) -> dict[str, Any]:
    """A job of Slurm by the attributes that `qstat -f` shows."""
    asked = records.request(job)
    host, state = records.server(), records.state(job)
    resources = {
        "ncpus": asked.get("ncpus", 1),
        "nodect": asked.get("nodect", 1),
        "place": "free",
        "select": asked.get("select") or "1:ncpus=1",
        "walltime": asked.get("walltime"),
    }
    shown = {
        "Job_Name": job["JobName"],
        "Job_Owner": f"{job['UserId'].partition('(')[0]}@{host}",
        "job_state": state,
        "queue": job["Partition"],
        "server": host,
        "Account_Name": asked.get("account"),
        "Error_Path": f"{host}:{job.get('StdErr', '')}",
        "Output_Path": f"{host}:{job.get('StdOut', '')}",
        "Join_Path": "n",
        "Mail_Points": "n",
        "ctime": records.stamp(job["SubmitTime"]),
        "qtime": records.stamp(job["SubmitTime"]),
        "mtime": records.stamp(job.get("EndTime") if state == "F" else job["SubmitTime"]),
        "Resource_List": {key: value for key, value in resources.items() if value is not None},
        "project": "_pbs_project_default",
        **_placement(job, asked),
    }
    if state == "F":
        shown["Exit_status"] = _exit_status(job)
    return {key: value for key, value in shown.items() if value is not None}


def _placement(job: records.SlurmJob, asked: Mapping[str, Any]) -> dict[str, Any]:
    if job.get("NodeList") in (None, "(null)") or records.state(job) not in "REF":
        return {}
    nodes = records.slurm("scontrol", "show", "hostnames", job["NodeList"]).split()
    each = int(asked.get("ncpus", 1)) // max(1, int(asked.get("nodect", 1)))
    return {
        "exec_host": "+".join(f"{node}/0*{each}" for node in nodes),
        "exec_vnode": "+".join(f"({node}:ncpus={each})" for node in nodes),
        "stime": records.stamp(job["StartTime"]),
    }


def _exit_status(job: records.SlurmJob) -> int:
    code, signal = (int(number) for number in job.get("ExitCode", "0:0").split(":"))
    if job["JobState"] == "TIMEOUT":
        return _EXIT_STATUS_WALLTIME
    if job["JobState"].startswith("CANCELLED"):
        signal = signal or 15
    return 256 + signal if signal else code  # PBS tells a signal so


def _print_table(chosen: Mapping[str, Mapping[str, Any]]) -> None:
    lines = [
        ("Job id", "Name", "User", "Time Use", "S", "Queue"),
        ("-" * 17, "-" * 16, "-" * 16, "-" * 8, "-", "-----"),
    ]
    for key, job in chosen.items():
        owner = job["Job_Owner"].partition("@")[0]
        lines.append((key[:17], job["Job_Name"][:16], owner[:16], "00:00:00", job["job_state"], job["queue"]))
    for line in lines:
        print("{:<17} {:<16} {:<16} {:>8} {} {}".format(*line))  # noqa: T201 - a command's words


if __name__ == "__main__":
    sys.exit(main())
