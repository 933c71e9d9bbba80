"""Engines' keys against the public agent's own classes: each is honoured or refused in words."""

from __future__ import annotations

import inspect
import pickle
import queue
import re
from pathlib import Path
from typing import Any

import pytest
from globus_compute_endpoint import engines
from globus_compute_endpoint.engines.base import GlobusComputeEngineBase
from globus_compute_endpoint.engines.globus_compute import VALID_CONTAINER_TYPES
from parsl.executors import HighThroughputExecutor, MPIExecutor
from parsl.executors.high_throughput.mpi_resource_management import MPITaskScheduler
from parsl.providers import LocalProvider

from parsl_globus.endpoint.config import model
from parsl_globus.endpoint.config.build import POOL_COMMAND, build_executor
from parsl_globus.endpoint.config.load import parse_config
from parsl_globus.endpoint.containers import CONTAINER_TYPES
from parsl_globus.errors import ConfigError

RUN_DIR = Path("/home/user/.globus_compute/polaris")
PUBLIC_POOL = "globus-compute-endpoint python-exec parsl.executors.high_throughput.process_worker_pool"

#: Parameters of Python's pools; those not here are `_REFUSED_KEYS`.
POOL_PARAMETERS = {"max_workers", "max_tasks_per_child", "thread_name_prefix"}


def _public_parameters(name):
    """All that the public agent's engine `name` can be given, by the classes that it passes its keywords on to."""
    takers = {
        "GlobusComputeEngine": [engines.GlobusComputeEngine, HighThroughputExecutor],
        "GlobusMPIEngine": [engines.GlobusComputeEngine, MPIExecutor],
        "ThreadPoolEngine": [engines.ThreadPoolEngine, engines.thread_pool.NativeExecutor],
        "ProcessPoolEngine": [engines.ProcessPoolEngine, engines.process_pool.NativeExecutor],
    }[name]
    found = set()
    for taker in (*takers, GlobusComputeEngineBase):
        for parameter in inspect.signature(taker.__init__).parameters.values():
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) and parameter.name != "self":
                found.add(parameter.name)
    return found


@pytest.mark.parametrize("name", model.ENGINES)
def test_every_parameter_of_the_public_class_is_known(name):
    """A new one upstream fails here until somebody decides what it means to us."""
    unknown = []
    for key in _public_parameters(name):
        # A value of no use: what counts is whether the key itself is unknown.
        try:
            parse_config(f"engine:\n  type: {name}\n  {key}: {{no: use}}\n")
        except ConfigError as exc:
            if f"There is no key '{key}'" in str(exc):
                unknown.append(key)
    assert sorted(unknown) == sorted(EXPECTED_UNKNOWN.get(name, ()))


#: The agent sets these itself, as the public agent does or should: its own file for them would be ignored or fail.
EXPECTED_UNKNOWN = {name: model.RESERVED_ENGINE_ARGUMENTS for name in ("GlobusComputeEngine", "GlobusMPIEngine")}


def test_the_public_engines_are_ours():
    public = {name for name in dir(engines) if name.endswith("Engine")}
    assert public == set(model.ENGINES)


def _ours(lines):
    text = "engine:\n  type: GlobusComputeEngine\n  address: 127.0.0.1\n" + "".join(f"  {line}\n" for line in lines)
    return build_executor(parse_config(text).engine, run_dir=RUN_DIR)


OPTIONS = {
    "docker": "--network host --gpus all",
    "podman": "--userns=keep-id",
    "podman-hpc": "",
    "apptainer": "--nv -B /lus:/lus",
    "singularity": "",
    "custom": "shifter --volume={EXECUTOR_RUNDIR}:{EXECUTOR_RUNDIR} --image=img {EXECUTOR_LAUNCH_CMD}",
}


@pytest.mark.parametrize("kind", CONTAINER_TYPES)
def test_a_container_s_command_line_is_the_public_agent_s(kind):
    image = None if kind == "custom" else "docker.io/lab/image:1"
    options = OPTIONS[kind]
    public = engines.GlobusComputeEngine(
        address="127.0.0.1",
        provider=LocalProvider(),
        container_type=kind,
        container_uri=image,
        container_cmd_options=options or None,
    )
    public.run_dir = str(RUN_DIR)
    expected = public.containerized_launch_cmd().replace(PUBLIC_POOL, POOL_COMMAND)
    lines = [f"container_type: {kind}"]
    lines += [f"container_uri: {image}"] if image else []
    lines += [f"container_cmd_options: '{options}'"] if options else []
    ours = _ours(lines)
    assert re.sub(r"\s+", " ", ours.launch_cmd).strip() == expected
    assert ours.encrypted == public.encrypted is True


def test_every_container_type_of_the_public_agent():
    assert set(CONTAINER_TYPES) == set(VALID_CONTAINER_TYPES) - {None}


def test_a_quoted_option_stays_one():
    """The public agent's command line loses the quotes, so that the second word would be the image."""
    lines = ["container_type: docker", "container_uri: img", "container_cmd_options: '-e NAME=\"two words\"'"]
    assert _ours(lines).launch_cmd.startswith('docker run -e NAME="two words" -v ')


