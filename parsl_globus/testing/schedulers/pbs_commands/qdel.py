"""`qdel` of PBS Pro over Slurm: `qdel JOB...`."""

from __future__ import annotations

import subprocess
import sys

from parsl_globus.testing.schedulers.pbs_commands import records


def main() -> int:
    """Cancel the jobs; the exit code of the last one that failed."""
    if len(sys.argv) < 2:
        records.end("qdel", "usage: qdel job_identifier...", 2)
    code, known = 0, records.jobs()
    for job_id in sys.argv[1:]:
        key = records.full_id(job_id)
        message = ""
        if key not in known:
            message, code = f"Unknown Job Id {job_id}", records.UNKNOWN_JOB
        elif records.state(known[key]) == "F":
            message, code = f"Job has finished {key}", records.JOB_FINISHED
        else:
            done = subprocess.run(["scancel", key.partition(".")[0]], capture_output=True, text=True, check=False)
            if done.returncode:
                message, code = f"{done.stderr.strip()} {key}", 1
        if message:
            print(f"qdel: {message}", file=sys.stderr)  # noqa: T201 - a command's words
    return code


if __name__ == "__main__":
    sys.exit(main())
