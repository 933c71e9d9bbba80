"""An endpoint per engine, by its configuration, and what Parsl's apps see of it."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

import parsl
import pytest
import servers
from parsl import Config, bash_app, python_app

from parsl_globus import GlobusComputeExecutor
from parsl_globus.errors import InvalidResourceSpecification, WorkerLost
from parsl_globus.testing.site import LocalSite

DEADLINE_S = 120

PROCESSES = """
display_name: processes
engine:
  type: ProcessPoolEngine
  max_workers: 2
  working_dir: work
  run_in_sandbox: true
"""
MPI = """
display_name: mpi
engine:
  type: GlobusMPIEngine
  address: 127.0.0.1
  max_workers_per_block: 2
  provider:
    type: LocalProvider
    nodes_per_block: 2
    init_blocks: 1
    worker_init: unset SLURM_NODELIST; export HYDRA_LAUNCHER=fork PBS_NODEFILE={nodes}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with LocalSite(tmp_path_factory.mktemp("site")) as site:
        site.start_service()
        yield site
    assert site.processes() == []


@pytest.fixture(scope="module")
def dfk(site, tmp_path_factory):
    nodes = tmp_path_factory.mktemp("nodes") / "nodes"
    nodes.write_text("localhost\n127.0.0.1\n")
    configurations = {"processes": PROCESSES, "mpi": MPI.format(nodes=shlex.quote(str(nodes)))}
    executors = [
        GlobusComputeExecutor(site.start_endpoint(name, text), label=name, client=site.client())
        for name, text in configurations.items()
    ]
    config = Config(executors=executors, run_dir=str(tmp_path_factory.mktemp("runinfo")), initialize_logging=False)
    with parsl.load(config) as dfk:
        yield dfk


@python_app(executors=["processes"])
def where():
    import os

    return os.getpid(), os.getcwd()


@python_app(executors=["processes"])
def die(note):
    import os
    from pathlib import Path

    Path(note).touch(exist_ok=False)
    print("last words", flush=True)
    os._exit(1)


@python_app(executors=["processes"])
def needs_nodes(parsl_resource_specification=None):
    return 1


@bash_app(executors=["mpi"])
def ranks(stdout=None, parsl_resource_specification=None):
    return "echo \"$PARSL_MPI_PREFIX\"; $PARSL_MPI_PREFIX sh -c 'echo rank $PMI_RANK of $PMI_SIZE'"


@bash_app(executors=["mpi"])
def anything():
    return "true"


def test_processes_run_apps_in_folders_of_their_own_and_survive_deaths(dfk, site, tmp_path):
    home = site.home / "endpoints" / "processes"
    places = [future.result(DEADLINE_S) for future in [where() for _ in range(6)]]
    folders = {folder for _, folder in places}
    assert len(folders) == 6
    assert all(Path(folder).parent.name == "work" and Path(folder).is_relative_to(home) for folder in folders)
    assert os.getpid() not in {pid for pid, _ in places}
    error = die(str(tmp_path / "once")).exception(DEADLINE_S)
    assert isinstance(error, WorkerLost)
    assert "last words" in str(error)
    assert where().result(DEADLINE_S)


def test_a_specification_where_there_are_no_nodes_is_an_error_of_its_own(dfk):
    error = needs_nodes(parsl_resource_specification={"num_nodes": 2}).exception(DEADLINE_S)
    assert isinstance(error, InvalidResourceSpecification)
    assert "GlobusMPIEngine" in str(error)


def test_a_bash_app_gets_its_nodes_by_parsl_s_prefix(dfk, tmp_path):
    servers.require(None if shutil.which("mpiexec") else "mpiexec, of Debian's mpich, is not installed")
    told = tmp_path / "told"
    specification = {"num_nodes": 2, "ranks_per_node": 2}
    assert ranks(stdout=str(told), parsl_resource_specification=specification).result(DEADLINE_S) == 0
    prefix, *said = told.read_text().splitlines()
    assert prefix.startswith("mpiexec -n 4 -ppn 2 -hosts ")
    assert sorted(said) == [f"rank {n} of 4" for n in range(4)]
    error = anything().exception(DEADLINE_S)
    assert isinstance(error, InvalidResourceSpecification)
    assert "it is missing" in str(error)
