from __future__ import annotations

import subprocess

import psutil
import pytest
from once import wait_until
from parsl.jobs.states import JobState, JobStatus
from parsl.providers import LocalProvider, SlurmProvider

from parsl_globus.endpoint.local_blocks import LocalBlocks


def test_what_a_block_leaves_behind_ends_with_it(tmp_path):
    provider = LocalProvider()
    provider.script_dir = str(tmp_path)
    blocks = LocalBlocks(provider)
    ended, other = tmp_path / "ended", tmp_path / "other"
    job_id = provider.submit(f"sleep 600 & echo $! > {ended}; exit 3", 1)
    living = provider.submit(f"sleep 600 & echo $! > {other}; wait", 1)
    try:
        wait_until(lambda: provider.status([job_id])[0].terminal, "the block did not end")
        wait_until(lambda: _pid(other) is not None, "the other block did not start")
        assert _lives(_pid(ended))
        blocks.end_left()
        wait_until(lambda: not _lives(_pid(ended)), "its process lives on")
        assert _lives(_pid(other))
    finally:
        provider.cancel([living])
    wait_until(lambda: not _lives(_pid(other)), "the other block lives on")


@pytest.mark.parametrize(("provider", "ends"), [(LocalProvider(), True), (SlurmProvider(partition="debug"), False)])
def test_schedulers_do_this_themselves(tmp_path, provider, ends):
    """Even a process that seems to be of the job is none of ours: it may be another one's on a shared node."""
    left = subprocess.Popen(["sleep", "600"], env={"JOBNAME": "parsl.block-0"})
    try:
        script = str(tmp_path / "parsl.block-0.sh")
        provider.resources["17"] = {"status": JobStatus(JobState.COMPLETED), "script_path": script}
        LocalBlocks(provider).end_left()
        if ends:
            left.wait(60)
        assert (left.poll() is not None) is ends
    finally:
        left.kill()
        left.wait()


def _pid(path):
    text = path.read_text().strip() if path.exists() else ""
    return int(text) if text else None


def _lives(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
