"""A private Slurm cluster on the loopback interface: munged, slurmctld, and a slurmd for each node."""

from __future__ import annotations

import logging
import os
import random
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil

from parsl_globus.errors import SchedulerError
from parsl_globus.testing.schedulers.host import Host
from parsl_globus.testing.schedulers.programs import Daemon, run, wait_for, why_not

logger = logging.getLogger(__name__)

#: Below the ports that outgoing connections take.
_PORTS = range(17000, 32000)
#: munged and slurmd have sockets in the folder, and the kernel takes no socket path of more than 107 bytes.
_MAX_FOLDER_BYTES = 80
_START_S = 30.0
_JOBS_END_S = 20.0

_CONF = """\
ClusterName=loop
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.sock
CredType=cred/munge
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd-%n.pid
PlugStackConfig={folder}/etc/plugstack.conf
# nothing here needs cgroups or raised resource limits
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
PropagateResourceLimits=NONE
MpiDefault=none
SwitchType=switch/none
# nodes may claim more than the machine has
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
# answer at once: the defaults wait seconds between scheduling passes
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,sched_min_interval=0
CompleteWait=0
KillWait=2
MinJobAge={finished_jobs_kept_s}
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout={lost_node_after_s}
InactiveLimit=0
Waittime=0
AccountingStorageType=accounting_storage/none
{nodes}
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=preemptable Nodes=ALL MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Job:
    """A job that waits or runs.

    Attributes:
        state: As Slurm says, for example RUNNING.
        nodes: Names of its nodes, as Slurm abbreviates them.
    """

    job_id: str
    name: str
    state: str
    partition: str
    nodes: str


class SlurmCluster:
    """A real Slurm without systemd, cgroups and accounting; its nodes share one machine, and one host.

    Its partitions are `debug` and `preemptable`. CPUs are claims: nothing is pinned or limited.

    Example::

        with SlurmCluster(tmp_path / "slurm", nodes=2) as cluster:
            os.environ.update(cluster.environment)
            subprocess.run(["srun", "hostname"])

    Args:
        folder: For all that it writes; made if missing.
        nodes: How many; they are called n1, n2 and so on.
        cpus_per_node: What each node claims to have.
        host: Where it runs; `None` for this machine itself.
        finished_jobs_kept_s: How long an ended job is known.
        lost_node_after_s: When a node that doesn't answer counts as down.

    Attributes:
        node_names: The nodes.
    """

    def __init__(
        self,
        folder: Path,
        nodes: int = 2,
        *,
        cpus_per_node: int = 2,
        host: Host | None = None,
        finished_jobs_kept_s: int = 300,
        lost_node_after_s: int = 60,
    ) -> None:
        self.folder = folder.absolute()
        self.node_names = [f"n{number}" for number in range(1, nodes + 1)]
        self._cpus = cpus_per_node
        self._host = host
        self._kept_s = finished_jobs_kept_s
        self._lost_after_s = lost_node_after_s
        self._nodes: dict[str, Daemon] = {}
        self._stack = ExitStack()

    def __enter__(self) -> SlurmCluster:
        missing = why_not("slurmctld", "slurmd", "slurm-client", "munge")
        if missing is not None:
            raise SchedulerError(what="Slurm", detail=missing)
        if len(os.fsencode(self.folder)) > _MAX_FOLDER_BYTES:
            raise SchedulerError(
                what="Slurm", detail=f"{self.folder} is too long a path for sockets; take a shorter one"
            )
        with ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _exc: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def environment(self) -> Mapping[str, str]:
        """Environment variables by which Slurm's commands find this cluster."""
        return {"SLURM_CONF": f"{self.folder}/etc/slurm.conf"}

    def wrap(self, command: Sequence[str]) -> list[str]:
        """`command` as one that runs where the cluster is, and finds it."""
        known = ["env", *(f"{name}={value}" for name, value in self.environment.items()), *command]
        return self._host.wrap(known) if self._host is not None else known

    def run(self, *command: str) -> str:
        """Run a command of Slurm, such as `scontrol`.

        Returns:
            What it printed.

        Raises:
            SchedulerError: It failed.
        """
        return run(self.wrap(command))

    def jobs(self) -> list[Job]:
        """The jobs that wait or run."""
        rows = self.run("squeue", "--noheader", "--format=%i|%j|%T|%P|%N").splitlines()
        return [Job(*row.split("|")) for row in rows]

    def cancel(self, job_id: str) -> None:
        """Cancel a job."""
        self.run("scancel", job_id)

    def lose_node(self, name: str) -> None:
        """Kill the node with everything on it, as a power cut would; Slurm notices after `lost_node_after_s`."""
        self._nodes.pop(name).kill()
        for process in self._job_processes():
            if _environment(process).get("SLURMD_NODENAME") == name:
                _kill_tree(_step_of(process))

    def start_node(self, name: str) -> None:
        """Bring a lost node back, and wait until it takes jobs."""
        before = self._started_at(name)
        self._start_node(name)
        log = self.folder / "log" / f"slurmd-{name}.log"
        wait_for(f"node {name}", lambda: self._started_at(name) != before, _START_S, log)
        self._wait_for_nodes([name])

    # ---- start and end ------------------------------------------------------------------------------------------

    def _start(self, stack: ExitStack) -> None:
        for name in ("etc", "run", "log", "spool", "state"):
            (self.folder / name).mkdir(parents=True, exist_ok=True, mode=0o755)
        self._write_configuration()
        log, munge_socket = self.folder / "log", f"{self.folder}/run/munge.sock"
        munged = self._daemon(
            ["munged", "--foreground", "--force", f"--key-file={self.folder}/etc/munge.key"]
            + [f"--socket={munge_socket}", f"--pid-file={self.folder}/run/munged.pid", "--num-threads=2"]
            + [f"--log-file={log}/munged.log", f"--seed-file={self.folder}/state/munge.seed"],
            "munged",
        )
        stack.callback(munged.stop)
        wait_for("munged", self._works("munge", "-n", f"--socket={munge_socket}"), _START_S, log / "munged.log")
        controller = self._daemon(["slurmctld", "-D", "-f", self.environment["SLURM_CONF"]], "slurmctld")
        stack.callback(controller.stop)
        # A slurmd that finds no controller tries again 10 s later.
        wait_for("slurmctld", self._works("scontrol", "ping"), _START_S, log / "slurmctld.log")
        stack.callback(self._stop_nodes)
        for name in self.node_names:
            self._start_node(name)
        stack.callback(self._end_jobs)
        self._wait_for_nodes(self.node_names)

    def _write_configuration(self) -> None:
        host = self._host.name if self._host is not None else socket.gethostname().partition(".")[0]
        ports = _free_ports(1 + len(self.node_names))
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={self._cpus} RealMemory=2048"
            for name, port in zip(self.node_names, ports[1:], strict=True)
        )
        key = self.folder / "etc" / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        etc = self.folder / "etc"
        (etc / "slurm.conf").write_text(
            _CONF.format(
                folder=self.folder,
                host=host,
                port=ports[0],
                nodes=nodes,
                finished_jobs_kept_s=self._kept_s,
                lost_node_after_s=self._lost_after_s,
            )  # fmt: skip
        )
        (etc / "plugstack.conf").touch()
        # slurmd loads a cgroup plugin even if nothing uses it; naming one keeps it from looking for a mounted
        # hierarchy, which a container may lack
        (etc / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")

    def _daemon(self, command: Sequence[str], name: str) -> Daemon:
        return Daemon(self.wrap(command), env=os.environ, log=self.folder / "log" / f"{name}.log")

    def _start_node(self, name: str) -> None:
        (self.folder / "spool" / name).mkdir(exist_ok=True)
        command = ["slurmd", "-D", "-f", self.environment["SLURM_CONF"], "-N", name]
        self._nodes[name] = self._daemon(command, f"slurmd-{name}")

    def _wait_for_nodes(self, names: Sequence[str]) -> None:
        def ready() -> bool:
            listed = self.run("sinfo", "-h", "-r", "-N", "-p", "debug", "-t", "idle,alloc,mix", "-o", "%N").split()
            return set(names) <= set(listed)

        wait_for("the nodes", ready, _START_S, self.folder / "log" / "slurmctld.log")

    def _started_at(self, name: str) -> str:
        """When the controller last heard of a start of the node's daemon."""
        words = self.run("scontrol", "-o", "show", "node", name).split()
        return next((word for word in words if word.startswith("SlurmdStartTime=")), "")

    def _works(self, *command: str) -> Callable[[], bool]:
        def works() -> bool:
            try:
                self.run(*command)
            except SchedulerError:
                return False
            return True

        return works

    def _stop_nodes(self) -> None:
        for node in self._nodes.values():
            node.stop()
        self._nodes.clear()

    def _end_jobs(self) -> None:
        """Cancel all jobs, and end their processes, whatever the scheduler thinks of them."""
        log = self.folder / "log" / "slurmctld.log"
        try:
            left = self.jobs()
            if left:
                self.run("scancel", *(job.job_id for job in left))
            wait_for("the end of all jobs", lambda: not self.jobs(), _JOBS_END_S, log)
        except SchedulerError as exc:
            logger.warning("Jobs did not end in order: %s", exc)
        for process in self._job_processes():
            logger.warning("%s of a job is left; it is killed", process)
            _kill_tree(_step_of(process))

    def _job_processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            environment = _environment(process)
            of_a_job = "SLURM_JOB_ID" in environment or "PBS_JOBID" in environment
            if of_a_job and environment.get("SLURM_CONF") == self.environment["SLURM_CONF"]:
                found.append(process)
        return found


def _environment(process: psutil.Process) -> Mapping[str, str]:
    try:
        return dict(process.environ())
    except (psutil.Error, OSError):
        return {}  # it ended meanwhile


def _step_of(process: psutil.Process) -> psutil.Process:
    """Slurm's own process for a step of a job, whose environment tells nothing; or `process`, if it isn't its child."""
    try:
        parent = process.parent()
        return parent if parent is not None and parent.name() == "slurmstepd" else process
    except psutil.Error:
        return process


def _kill_tree(process: psutil.Process) -> None:
    try:
        tree = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for one in tree:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue


def _free_ports(count: int) -> list[int]:
    found: list[int] = []
    candidates = random.sample(_PORTS, len(_PORTS))
    while len(found) < count:
        port = candidates.pop()
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
    return found
