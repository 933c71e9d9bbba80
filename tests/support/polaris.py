"""The configuration of Polaris' endpoint, from the public description of the system."""

from __future__ import annotations

POLARIS = """\
display_name: My Polaris Endpoint
engine:
  type: GlobusComputeEngine
  max_workers_per_node: 1
  address: {type: address_by_interface, ifname: bond0}
  provider:
    type: PBSProProvider
    account: example_alcf_account
    queue: preemptable
    cpus_per_node: 32
    select_options: ngpus=4
    scheduler_options: "#PBS -l filesystems=home:grand:eagle"
    worker_init: "module load Anaconda; source activate compute_venv"
    walltime: 01:00:00
    nodes_per_block: 1
    init_blocks: 0
    min_blocks: 0
    max_blocks: 2
    launcher: {type: MpiExecLauncher, bind_cmd: --cpu-bind, overrides: --depth=64 --ppn 1}
"""
#: In the names of its jobs.
LABEL = "GlobusComputeEngine"


def adapted(worker_init: str) -> str:
    given = 'worker_init: "module load Anaconda; source activate compute_venv"'
    assert given in POLARIS
    return POLARIS.replace(given, f'worker_init: "{worker_init}"')
