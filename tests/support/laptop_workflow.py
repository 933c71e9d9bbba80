"""A Parsl workflow that is told on stdin what to run: `python laptop_workflow.py ENDPOINT_ID RUN_DIR`.

A line of JSON asks for a task: `{"number": 1, "app": "where", "arguments": {...}}`. When it has ended, a line on stdout
tells `{"number": 1, "value": ...}` or `{"number": 1, "error": "WorkerLost", "text": "..."}`. It ends with stdin.
"""

from __future__ import annotations

import json
import sys
import threading

import parsl
from parsl import Config, bash_app, python_app

from parsl_globus import GlobusComputeExecutor


@python_app
def where(seconds=0.0):
    """The node and the job this runs in."""
    import os
    import platform
    import time

    time.sleep(seconds)
    job = os.environ.get("PBS_JOBID") or os.environ.get("SLURM_JOB_ID")
    names = ("HOME", "PBS_NODEFILE", "PARSL_MPI_PREFIX")
    told = {name: os.environ.get(name) for name in names}
    return {"job": job, "node": os.environ.get("SLURMD_NODENAME"), "host": platform.node(), "environment": told}


@python_app
def hold(begun, release, seconds=240.0):
    """Leave a file that can be made once only, with the job's id in it, and wait for another."""
    import os
    import time

    part = f"{begun}.part"
    with open(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY), "w") as stream:
        stream.write(os.environ.get("SLURM_JOB_ID", ""))
    os.rename(part, begun)
    deadline = time.monotonic() + seconds
    while not os.path.exists(release) and time.monotonic() < deadline:
        time.sleep(0.05)
    return os.environ.get("SLURM_JOB_ID")


@bash_app
def shell(command, stdout=None, stderr=None, parsl_resource_specification=None):
    """A command line."""
    return command


@python_app
def allreduce(parsl_resource_specification=None):
    """Run an MPI program on the task's nodes by the prefix that Parsl gives; what its first rank said."""
    import os
    import subprocess

    program = (
        "import json, os; from mpi4py import MPI; world = MPI.COMM_WORLD; "
        "total = world.allreduce(world.rank + 1); nodes = world.gather(os.environ.get('SLURMD_NODENAME')); "
        "print(json.dumps([world.size, total, nodes])) if world.rank == 0 else None"
    )
    prefix = os.environ["PARSL_MPI_PREFIX"]
    done = subprocess.run(f'{prefix} python -c "{program}"', shell=True, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{prefix} ended with {done.returncode}: {done.stderr[-1000:]}")
    return {"prefix": prefix, "said": done.stdout}


APPS = {"where": where, "hold": hold, "shell": shell, "allreduce": allreduce}


def main() -> None:
    endpoint_id, run_dir = sys.argv[1:]
    out, writing = sys.stdout, threading.Lock()

    def tell(number, future):
        error = future.exception()
        if error is None:
            told = {"value": future.result()}
        else:
            cause = getattr(error, "dependent_exceptions_tids", None)
            told = {"error": type(error).__name__, "text": f"{error} {cause or ''}"}
        with writing:
            out.write(json.dumps({"number": number, **told}) + "\n")
            out.flush()

    executor = GlobusComputeExecutor(endpoint_id, label="site")
    with parsl.load(Config(executors=[executor], run_dir=run_dir, initialize_logging=False, exit_mode="skip")):
        for line in sys.stdin:
            asked = json.loads(line)
            future = APPS[asked["app"]](**asked["arguments"])
            future.add_done_callback(lambda done, number=asked["number"]: tell(number, done))


if __name__ == "__main__":
    main()