@pytest.mark.parametrize(
    ("lines", "key", "words"),
    [
        (["container_type: lxc", "container_uri: x"], "container_type", "no container type 'lxc'"),
        (["container_type: docker"], "container_uri", "set container_uri"),
        (["container_type: custom"], "container_cmd_options", "{EXECUTOR_LAUNCH_CMD}"),
        (["container_uri: x"], "container_uri", "container_type"),
        (["container_type: docker", "container_uri: 3"], "container_uri", "should be a text"),
        (
            ["container_type: docker", "container_uri: x", "container_cmd_options: '-v ${HOME}:/x'"],
            "container_cmd_options",
            "four times",
        ),
        (
            ["container_type: docker", "container_uri: x", "provider: {type: KubernetesProvider, image: y}"],
            "container_type",
            "from images itself",
        ),
    ],
)
def test_a_container_that_can_t_be_started_is_refused(lines, key, words):
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        _ours(lines)
    assert caught.value.key_path == f"engine.{key}"


def test_workers_in_a_container_of_its_own_network_try_all_addresses():
    text = "engine:\n  type: GlobusComputeEngine\n  container_type: {}\n  container_uri: x\n"
    from parsl_globus.endpoint.config.build import build_address

    assert build_address(parse_config(text.format("docker")).engine) is None
    assert build_address(parse_config(text.format("apptainer")).engine) == "127.0.0.1"


def test_an_mpi_engine_is_parsl_s_mpi_executor():
    text = "engine:\n  type: GlobusMPIEngine\n  mpi_launcher: srun\n  max_workers_per_block: 2\n"
    text += "  address: 127.0.0.1\n  provider: {type: LocalProvider, nodes_per_block: 4}\n"
    executor = build_executor(parse_config(text).engine)
    assert type(executor) is MPIExecutor
    assert (executor.mpi_launcher, executor.max_workers_per_block, executor.enable_mpi_mode) == ("srun", 2, True)
    assert type(executor.provider.launcher).__name__ == "SimpleLauncher"
    assert executor.label == "GlobusMPIEngine-MPIExecutor"
    assert executor.encrypted


@pytest.mark.parametrize(
    ("lines", "key", "words"),
    [
        (["mpi_launcher: mpirun"], "mpi_launcher", "did you mean"),
        (["max_workers_per_block: 0"], "max_workers_per_block", "At least one"),
        (["max_workers_per_node: 2"], "max_workers_per_node", "did you mean 'max_workers_per_block'"),
        (
            ["provider: {type: LocalProvider, launcher: {type: SrunLauncher}}"],
            "provider.launcher.type",
            "SimpleLauncher",
        ),
        (["provider: {type: KubernetesProvider, image: x}"], "provider.type", "takes none"),
    ],
)
def test_an_mpi_engine_that_can_t_work_is_refused(lines, key, words):
    text = "engine:\n  type: GlobusMPIEngine\n" + "".join(f"  {line}\n" for line in lines)
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        parse_config(text)
    assert caught.value.key_path == f"engine.{key}"


@pytest.mark.parametrize(
    ("lines", "key", "words"),
    [
        (["type: ProcessPoolEngine", "max_workers: 0"], "max_workers", "from 1 up"),
        (["type: ThreadPoolEngine", "max_workers: many"], "max_workers", "from 1 up"),
        (["type: ProcessPoolEngine", "initializer: f"], "initializer", "endpoint_setup"),
        (["type: ProcessPoolEngine", "provider: {type: LocalProvider}"], "provider", "takes no provider"),
        (["type: ProcessPoolEngine", "container_type: docker"], "container_type", "takes no container_type"),
        (["type: GlobusComputeEngine", "executor: {type: X}"], "executor", "keys of the engine"),
        (
            ["type: GlobusComputeEngine", "allowed_serializers: [globus_compute_sdk.serialize.NoSuch]"],
            "allowed_serializers",
            "NoSuch",
        ),
        (
            ["type: ThreadPoolEngine", "allowed_serializers: [globus_compute_sdk.serialize.JSONData]"],
            "allowed_serializers",
            "does not take this list",
        ),
        (["type: GlobusComputeEngine", "mpi_launcher: srun"], "mpi_launcher", "GlobusMPIEngine"),
    ],
)
def test_other_keys_that_can_t_be_honoured(lines, key, words):
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        parse_config("engine:\n" + "".join(f"  {line}\n" for line in lines))
    assert caught.value.key_path == f"engine.{key}"


def test_parsl_s_mpi_scheduler_still_needs_our_care(tmp_path, monkeypatch):
    """When this fails, `MpiEngine` needn't hold tasks back any more."""
    (tmp_path / "nodes").write_text("a\nb\n")
    monkeypatch.setenv("PBS_NODEFILE", str(tmp_path / "nodes"))
    monkeypatch.delenv("SLURM_NODELIST", raising=False)
    queues: list[Any] = [queue.Queue(), queue.Queue()]  # of threads, which is all that is needed here
    scheduler = MPITaskScheduler(*queues)
    for task_id in range(3):
        scheduler.put_task({"task_id": task_id, "context": {"resource_spec": {"num_nodes": 2}}})
    scheduler.pending_result_q.put(pickle.dumps({"type": "result", "task_id": 0}))
    with pytest.raises(RecursionError):
        scheduler.get_result()
