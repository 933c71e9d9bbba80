"""Files of two sites: what they amount to is compared with what Parsl makes from Python written by hand."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import servers
from parsl.executors.high_throughput.executor import HighThroughputExecutor
from parsl.launchers import MpiExecLauncher, SrunLauncher
from parsl.providers import PBSProProvider, SlurmProvider
from polaris import POLARIS

from parsl_globus.endpoint.config.build import build_executor
from parsl_globus.endpoint.config.describe import describe, filled_launch_command, submit_script
from parsl_globus.endpoint.config.load import parse_config
from parsl_globus.endpoint.config.templates import template_text
from parsl_globus.errors import ConfigError

#: Parsl's `address_by_interface` leaves its socket to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

PERLMUTTER = """\
display_name: Perlmutter
engine:
  type: GlobusComputeEngine
  max_workers_per_node: 4
  available_accelerators: 4
  worker_port_range: [50000, 51000]
  address: {type: address_by_interface, ifname: hsn0}
  provider:
    type: SlurmProvider
    account: m9999
    qos: debug
    constraint: gpu
    gpus_per_node: 4
    scheduler_options: "#SBATCH --mail-type=NONE"
    worker_init: "module load python; source activate my-env"
    cmd_timeout: 120
    walltime: 1:00:00
    nodes_per_block: 2
    init_blocks: 0
    min_blocks: 0
    max_blocks: 1
    launcher: {type: SrunLauncher, overrides: -c 128}
"""

#: Renames the loopback interface of a network namespace of its own, and asks there (netdevice(7): SIOCSIFNAME and
#: SIOCSIFFLAGS).
IN_A_NAMESPACE = """\
import fcntl, pathlib, socket, struct, sys
with socket.socket() as s:
    fcntl.ioctl(s, 0x8923, struct.pack("16s16s", b"lo", b"bond0"))
    fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"bond0", 0x1 | 0x40))
from parsl_globus.endpoint.config.build import build_executor
from parsl_globus.endpoint.config.load import parse_config
print(build_executor(parse_config(sys.stdin.read()).engine).address)
"""


def polaris_by_hand():
    provider = PBSProProvider(
        account="example_alcf_account",
        queue="preemptable",
        cpus_per_node=32,
        select_options="ngpus=4",
        scheduler_options="#PBS -l filesystems=home:grand:eagle",
        worker_init="module load Anaconda; source activate compute_venv",
        walltime="01:00:00",
        nodes_per_block=1,
        init_blocks=0,
        min_blocks=0,
        max_blocks=2,
        launcher=MpiExecLauncher(bind_cmd="--cpu-bind", overrides="--depth=64 --ppn 1"),
    )
    return {"provider": provider, "max_workers_per_node": 1}


def perlmutter_by_hand():
    provider = SlurmProvider(
        account="m9999",
        qos="debug",
        constraint="gpu",
        gpus_per_node=4,
        scheduler_options="#SBATCH --mail-type=NONE",
        worker_init="module load python; source activate my-env",
        cmd_timeout=120,
        walltime="01:00:00",
        nodes_per_block=2,
        init_blocks=0,
        min_blocks=0,
        max_blocks=1,
        launcher=SrunLauncher(overrides="-c 128"),
    )
    return {
        "provider": provider,
        "max_workers_per_node": 4,
        "available_accelerators": 4,
        "worker_port_range": (50000, 51000),
    }


SITES = {"polaris": (POLARIS, polaris_by_hand), "perlmutter": (PERLMUTTER, perlmutter_by_hand)}


@pytest.fixture(params=SITES)
def site(request):
    text, by_hand = SITES[request.param]
    return text, by_hand()


@pytest.fixture
def scheduler(tmp_path, monkeypatch):
    """Commands that take each job, and leave a file when they are run."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    for command, said in {"qsub": "1.host", "sbatch": "Submitted batch job 1", "sacct": "", "squeue": ""}.items():
        script = bin_dir / command
        script.write_text(f"#!/bin/sh\necho $0 >> {tmp_path}/ran\necho '{said}'\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_dir}:/usr/bin:/bin")
    return tmp_path / "ran"


def _attributes(thing, without):
    names = set(inspect.signature(type(thing)).parameters) - without
    return {name: getattr(thing, name) for name in names}


