"""`qsub` of PBS Pro, carried out by Slurm: the `#PBS` directives are read as PBS reads them.

The job runs an untouched copy of the script in the environment that PBS would give it: a login shell in the home
folder, `PBS_NODEFILE` and the like set, nothing of the submitter's environment (unless `-V` or `-v`) and nothing of
Slurm's. Options beside those of `_LETTERS` are errors; `-k -m -M -p -P -r -u -W` are taken and ignored.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from parsl_globus.testing.schedulers.pbs_commands import records

_LETTERS = "AqNoeSmMkjrpWuavP"
_DEFAULT_QUEUE = "debug"
#: Resources that this site has besides those of PBS itself; others are refused.
_SITE_RESOURCES = frozenset({"filesystems", "ngpus"})
_JOB_RESOURCES = frozenset({"walltime", "select", "place"}) | _SITE_RESOURCES
_CHUNK_RESOURCES = frozenset({"ncpus", "mpiprocs", "ompthreads", "mem", "ngpus", "system", "host"})

_WRAPPER = """\
#!/bin/bash
id=$SLURM_JOB_ID.{server}
nodefile={spool}/aux/$id
for node in $(scontrol show hostnames "$SLURM_JOB_NODELIST"); do
    for ((i = 0; i < {mpiprocs}; i++)); do echo "$node"; done
done > "$nodefile"
env -i {environment} PBS_JOBID="$id" PBS_NODEFILE="$nodefile" PBS_NODENUM=0 PBS_TASKNUM=1 \\
    TMPDIR=/tmp {shell} -l {script}
rc=$?
rm -f "$nodefile" {script}
exit $rc
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        records.end("qsub", message, 2)


@dataclass(frozen=True)
class _Request:
    """What is asked for: the command line wins over the script."""

    line: argparse.Namespace
    script: argparse.Namespace
    script_name: str

    def get(self, letter: str) -> str | None:
        value: str | None = getattr(self.line, letter)
        return value if value is not None else getattr(self.script, letter)

    @property
    def name(self) -> str:
        name = self.get("N") or self.script_name
        if not re.fullmatch(r"[A-Za-z0-9_.+-]{1,230}", name):
            records.end("qsub", "illegal -N value", 2)
        return name

    @property
    def resources(self) -> dict[str, str]:
        """Every `-l a=b,c=d`, merged; the first to name a resource wins."""
        found: dict[str, str] = {}
        for item in (item for text in [*self.line.l, *self.script.l] for item in text.split(",")):
            name, _, value = item.partition("=")
            if name not in _JOB_RESOURCES:
                records.end("qsub", f"Unknown resource: {name}", records.UNKNOWN_RESOURCE)
            if not value:
                records.end("qsub", f"Illegal attribute or resource value for {name}", records.ILLEGAL_VALUE)
            found.setdefault(name, value)
        return found

    def outputs(self) -> tuple[str, str]:
        """Files for stdout and stderr."""
        paths = []
        for letter in "oe":
            value = self.get(letter) or f"{self.name}.{letter}%j"
            paths.append(os.path.join(os.getcwd(), re.sub(r"^[\w.-]*:", "", value)))
        out, err = paths
        join = self.get("j") or "n"
        return {"oe": (out, out), "eo": (err, err)}.get(join, (out, err))


def main() -> int:
    """Submit the job and print its id."""
    line = _options(sys.argv[1:])
    if line.script:
        try:
            text = Path(line.script).read_text()
        except OSError as exc:
            records.end("qsub", f"script file:: {exc.strerror}", 1)
        name = os.path.basename(line.script)
    else:
        text, name = sys.stdin.read(), "STDIN"
    request = _Request(line, _options(_directives(text)), name)
    return _submit(request, text)


def _options(words: list[str]) -> argparse.Namespace:
    parser = _Parser(prog="qsub", add_help=False, allow_abbrev=False)
    for letter in _LETTERS:
        parser.add_argument(f"-{letter}")
    parser.add_argument("-l", action="append", default=[])
    parser.add_argument("-V", action="store_true")
    parser.add_argument("script", nargs="?")
    return parser.parse_args(words)


def _directives(text: str) -> list[str]:
    """The `#PBS` lines before the first command, as one list of words."""
    words: list[str] = []
    for line in map(str.strip, text.splitlines()):
        if line.startswith("#PBS"):
            words += shlex.split(line[4:])
        elif line and not line.startswith(("#", ":")):
            break
    return words


