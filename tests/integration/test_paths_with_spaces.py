"""Everything in folders with spaces: the home of endpoints, the environment that runs them, the workers' logs."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import uuid
from pathlib import Path

import pytest
from globus_compute_sdk import Executor
from globus_compute_sdk.serialize import AllCodeStrategies, ComputeSerializer

from parsl_globus.testing.site import LocalSite

CONFIG = """\
heartbeat_period: 1
engine:
  type: GlobusComputeEngine
  label: the engine's name
  max_workers_per_node: 1
{engine}
  provider:
    type: LocalProvider
    init_blocks: 1
    min_blocks: 1
    max_blocks: 1
{provider}
"""
BY_SOURCE = ComputeSerializer(strategy_code=AllCodeStrategies())
#: As pip writes scripts for an interpreter whose path a `#!` line can't hold.
POOL = """\
#!/bin/sh
'''exec' "{python}" "$0" "$@"
' '''
{code}
"""


def where():
    import os
    import sys

    return sys.prefix, os.getcwd(), os.environ.get("BY_WORKER_INIT")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paths") / "it's a folder (of mine)"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def environment(folder):
    """A virtual environment with the packages of this one."""
    environment = folder / "a venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    lib = next(environment.glob("lib/python*/site-packages"))
    (lib / "these.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    pool = environment / "bin" / "process_worker_pool.py"
    code = (Path(sysconfig.get_path("scripts")) / pool.name).read_text().partition("\n")[2]
    pool.write_text(POOL.format(python=environment / "bin" / "python", code=code))
    pool.chmod(0o755)
    return environment


@pytest.fixture(scope="module")
def site(folder, environment, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Executor, "_default_task_group_id", None)  # of the process; this module's is with this service
        patch.setenv("HOME", str(home))
        patch.setenv("PATH", "/usr/bin:/bin")  # without a worker pool of another environment
        python = str(environment / "bin" / "python")
        with LocalSite(folder / "a home", wrap=lambda command: [python, *command[1:]]) as site:
            site.start_service()
            yield site
        assert site.processes() == []
        assert all(path.is_symlink() for path in (home / ".parsl_globus" / "links").iterdir())


@pytest.mark.parametrize(
    ("name", "worker_init"),
    [("by-python", ""), ("by-path", '    worker_init: "export BY_WORKER_INIT=yes"')],
)
def test_tasks_run(site, folder, environment, name, worker_init, monkeypatch):
    logs = folder / f"logs of {name}"
    config = CONFIG.format(engine=f'  worker_logdir_root: "{logs}"', provider=worker_init)
    endpoint_id = site.start_endpoint(name, config)
    monkeypatch.setenv("PARSL_GLOBUS_HOME", str(site.home))
    executor = Executor(endpoint_id, client=site.client(), api_burst_limit=1, task_group_id=uuid.uuid4())
    try:
        executor.serializer = BY_SOURCE  # workers can't import this module
        prefix, working_dir, by_worker_init = executor.submit(where).result(timeout=120)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
    assert Path(prefix) == environment
    assert Path(working_dir).is_relative_to(site.home / "endpoints" / name)
    assert by_worker_init == ("yes" if worker_init else None)
    assert list(logs.glob("*/block-0/*/manager.log"))
    assert list((site.home / "endpoints" / name).glob("uep.*/submit_scripts/*.sh"))
    site.stop_endpoint(name)
