"""A Parsl workflow inside a task of an endpoint with the default configuration: the example, as users run it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from once import DEADLINE_S, wait_until

from parsl_globus import GlobusComputeExecutor
from parsl_globus.errors import TaskCancelled
from parsl_globus.testing.site import LocalSite

EXAMPLE = Path(__file__).parents[2] / "examples" / "workflow_in_a_task.py"
#: Parsl's own processes, by words in their command lines.
PARSL = ("interchange", "process_worker_pool")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with LocalSite(tmp_path_factory.mktemp("nested")) as site:
        site.start_service()
        yield site
    assert site.processes() == []


def of_parsl(site):
    found = []
    for process in site.processes():
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        found += [process for word in PARSL if word in line][:1]
    return found


@pytest.fixture(scope="module")
def endpoint_id(site):
    with pytest.MonkeyPatch.context() as patch:
        # Nobody has activated the environment in which the endpoint is installed.
        own = str(Path(sys.executable).parent)
        others = [folder for folder in os.environ["PATH"].split(os.pathsep) if folder != own]
        patch.setenv("PATH", os.pathsep.join(others))
        site.run("endpoint", "configure", "default")
        site.run("endpoint", "start", "default")
    return site.endpoint_id("default")


def wait_ended(site):
    """What is left is the endpoint's own interchange and pool."""
    wait_until(lambda: len(of_parsl(site)) <= 2, "the inner workflow's processes should end")


def test_the_example(site, endpoint_id, tmp_path):
    command = [sys.executable, str(EXAMPLE), "--endpoint", str(endpoint_id), "--limit", "20000"]
    done = subprocess.run(
        command, env=site.environment, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert (done.returncode, done.stdout) == (0, "below 20000: 17647, 279 numbers until 1\n"), done.stderr[-3000:]
    wait_ended(site)


def workflow_that_hangs(begun):
    import tempfile

    import parsl
    from parsl import Config, python_app
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider

    @python_app
    def hang(begun):
        import os
        import time

        os.close(os.open(begun, os.O_CREAT | os.O_EXCL))
        time.sleep(300)

    provider = LocalProvider(init_blocks=1, max_blocks=1)
    inner = HighThroughputExecutor(label="inner", address="127.0.0.1", max_workers_per_node=1, provider=provider)
    with (
        tempfile.TemporaryDirectory() as run_dir,
        parsl.load(Config(executors=[inner], strategy="none", strategy_period=0.5, run_dir=run_dir)),
    ):
        return hang(begun).result()


def test_what_it_started_ends_with_it_when_it_is_cancelled(site, endpoint_id, tmp_path):
    executor = GlobusComputeExecutor(endpoint_id, client=site.client())
    executor.start()
    begun = tmp_path / "begun"
    try:
        future = executor.submit(workflow_that_hangs, {}, str(begun))
        wait_until(begun.exists, "the inner task should begin")
        assert len(of_parsl(site)) == 4
        executor.cancel(future)
        assert isinstance(future.exception(DEADLINE_S), TaskCancelled)
        wait_ended(site)
    finally:
        executor.shutdown()