def _chunks(select: str) -> tuple[int, dict[str, str]]:
    """`select=N:ncpus=C:...`, one kind of chunk; PBS itself takes several, joined by +."""
    if "+" in select:
        records.end("qsub", "this front end takes one kind of chunk in select", 2)
    count, *rest = select.split(":")
    if not count.isdigit():
        count, rest = "1", [count, *rest]
    wanted = {"ncpus": "1"}
    for item in rest:
        name, _, value = item.partition("=")
        if name not in _CHUNK_RESOURCES:
            records.end("qsub", f"Unknown resource: {name}", records.UNKNOWN_RESOURCE)
        wanted[name] = value
    return int(count), wanted


def _environment(request: _Request, chunk: dict[str, str], queue: str) -> dict[str, str]:
    home, commands = os.path.expanduser("~"), os.path.dirname(_tmrsh())
    env = {
        "HOME": home,
        "LOGNAME": records.user(),
        "USER": records.user(),
        "SHELL": request.get("S") or "/bin/bash",
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        "PATH": f"{commands}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "PBS_ENVIRONMENT": "PBS_BATCH",
        "PBS_JOBNAME": request.name,
        "PBS_QUEUE": queue,
        "PBS_O_WORKDIR": os.getcwd(),
        "PBS_O_HOME": home,
        "PBS_O_HOST": records.server(),
        "PBS_O_PATH": os.environ.get("PATH", ""),
        "PBS_O_QUEUE": queue,
        "NCPUS": chunk["ncpus"],
        "OMP_NUM_THREADS": chunk.get("ompthreads", chunk["ncpus"]),
        "SLURM_CONF": os.environ.get("SLURM_CONF", ""),
        # hydra reaches the other nodes through PBS's own remote starter
        "HYDRA_LAUNCHER": "rsh",
        "HYDRA_LAUNCHER_EXEC": _tmrsh(),
    }
    if request.line.V or request.script.V:
        env = {**os.environ, **env, "PATH": os.environ.get("PATH", env["PATH"])}
    for item in (request.get("v") or "").split(","):
        key, equals, value = item.partition("=")
        if key:
            env[key] = value if equals else os.environ.get(key, "")
    return {
        key: value
        for key, value in env.items()
        if re.fullmatch(r"[A-Za-z_]\w*", key) and (key == "SLURM_CONF" or not key.startswith("SLURM_"))
    }


def _tmrsh() -> str:
    return str(records.folder() / "bin" / "pbs_tmrsh")


def _submit(request: _Request, text: str) -> int:
    resources = request.resources
    nodes, chunk = _chunks(resources.get("select", "1:ncpus=1"))
    queue = request.get("q") or _DEFAULT_QUEUE
    env = _environment(request, chunk, queue)
    out, err = request.outputs()
    command = [
        *("sbatch", "--parsable", "--no-requeue", "--export=NIL", "--chdir", env["HOME"], "--job-name", request.name),
        *("--partition", queue, "--output", out, "--error", err, "--nodes", str(nodes), "--ntasks-per-node", "1"),
        *("--cpus-per-task", chunk["ncpus"]),
    ]
    account, walltime = request.get("A"), resources.get("walltime")
    if account:
        command += ["--account", account]
    if walltime:
        command += ["--time", walltime]
    if "ngpus" in chunk and records.has_gpus():
        command += ["--gres", f"gpu:{chunk['ngpus']}"]
    script = records.keep_script(text)
    asked: dict[str, object] = {
        "select": resources.get("select"),
        "walltime": walltime,
        "account": account,
        "nodect": nodes,
    }
    asked["ncpus"] = nodes * int(chunk["ncpus"])
    command += ["--comment", records.keep_request(os.path.basename(script), asked)]
    wrapper = _WRAPPER.format(
        server=records.server(), spool=shlex.quote(str(records.folder())), mpiprocs=int(chunk.get("mpiprocs", "1")),
        environment=" ".join(f"{key}={shlex.quote(value)}" for key, value in env.items()),
        shell=shlex.quote(env["SHELL"]), script=shlex.quote(script),
    )  # fmt: skip
    done = subprocess.run(command, input=wrapper, capture_output=True, text=True, check=False)
    if done.returncode:
        os.unlink(script)
        if "invalid partition" in done.stderr:
            records.end("qsub", "Unknown queue", records.UNKNOWN_QUEUE)
        records.end("qsub", done.stderr.strip(), records.REFUSED)
    print(f"{done.stdout.strip().partition(';')[0]}.{records.server()}")  # noqa: T201 - a command's words
    return 0


if __name__ == "__main__":
    sys.exit(main())
