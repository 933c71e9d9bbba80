"""MpiEngine: Parsl's MPIExecutor with real MPICH, on two names of this machine that a node file calls nodes."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import uuid
from pathlib import Path

import pytest
import servers
from globus_compute_sdk import MPIFunction, ShellFunction
from globus_compute_sdk.serialize import ComputeSerializer

from parsl_globus.endpoint.config.build import build_executor
from parsl_globus.endpoint.config.load import parse_config
from parsl_globus.endpoint.engine import RUN_TASK, EngineFailure, EngineTask, WorkerSettings
from parsl_globus.endpoint.mpi_engine import MpiEngine, normal_specification
from parsl_globus.endpoint.processes import end_marked, tree_environment, tree_mark
from parsl_globus.wire.codec import pack, unpack
from parsl_globus.wire.messages import Result, Task

DEADLINE_S = 90

CONFIG = """
engine:
  type: GlobusMPIEngine
  address: 127.0.0.1
  max_workers_per_block: 4
  mpi_launcher: mpiexec
  provider:
    type: LocalProvider
    nodes_per_block: 2
    init_blocks: 1
    min_blocks: 1
    max_blocks: 1
    worker_init: |
      unset SLURM_NODELIST
      export PBS_NODEFILE={nodes} HYDRA_LAUNCHER=fork LD_LIBRARY_PATH={libraries}
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    servers.require(None if shutil.which("mpiexec") else "mpiexec, of Debian's mpich, is not installed")
    folder = tmp_path_factory.mktemp("mpi")
    (folder / "nodes").write_text("localhost\n127.0.0.1\n")
    libraries = folder / "lib"
    libraries.mkdir()
    # mpi4py's wheel looks for the name that MPICH itself installs, Debian's has another.
    found = next(iter(Path("/usr/lib").glob("*/libmpich.so.12")), None)
    if found is not None:
        (libraries / "libmpi.so.12").symlink_to(found)
    text = CONFIG.format(nodes=shlex.quote(str(folder / "nodes")), libraries=shlex.quote(str(libraries)))
    config = parse_config(text).engine
    (folder / "begun").mkdir()
    mark = tree_mark(folder, "mpi")
    before = dict(os.environ)
    os.environ.update(tree_environment(mark))
    engine = MpiEngine(
        build_executor(config),
        run_dir=folder,
        worker=WorkerSettings(str(uuid.uuid4()), str(folder / "tasks"), str(folder / "begun"), run_in_sandbox=True),
        poller=config.poller.model_dump(),
        run_task=RUN_TASK,
    )
    try:
        engine.start()
        yield engine
        engine.shutdown()
    finally:
        end_marked(mark, grace_s=3)
        os.environ.clear()
        os.environ.update(before)


def submit(engine, function, *args, specification=None, **kwargs):
    """As the public SDK's Executor does."""
    serializer = ComputeSerializer()
    buffers = serializer.pack_buffers([serializer.serialize(part) for part in (function, args, kwargs)])
    task_id = uuid.uuid4()
    body = pack(Task(task_id=task_id, task_buffer=buffers))
    return engine.submit(EngineTask(task_id, body, resource_specification=specification or {}))


def value(future):
    result = unpack(future.result(DEADLINE_S), Result)
    assert result.error_details is None, result.data
    return ComputeSerializer().deserialize(result.data)


def test_an_allreduce_over_two_nodes_by_the_public_sdk_s_function(engine):
    program = (
        "from mpi4py import MPI; import json; w = MPI.COMM_WORLD; t = w.allreduce(w.rank + 1); "
        "print(json.dumps([w.size, t])) if w.rank == 0 else None"
    )
    function = MPIFunction(f"{shlex.quote(sys.executable)} -c {shlex.quote(program)}")
    result = value(submit(engine, function, specification={"num_nodes": 2, "ranks_per_node": 2}))
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == [4, 10]
    # The variable is the worker's, set for this task.
    assert result.cmd.startswith("$PARSL_MPI_PREFIX ")


def test_a_shell_function_sees_the_prefix_of_its_own_specification(engine):
    prefix = ShellFunction("echo $PARSL_MPI_PREFIX")
    one = value(submit(engine, prefix, specification={"num_nodes": 1, "num_ranks": "3"}))
    assert one.stdout.split()[:5] == ["mpiexec", "-n", "3", "-ppn", "3"]
    two = value(submit(engine, prefix, specification={"num_nodes": 2, "launcher_options": "-prepend-rank"}))
    assert two.stdout.split()[:5] == ["mpiexec", "-n", "2", "-ppn", "1"]
    assert two.stdout.split()[-1] == "-prepend-rank"
    assert sorted(two.stdout.split()[6].split(",")) == ["127.0.0.1", "localhost"]


@pytest.mark.parametrize(
    ("specification", "words"),
    [
        ({}, "it is missing"),
        ({"num_nodes": 3}, "num_nodes is 3, and a block has 2"),
        ({"num_ranks": 2}, "num_nodes is missing"),
        ({"num_nodes": "many"}, "from 1 up, not 'many'"),
        ({"num_nodes": 0}, "from 1 up, not 0"),
        ({"num_nodes": True}, "from 1 up, not True"),
        ({"num_nodes": 1, "nodes": 2}, "there is no nodes"),
        ({"num_nodes": 1, "launcher_options": ["-x"]}, "should be a text"),
    ],
)
def test_what_would_end_a_worker_pool_is_refused(engine, specification, words):
    failure = submit(engine, abs, -1, specification=specification).exception(DEADLINE_S)
    assert isinstance(failure, EngineFailure)
    assert (failure.code, failure.lost) == ("InvalidResourceSpecification", False)
    assert words in str(failure)


def test_more_tasks_than_nodes_all_run(engine):
    """Parsl's pool of four workers would end in a RecursionError when the first of these ends."""
    futures = [submit(engine, abs, -n, specification={"num_nodes": 1 + n % 2}) for n in range(12)]
    assert [value(future) for future in futures] == list(range(12))
    assert engine.failed() is None
    status = engine.status()
    assert (status.engine_type, status.outstanding_tasks) == ("GlobusMPIEngine", 0)


def test_numbers_that_follow_from_others():
    assert normal_specification({"num_nodes": 2, "num_ranks": 3}) == {
        "num_nodes": 2,
        "num_ranks": 3,
        "ranks_per_node": 2,  # Parsl makes the text 1.5 of it
        "launcher_options": "",
    }
    assert normal_specification({"num_nodes": 2.0, "ranks_per_node": 4})["num_ranks"] == 8
