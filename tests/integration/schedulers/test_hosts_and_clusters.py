"""What is started for tests ends with them, and several may run side by side."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest
from servers import require

from parsl_globus.errors import SchedulerError
from parsl_globus.testing.schedulers import Host, SlurmCluster, why_not

LISTEN = "import socket; s = socket.create_server(('', 7777)); print(flush=True); s.accept()"


@pytest.fixture(autouse=True, scope="module")
def _needs_root():
    require(why_not())


def of_cluster(folder):
    """Processes that a cluster in `folder` started, jobs included."""
    found = []
    for process in psutil.process_iter():
        try:
            known = process.environ().get("SLURM_CONF", "").startswith(f"{folder}/")
        except (psutil.Error, OSError):
            continue
        if known and process.status() != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def test_an_open_host_accepts_connections():
    with Host("open", open=True) as host:
        listener = subprocess.Popen(host.wrap([sys.executable, "-c", LISTEN]), stdout=subprocess.PIPE)
        try:
            assert listener.stdout.readline() == b"\n"
            connect = f"import socket; socket.create_connection(('{host.address}', 7777), 5)"
            subprocess.run([sys.executable, "-c", connect], check=True)
            assert listener.wait(10) == 0
        finally:
            listener.kill()
            listener.wait()
            listener.stdout.close()
        names = subprocess.run(
            host.wrap(["sh", "-c", "hostname; getent hosts service"]), capture_output=True, text=True
        )
        assert names.stdout.split() == ["open", host.gateway, "service"]


def test_two_hosts_of_one_name_and_nothing_left():
    with Host("twin") as one, Host("twin") as other:
        assert one.address != other.address
        sleeper = subprocess.Popen(one.wrap(["sleep", "1000"]))
        namespaces = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
        assert namespaces.count("-twin") == 2
    assert sleeper.wait(10) != 0
    assert "-twin" not in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout


def test_two_clusters_and_nothing_left(tmp_path):
    with SlurmCluster(tmp_path / "a", nodes=1) as one, SlurmCluster(tmp_path / "b", nodes=2) as other:
        assert one.run("srun", "sh", "-c", "echo $SLURMD_NODENAME").split() == ["n1"]
        assert sorted(other.run("srun", "-N2", "sh", "-c", "echo $SLURMD_NODENAME").split()) == ["n1", "n2"]
        # One that doesn't care about SIGTERM, and one that waits.
        for _ in range(2):
            one.run("sbatch", "--exclusive", f"--output={tmp_path}/out", "--wrap=trap '' TERM; sleep 1000; sleep 1000")
        assert len(one.jobs()) == 2
        assert other.jobs() == []
    assert of_cluster(tmp_path) == []


def test_what_does_not_work_is_a_sentence(tmp_path):
    with pytest.raises(SchedulerError, match="shorter"):
        SlurmCluster(tmp_path / ("x" * 80)).__enter__()
    with SlurmCluster(tmp_path / "a", nodes=1) as cluster, pytest.raises(SchedulerError, match="invalid partition"):
        cluster.run("sbatch", "--partition=nowhere", "--wrap=true")
