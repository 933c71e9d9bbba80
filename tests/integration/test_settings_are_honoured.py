"""What an endpoint's configuration says of tasks and of the endpoint itself, seen at a real one."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import pytest
from globus_compute_sdk import Executor
from globus_compute_sdk.errors import TaskExecutionFailed
from globus_compute_sdk.serialize import CombinedCode, ComputeSerializer, DillDataBase64, JSONData

from parsl_globus.testing.site import LocalSite

CONFIG = """\
display_name: An endpoint of ours
public: true
admins: [{admin}]
allowed_functions: [{allowed}]
heartbeat_period: 1
idle_heartbeats_soft: 2
endpoint_setup: "echo set up > '{noted}/setup'"
endpoint_teardown: "echo torn down > '{noted}/teardown'"
engine:
  type: GlobusComputeEngine
  max_workers_per_node: 1
  run_in_sandbox: true
  working_dir: where/tasks/run
  allowed_serializers:
    - globus_compute_sdk.serialize.CombinedCode
    - globus_compute_sdk.serialize.JSONData
  provider:
    type: LocalProvider
    init_blocks: 1
    max_blocks: 1
"""
ADMIN = "1d0f7e16-8d0b-4c8e-9d5c-2f3b1a5f7f3e"


def where():
    import os

    return os.getcwd(), os.environ["GC_TASK_UUID"]


def another():
    return 1


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Executor, "_default_task_group_id", None)  # of the process; this module's is with this service
        with LocalSite(tmp_path_factory.mktemp("settings") / "home") as site:
            site.start_service()
            yield site
    assert site.processes() == []


@pytest.fixture(scope="module")
def functions(site):
    """The ids of two functions, the first of which is allowed."""
    client = site.client()
    client.fx_serializer = ComputeSerializer(strategy_code=CombinedCode())
    return [client.register_function(function) for function in (where, another)]


@pytest.fixture(scope="module")
def noted(tmp_path_factory):
    return tmp_path_factory.mktemp("noted")


@pytest.fixture(scope="module")
def endpoint_id(site, functions, noted):
    return site.start_endpoint("set", CONFIG.format(allowed=functions[0], admin=ADMIN, noted=noted))


@pytest.fixture
def run(site, endpoint_id, monkeypatch):
    monkeypatch.setenv("PARSL_GLOBUS_HOME", str(site.home))
    executors = []

    def run(function_id, *args, data=JSONData):
        executor = Executor(endpoint_id, client=site.client(), api_burst_limit=1, task_group_id=uuid.uuid4())
        executor.serializer = ComputeSerializer(strategy_code=CombinedCode(), strategy_data=data())
        executors.append(executor)
        return executor.submit_to_registered_function(function_id, args).result(timeout=120)

    yield run
    for executor in executors:
        executor.shutdown(wait=False, cancel_futures=True)


def test_tasks_run_in_folders_of_their_own_where_the_file_says(site, run, functions):
    folders = []
    for _ in range(2):
        folder, task_id = map(str, run(functions[0]))
        assert Path(folder).is_relative_to(site.home / "endpoints" / "set")
        assert folder.endswith(f"/where/tasks/run/{task_id}")
        folders.append(folder)
    assert len(set(folders)) == 2


def test_other_functions_are_refused(run, functions):
    with pytest.raises(Exception, match="(?i)function"):
        run(functions[1])


def test_other_encodings_are_refused(run, functions):
    with pytest.raises(TaskExecutionFailed, match="DillDataBase64"):
        run(functions[0], data=DillDataBase64)


def test_what_the_endpoint_says_of_itself(site, endpoint_id):
    found = site.client().get_endpoint_metadata(endpoint_id)
    assert (found["display_name"], found["public"]) == ("An endpoint of ours", True)


def test_commands_run_at_its_start_and_its_idle_end(run, functions, noted):
    run(functions[0])
    assert (noted / "setup").read_text() == "set up\n"
    teardown = noted / "teardown"
    deadline = time.monotonic() + 120
    while not (teardown.exists() and teardown.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert teardown.read_text() == "torn down\n"