def _timeless(script):
    """Job names end with the time."""
    return re.sub(r"\d{10}\.\d+", "TIME", script).splitlines()


def test_parsl_s_objects_are_those_of_python_written_by_hand(site, monkeypatch):
    text, arguments = site
    executor = build_executor(parse_config(text).engine, address="10.0.0.1")
    by_hand = HighThroughputExecutor(address="10.0.0.1", **arguments)
    assert type(executor) is type(by_hand)
    assert type(executor.provider) is type(by_hand.provider)
    assert type(executor.provider.launcher) is type(by_hand.provider.launcher)
    # What the agent sets itself.
    ours = {"provider", "label", "launch_cmd", "interchange_launch_cmd", "block_error_handler"}
    ours |= {"manager_selector", "remote_monitoring_radio"}  # objects without a state that could be compared
    assert _attributes(executor, ours) == _attributes(by_hand, ours)
    assert _attributes(executor.provider, {"launcher"}) == _attributes(by_hand.provider, {"launcher"})
    assert _attributes(executor.provider.launcher, set()) == _attributes(by_hand.provider.launcher, set())
    assert repr(executor.provider) == repr(by_hand.provider)


def test_the_submit_script_is_that_of_python_written_by_hand(site, scheduler, tmp_path):
    text, arguments = site
    script = describe(parse_config(text).engine).submit_script
    assert not scheduler.exists()  # nothing was submitted, nor asked
    by_hand = HighThroughputExecutor(label="GlobusComputeEngine-HighThroughputExecutor", address="ADDRESS", **arguments)
    provider = by_hand.provider
    provider.script_dir = str(tmp_path)
    assert provider.submit(filled_launch_command(by_hand), 1, "parsl.check.block-0")
    (file,) = (path for path in tmp_path.glob("*.block-0*") if path.is_file())
    expected = _timeless(file.read_text().replace(str(tmp_path), "SCRIPT_DIR"))
    written = _timeless(script)
    assert len(written) == len(expected)
    different = [pair for pair in zip(written, expected, strict=True) if pair[0] != pair[1]]
    # One line alone: worker_init may activate an environment, so the pool's command is looked for in PATH, ours last.
    own = Path(sys.executable).parent
    assert [line for line, _ in different] == [f'env PATH="$PATH":{own} {line}' for _, line in different]
    assert len(different) == 1
    assert different[0][1].startswith("process_worker_pool.py ")


def test_what_the_polaris_script_says():
    lines = describe(parse_config(POLARIS).engine).submit_script.splitlines()
    assert "#PBS -l walltime=01:00:00" in lines
    assert "#PBS -l select=1:ncpus=32:ngpus=4" in lines
    assert "#PBS -l filesystems=home:grand:eagle" in lines
    assert "module load Anaconda; source activate compute_venv" in lines
    assert any(line.startswith("mpiexec --cpu-bind none --depth=64 --ppn 1 -n") for line in lines)


def test_what_the_perlmutter_script_says():
    lines = describe(parse_config(PERLMUTTER).engine).submit_script.splitlines()
    for option in ("account=m9999", "qos=debug", "constraint=gpu", "gpus-per-node=4", "time=60", "nodes=2"):
        assert f"#SBATCH --{option}" in lines
    assert any(line.startswith("srun --ntasks 2") and "-c 128" in line for line in lines)
    assert any("--available-accelerators 0 1 2 3" in line for line in lines)


def test_a_check_submits_nothing(scheduler):
    for text in (POLARIS, PERLMUTTER):
        assert submit_script(parse_config(text).engine.provider, "the command")
    assert not scheduler.exists()


def test_the_polaris_template_is_that_file():
    assert parse_config(template_text("polaris")) == parse_config(POLARIS)


def test_an_interface_that_is_missing_here_is_told_when_it_is_needed():
    engine = parse_config(POLARIS.replace("bond0", "bond77")).engine
    with pytest.raises(ConfigError, match="bond77"):
        build_executor(engine)
    (problem,) = describe(engine).problems
    assert problem.key_path == "engine.address.ifname"


def test_the_interface_s_address_is_taken_where_it_is_there():
    unshare = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-rn"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        servers.require("network namespaces")
    done = subprocess.run(
        [*unshare, sys.executable, "-c", IN_A_NAMESPACE], input=POLARIS, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("127.0.0.1\n", 0), done.stderr
