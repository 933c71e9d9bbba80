"""A PBS Pro front end over Slurm: PBS itself can't be installed from Debian, PyPI or npm, so this stands in for it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from parsl_globus.errors import SchedulerError
from parsl_globus.testing.schedulers.programs import why_not
from parsl_globus.testing.schedulers.slurm import SlurmCluster

_COMMANDS = "parsl_globus.testing.schedulers.pbs_commands"

#: How hydra reaches the other nodes of a PBS job. PBS does it by its task manager; here it is a step of Slurm's job.
_TMRSH = """\
#!/bin/sh
host=$1; shift
[ -n "$PBS_JOBID" ] || { echo "pbs_tmrsh: not in a PBS job" >&2; exit 1; }
grep -qxF "$host" "$PBS_NODEFILE" || { echo "pbs_tmrsh: host $host is not in this job" >&2; exit 1; }
exec srun --quiet --jobid="${PBS_JOBID%%.*}" --overlap --nodes=1 --ntasks=1 --nodelist="$host" \\
    --mpi=none --export=ALL /bin/sh -c "$*"
"""


class PbsFrontEnd:
    """`qsub`, `qstat`, `qdel` and `pbs_tmrsh` with PBS Pro's syntax, output and exit codes; and PALS' `mpiexec`.

    A job is a real batch job of the real Slurm, and runs an untouched copy of the script in what PBS gives it: a login
    shell, in the home folder, without the submitter's environment, with `PBS_NODEFILE`, `PBS_JOBID` and the like, and
    without Slurm's variables. It is a stand-in: one kind of chunk in `select`, `place` is ignored, no arrays,
    dependencies or hooks; an unknown resource is refused as PBS refuses it.

    Example::

        with SlurmCluster(tmp_path / "slurm", cpus_per_node=32) as cluster, PbsFrontEnd(cluster) as pbs:
            os.environ.update(pbs.environment)
            subprocess.run(["qsub", "-l", "select=1:ncpus=32,walltime=00:10:00", "job.sh"])

    Args:
        cluster: What runs the jobs. The commands are below its folder, and end with it.

    Attributes:
        bin: Folder of the commands.
        pals_bin: Folder of an `mpiexec` with the command line of Cray PALS, over MPICH's: put it first in PATH.
        pals_log: That `mpiexec` adds its arguments here, a line of JSON each call.
    """

    def __init__(self, cluster: SlurmCluster) -> None:
        self._cluster = cluster
        folder = cluster.folder / "pbs"
        self.bin = folder / "bin"
        self.pals_bin = folder / "pals"
        self.pals_log = folder / "pals.log"

    def __enter__(self) -> PbsFrontEnd:
        missing = why_not("mpich")
        if missing is not None:
            raise SchedulerError(what="the PBS front end", detail=missing)
        for name in ("qsub", "qstat", "qdel"):
            self._script(self.bin / name, _python(name))
        self._script(self.bin / "pbs_tmrsh", _TMRSH)
        self._script(self.pals_bin / "mpiexec", _python("mpiexec", f"PALS_LOG={shlex.quote(str(self.pals_log))}"))
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _exc: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        """Nothing runs between two commands; jobs end with the cluster."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Environment variables of the cluster, by which the commands work too; put `bin` into PATH besides."""
        return self._cluster.environment

    def wrap(self, command: Sequence[str]) -> list[str]:
        """`command` as one that runs where the cluster is, and finds PBS's commands."""
        with_path = ["sh", "-c", 'PATH="$0:$PATH" exec "$@"', str(self.bin), *command]
        return self._cluster.wrap(with_path)

    def _script(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)


def _python(module: str, *variables: str) -> str:
    words = ["exec env", *variables, shlex.quote(sys.executable), "-m", f"{_COMMANDS}.{module}", '"$@"']
    return f"#!/bin/sh\n{' '.join(words)}\n"
