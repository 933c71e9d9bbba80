"""The public endpoint agent by its own commands, on our service: every engine it can run here, restart, failures."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import psutil
import pytest
from public_agent import PublicAgent, ordinary_user

TEMPLATE = """\
heartbeat_period: 5
idle_heartbeats_soft: 0
local_compute_services: true
engine:
  type: {{ engine }}
  max_workers: {{ workers|default(1) }}
"""
SCHEMA = {
    "type": "object",
    "properties": {"engine": {"type": "string"}, "workers": {"type": "integer"}},
    "additionalProperties": False,
}
THREADS = {"engine": "ThreadPoolEngine", "workers": 2}
PROCESSES = {"engine": "ProcessPoolEngine"}


def on(*stages):
    """Where a test runs: once on each broker at most, as each takes a while."""
    return pytest.mark.parametrize("stage", stages, indirect=True)


@pytest.fixture
def agent(stage, tmp_path):
    agent = PublicAgent(stage.namespace, tmp_path / "agent", stage.env)
    yield agent
    end(agent)


def end(agent):
    left = agent.processes()
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=10)


def outcomes(stage, endpoint_id, *configs):
    return stage.client("sdk_configured.py", endpoint_id, *map(json.dumps, configs))


def state(agent, name):
    """Its row in the agent's own list."""
    rows = [line.split("|") for line in agent.run("list").splitlines() if f" {name} " in line]
    return rows[0][2].strip() if rows else None


@on("extensions", "lab")
def test_its_life_by_its_own_commands(stage, agent):
    agent.configure("site", template=TEMPLATE, schema=SCHEMA)
    assert state(agent, "site") == "Initialized"
    endpoint_id = agent.start("site")
    assert state(agent, "site") == "Running"

    threads, processes = outcomes(stage, endpoint_id, THREADS, PROCESSES)
    assert threads["where"][0] == "MainProcess"
    assert threads["where"][1].startswith("ThreadPoolExecutor")
    assert "Process-" in processes["where"][0]
    assert len(agent.user_endpoints()) == 2

    agent.run("stop", "site")
    assert state(agent, "site") == "Stopped"
    assert agent.processes() == []

    known = agent.user_endpoints()
    assert agent.start("site") == endpoint_id
    (again,) = outcomes(stage, endpoint_id, THREADS)
    assert "where" in again
    assert agent.user_endpoints() == known

    agent.run("stop", "--remote", "site")
    _, alive = psutil.wait_procs(agent.processes(), timeout=60)
    assert alive == []
    # The service takes it for online until two more of its heartbeats are missing.
    agent.run("delete", "--yes", "--force", "site")
    assert not agent.folder("site").exists()
    assert state(agent, "site") is None
    (gone,) = outcomes(stage, endpoint_id, THREADS)
    assert "is not registered" in gone["error"]


@on("extensions")
def test_why_it_can_not_start_a_user_endpoint_reaches_the_futures(stage, agent):
    agent.configure("site", template=TEMPLATE, schema=SCHEMA)
    endpoint_id = agent.start("site")
    try:
        unknown, refused, missing = outcomes(
            stage, endpoint_id, {"engine": "NoSuchEngine"}, {**THREADS, "workers": "many"}, {}
        )
        assert "NoSuchEngine" in unknown["error"]
        assert "'many' is not of type 'integer'" in refused["error"]
        assert "engine" in missing["error"]
        # It serves those who ask for something that works.
        assert "where" in outcomes(stage, endpoint_id, THREADS)[0]
    finally:
        agent.run("stop", "site")


@pytest.fixture
def ordinary_agent(stage):
    if os.geteuid() != 0:
        pytest.skip("an ordinary user runs the tests: all of them are this one")
    user, missing = ordinary_user()
    if missing:  # where the checkout lies decides that, not what is installed
        pytest.skip(missing)
    # Not in pytest's folders, which are closed to others.
    with tempfile.TemporaryDirectory(prefix="agent-") as folder:
        os.chmod(folder, 0o755)
        agent = PublicAgent(stage.namespace, Path(folder) / "home", stage.env, user=user)
        yield agent
        end(agent)


@on("lab")
def test_as_an_ordinary_user(stage, ordinary_agent):
    agent = ordinary_agent
    agent.configure("site", template=TEMPLATE, schema=SCHEMA)
    endpoint_id = agent.start("site")
    assert {process.username() for process in agent.processes()} == {"nobody"}
    (threads,) = outcomes(stage, endpoint_id, THREADS)
    assert "where" in threads, threads
    agent.run("stop", "site")
    assert agent.processes() == []
