"""From a laptop through a service to blocks of real Slurm, and what becomes of tasks whose block is lost."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from cluster_scene import DEADLINE_S, none_left, run_both_apps, wait_until

BIN = Path(sys.executable).parent

#: Heartbeats so that a lost block is soon known, and blocks that soon end when idle.
SLURM = """\
display_name: {label}
heartbeat_period: 1
engine:
  type: GlobusComputeEngine
  label: {label}
  max_workers_per_node: 1
  heartbeat_period: 2
  heartbeat_threshold: 10
  address: {{type: address_by_interface, ifname: bond0}}
  job_status_kwargs: {{max_idletime: 2, strategy_period: 1}}
  provider:
    type: SlurmProvider
    partition: debug
    worker_init: export PATH={bin}:$PATH
    walltime: "{walltime}"
    init_blocks: 0
    min_blocks: 0
    max_blocks: 3
    launcher: {{type: SrunLauncher}}
"""


def on_slurm(label: str, walltime: str = "00:10:00") -> str:
    return SLURM.format(label=label, walltime=walltime, bin=BIN)


@pytest.fixture(scope="module", autouse=True)
def short(scene, tmp_path_factory):
    """A task in a block that has a minute; it goes on while other tests run."""
    folder = tmp_path_factory.mktemp("short")
    with ExitStack() as stack:
        workflow = stack.enter_context(
            scene.workflow(scene.site.start_endpoint("short", on_slurm("short", "00:01:00")))
        )
        stack.callback(scene.site.stop_endpoint, "short")
        begun = folder / "begun"
        yield workflow, workflow.submit("hold", begun=str(begun), release=str(folder / "never")), begun


def test_nobody_connects_to_the_login_node(scene):
    listen = "import socket, time; s = socket.create_server(('', 7777)); print(flush=True); time.sleep(60)"
    connect = [sys.executable, "-c", f"import socket; socket.create_connection(('{scene.login.address}', 7777), 1)"]
    listener = subprocess.Popen(scene.login.wrap([sys.executable, "-c", listen]), stdout=subprocess.PIPE)
    try:
        assert listener.stdout.readline() == b"\n"
        subprocess.run(scene.login.wrap(connect), check=True)
        # This machine, where the service is, is refused; to the laptop there isn't even a way.
        for outside, told in ((connect, "ConnectionRefusedError"), (scene.laptop.wrap(connect), "Error: ")):
            done = subprocess.run(outside, capture_output=True, text=True, check=False)
            assert done.returncode != 0
            assert told in done.stderr
    finally:
        listener.kill()
        listener.wait(10)
        listener.stdout.close()


@pytest.fixture(scope="module")
def slurm(scene):
    """A workflow for an endpoint on Slurm."""
    endpoint_id = scene.site.start_endpoint("slurm", on_slurm("slurm"))
    with scene.workflow(endpoint_id) as workflow:
        assert scene.jobs("slurm") == []
        yield workflow
    scene.site.stop_endpoint("slurm")


def test_slurm_scales_out_and_in_again(scene, slurm, tmp_path):
    assert scene.jobs("slurm") == []
    told = run_both_apps(slurm, tmp_path)
    none_left(scene, "slurm")
    # Two at a time need two blocks, and new ones.
    release = tmp_path / "release"
    both = [slurm.submit("hold", begun=str(tmp_path / f"begun-{n}"), release=str(release)) for n in range(2)]
    wait_until(lambda: len(list(tmp_path.glob("begun-?"))) == 2, "two tasks at a time")
    assert [job.state for job in scene.jobs("slurm")] == ["RUNNING", "RUNNING"]
    release.touch()
    jobs = {future.result(DEADLINE_S) for future in both}
    assert len(jobs) == 2
    assert told["job"] not in jobs


def held(workflow, folder, name):
    """A task that has begun: its future and the id of its job."""
    begun = folder / name
    future = workflow.submit("hold", begun=str(begun), release=str(folder / "never"))
    wait_until(lambda: begun.exists() or future.done(), "the task begins")
    assert begun.exists(), future.exception(0)
    return future, begun.read_text()


def lost_and_goes_on(workflow, lost):
    """The task that had begun ends with a typed error, and the next ones run in other blocks: their jobs' ids."""
    error = lost.exception(DEADLINE_S)
    assert error is not None
    assert error.kind == "WorkerLost", error
    # Three, as lost blocks count until Parsl's provider is asked again, which it is once a minute.
    told = [workflow.submit("where") for _ in range(3)]
    return {future.result(DEADLINE_S)["job"] for future in told}


def test_a_cancelled_block(scene, slurm, tmp_path):
    lost, job = held(slurm, tmp_path, "begun")
    scene.cluster.cancel(job)
    assert job not in lost_and_goes_on(slurm, lost)


def test_a_lost_node(scene, slurm, tmp_path):
    lost, job = held(slurm, tmp_path, "begun")
    (node,) = [one.nodes for one in scene.jobs("slurm") if one.job_id == job]
    scene.cluster.lose_node(node)
    assert job not in lost_and_goes_on(slurm, lost)
    scene.cluster.start_node(node)
    none_left(scene, "slurm")


def test_the_block_of_a_killed_agent_is_cancelled(scene, slurm, tmp_path):
    lost, job = held(slurm, tmp_path, "begun")
    waiting = [slurm.submit("where") for _ in range(3)]
    (agent,) = [
        process
        for process in scene.site.processes()
        if "parsl_globus.endpoint.user_endpoint" in process.cmdline() and "/endpoints/slurm/" in process.cwd()
    ]
    agent.kill()
    error = lost.exception(DEADLINE_S)
    assert error is not None
    assert error.kind == "TaskLost", error
    assert job not in {future.result(DEADLINE_S)["job"] for future in waiting}
    none_left(scene, "slurm")  # the next agent doesn't know the old block but by the record


def test_a_block_whose_time_is_up(scene, short):
    workflow, lost, begun = short
    job = begun.read_text()
    assert job not in lost_and_goes_on(workflow, lost)
    assert "JobState=TIMEOUT" in scene.cluster.run("scontrol", "show", "job", job)
    none_left(scene, "short")
