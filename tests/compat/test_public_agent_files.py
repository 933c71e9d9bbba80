"""The public agent's own configuration files, and files of the kinds that its documentation has, in our agent."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from globus_compute_sdk.sdk.batch import create_user_runtime

from parsl_globus.cli.endpoint import endpoint
from parsl_globus.endpoint.config.load import parse_config
from parsl_globus.endpoint.folder import create, find
from parsl_globus.endpoint.multiuser.site import load_site
from parsl_globus.wire.documents import StartArguments

#: What the agent wrote before every endpoint had a template.
SINGLE_USER = """\
amqp_port: 443
display_name: null
engine:
  type: GlobusComputeEngine
  provider:
    type: LocalProvider
    init_blocks: 1
    max_blocks: 1
    min_blocks: 0
"""
#: By kind, with what is particular about each.
KINDS = {
    "slurm": """\
amqp_port: 443
engine:
    type: GlobusComputeEngine
    label: Somewhere@Some.University
    max_workers_per_node: 2
    worker_debug: False
    strategy:
        type: SimpleStrategy
        max_idletime: 90
    address:
        type: address_by_hostname
    provider:
        type: SlurmProvider
        partition: cpu
        account: abc123
        mem_per_node: 128
        launcher:
            type: SrunLauncher
            overrides: >
                hostname; srun --ntasks=4
                --ntasks-per-node=2 \\
        scheduler_options: "#SBATCH --constraint=gpu\\n#SBATCH --gpus-per-node=4"
        worker_init: "module load anaconda; source activate gce_env"
        cmd_timeout: 120
        walltime: 00:05:00
""",
    "condor": """\
engine:
  type: GlobusComputeEngine
  max_workers_per_node: 1
  worker_logdir_root: /tmp/logs
  working_dir: /tmp/tasks_dir
  encrypted: False
  provider:
    type: CondorProvider
    init_blocks: 1
    scheduler_options: >
      +ProjectName = "MyProject"

      Requirements = HAS_SINGULARITY == True
""",
    "kubernetes": """\
heartbeat_period: 15
heartbeat_threshold: 200
engine:
    type: GlobusComputeEngine
    encrypted: false
    address:
      type: address_by_route
    provider:
        type: KubernetesProvider
        init_cpu: 1
        max_cpu: 4
        init_mem: 1024Mi
        max_mem: 4096Mi
        namespace: default
        image: python:3.12-bookworm
        secret: x
        worker_init: pip install --force-reinstall globus-compute-endpoint
""",
    "pinned workers": """\
engine:
    type: GlobusComputeEngine
    max_workers_per_node: 2
    available_accelerators: ["opencl:gpu:1", "opencl:gpu:2"]
    provider:
        type: LocalProvider
""",
    "pbs": """\
engine:
  type: GlobusComputeEngine
  address: 10.0.0.7
  job_status_kwargs: {max_idletime: 60.0, strategy_period: 5}
  max_retries_on_system_failure: 2
  provider:
    type: PBSProProvider
    account: abc
    queue: debug
    select_options: ngpus=4
    scheduler_options: "#PBS -l filesystems=home\\n#PBS -k doe"
    walltime: 01:00:00
    launcher:
      type: MpiExecLauncher
      bind_cmd: --cpu-bind
      overrides: --depth=64 --ppn 1
""",
}


@pytest.fixture(scope="module")
def configured(tmp_path_factory):
    """The folder that `globus-compute-endpoint configure` makes."""
    folder = tmp_path_factory.mktemp("public")
    agent = shutil.which(
        "globus-compute-endpoint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    )
    assert agent is not None
    # As root, it asks for more, and maps identities.
    options = ["--contact-email", "someone@example.org"] if os.geteuid() == 0 else []
    subprocess.run(
        [agent, "-c", str(folder), "configure", *options, "theirs"],
        env={**os.environ, "HOME": str(folder)},
        capture_output=True,
        check=True,
    )
    return folder / "theirs"


@pytest.fixture
def ours(configured):
    """An endpoint of ours with those files."""
    folder = create("theirs", None, force=False)
    shutil.copytree(configured, folder.path, dirs_exist_ok=True)
    return folder


def test_what_the_public_agent_configures_is_an_endpoint_of_ours(ours):
    runtime = json.loads(json.dumps(dataclasses.asdict(create_user_runtime())))
    site = load_site(ours)
    start = StartArguments.model_construct(
        name="x", amqp_creds=None, user_opts={"requirements": "numpy"}, user_runtime=runtime
    )
    config = parse_config(site.user_config(start))
    assert (config.idle_heartbeats_soft, config.idle_heartbeats_hard) == (10, 5760)
    assert config.engine.provider.type == "LocalProvider"
    assert config.engine.options == {"max_workers_per_node": 1}
    init = config.engine.provider.arguments["worker_init"]
    assert "uv venv" in init
    assert "numpy" in init


def test_it_can_be_checked(ours):
    result = CliRunner().invoke(endpoint, ["check", "theirs"])
    assert result.exit_code == 0, result.output
    assert "HighThroughputExecutor(" in result.output


def test_the_old_single_user_file():
    config = parse_config(SINGLE_USER)
    assert config.amqp_port == 443
    assert config.engine.provider.arguments == {"init_blocks": 1, "max_blocks": 1, "min_blocks": 0}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_a_kind_that_the_documentation_has(kind):
    folder = create("kind", KINDS[kind], force=False)
    assert parse_config(find("kind").config.read_text()) == load_site(folder).config
    result = CliRunner().invoke(endpoint, ["check", "kind", "--json"])
    # Schedulers are missing here; nothing else may be wrong.
    assert '"kind": "build"' not in result.output or kind == "kubernetes"
