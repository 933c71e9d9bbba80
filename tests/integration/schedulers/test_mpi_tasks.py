"""GlobusMPIEngine: real mpi4py on two nodes of a block, as many ranks as the task's resource specification says."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from cluster_scene import DEADLINE_S, wait_until
from servers import require

BIN = Path(sys.executable).parent

CONFIG = """\
heartbeat_period: 1
engine:
  type: GlobusMPIEngine
  label: {label}
  mpi_launcher: {mpi_launcher}
  max_workers_per_block: 1
  heartbeat_period: 2
  heartbeat_threshold: 10
  address: {{type: address_by_interface, ifname: bond0}}
  job_status_kwargs: {{max_idletime: 2, strategy_period: 1}}
  provider:
    type: {provider}
{lines}
    worker_init: {worker_init}
    walltime: "00:10:00"
    nodes_per_block: 2
    init_blocks: 0
    min_blocks: 0
    max_blocks: 1
"""
PBS = "    account: example_alcf_account\n    queue: preemptable\n    cpus_per_node: 32\n    select_options: ngpus=4"
SLURM = "    partition: debug"


@pytest.fixture(scope="module")
def mpi4py_library(tmp_path_factory):
    """Debian's MPICH by the name under which mpi4py's wheel looks for any MPI of MPICH's interface."""
    require(None if find_spec("mpi4py") else "mpi4py is not installed")
    found = sorted(Path("/usr/lib").glob("*/libmpich.so.12"))
    assert found, "Debian's mpich brings libmpich.so.12"
    folder = tmp_path_factory.mktemp("libraries")
    (folder / "libmpi.so.12").symlink_to(found[0])
    return folder


@pytest.mark.parametrize(
    ("label", "mpi_launcher", "provider", "lines", "more"),
    [
        ("mpiexec", "mpiexec", "PBSProProvider", PBS, ""),
        # Slurm speaks MPICH's protocol where it is told to
        ("srun", "srun", "SlurmProvider", SLURM, " SLURM_MPI_TYPE=pmi2"),
    ],
    ids=["pbs-mpiexec", "slurm-srun"],
)
def test_an_allreduce_over_two_nodes(scene, mpi4py_library, label, mpi_launcher, provider, lines, more):
    init = f"export PATH={BIN}:$PATH LD_LIBRARY_PATH={mpi4py_library}{more}"
    text = CONFIG.format(label=label, mpi_launcher=mpi_launcher, provider=provider, lines=lines, worker_init=init)
    endpoint_id = scene.site.start_endpoint(label, text)
    with scene.workflow(endpoint_id) as workflow:
        assert scene.jobs(label) == []
        tasks = [
            workflow.submit("allreduce", parsl_resource_specification={"num_nodes": nodes, "ranks_per_node": 2})
            for nodes in (2, 1)
        ]
        too_many = workflow.submit("allreduce", parsl_resource_specification={"num_nodes": 3, "ranks_per_node": 1})
        told = [task.result(DEADLINE_S) for task in tasks]
        assert too_many.exception(DEADLINE_S).kind == "InvalidResourceSpecification"
        wait_until(lambda: not scene.jobs(label), "the block ends")
    scene.site.stop_endpoint(label)
    size, total, nodes = json.loads(told[0]["said"])
    assert (size, total) == (4, 1 + 2 + 3 + 4)
    assert len(nodes) == 4
    assert len(set(nodes)) == 2
    assert json.loads(told[1]["said"])[:2] == [2, 3]
    assert told[0]["prefix"].startswith(mpi_launcher)
