"""Ctrl-C ends what runs in the foreground, at any moment, with all that it started."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tcp_proxy import TcpProxy
from traces import Sandbox, listeners

from parsl_globus import GlobusComputeExecutor
from parsl_globus.testing.site import LocalSite

COMMAND = [sys.executable, "-m", "parsl_globus.cli"]
START_S = 60
END_S = 30
#: Less than the service is asked again for.
SOON_S = 5
#: Ended in order, or interrupted before there was anything to end.
CODES = {0, 130}


@pytest.fixture
def sandbox(tmp_path_factory, monkeypatch):
    sandbox = Sandbox.at(tmp_path_factory.mktemp("f"))
    monkeypatch.setenv("PARSL_GLOBUS_HOME", str(sandbox.cwd / "pg"))
    monkeypatch.setenv("TMPDIR", str(sandbox.tmp))
    return sandbox


@pytest.fixture
def start(sandbox):
    """Runs a command in a session of its own, as a terminal would in the foreground."""
    started = []

    def start_one(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start_one
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Until the file is there; nothing tells of it, so it is looked for."""
    deadline = time.monotonic() + START_S
    while not path.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.005)


def interrupt(process: subprocess.Popen[str]) -> str:
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=END_S)
    assert "Traceback" not in out
    assert process.returncode in CODES, out
    return out


@pytest.mark.parametrize("name", ["lock", "service.db", "owner.json"])
def test_a_service_that_starts(start, sandbox, name):
    process = start("service", "run", "--port", "0", "--amqp-port", "0")
    wait_for(sandbox.cwd / "pg" / "service" / name, process)
    interrupt(process)
    assert sandbox.processes() == []
    assert not (sandbox.cwd / "pg" / "service.json").exists()


def test_a_service_that_runs(start, sandbox):
    process = start("service", "run", "--port", "0", "--amqp-port", "0")
    ready = process.stdout.readline()
    ports = {int(number) for number in re.search(r":(\d+) \(AMQP port (\d+)\)", ready).groups()}
    assert ports <= listeners()
    assert interrupt(process) == ""
    assert process.returncode == 0
    assert not ports & listeners()
    assert sandbox.processes() == []
    assert not (sandbox.cwd / "pg" / "service.json").exists()


@pytest.fixture
def site(sandbox):
    with LocalSite(sandbox.root / "site") as site:
        site.start_service()
        site.run("endpoint", "configure", "here")
        yield site
    assert site.processes() == []


def test_an_endpoint(start, site, monkeypatch):
    for name, value in site.environment.items():
        monkeypatch.setenv(name, value)
    service = {process.pid for process in site.processes()}
    folder = site.home / "endpoints" / "here"

    early = start("endpoint", "run", "here")
    wait_for(folder / "manager.pid", early)
    interrupt(early)

    process = start("endpoint", "run", "here")
    assert process.stdout.readline().startswith("Endpoint 'here' is registered as ")
    executor = GlobusComputeExecutor(site.endpoint_id("here"), client=site.client())
    executor.start()
    try:
        futures = [executor.submit(time.sleep, {}, seconds) for seconds in (0, 300)]
        futures[0].result(START_S)  # so a user endpoint, an interchange and workers run
    finally:
        stopping = threading.Thread(target=executor.shutdown)
        stopping.start()
    interrupt(process)
    stopping.join(END_S)
    assert process.returncode == 0
    assert {left.pid for left in site.processes()} <= service
    assert not (folder / "manager.pid").exists()


def test_an_endpoint_whose_service_goes_away_before_it_is_registered(start, site, monkeypatch):
    for name, value in site.environment.items():
        monkeypatch.setenv(name, value)
    known = json.loads((site.home / "credentials.json").read_text())
    monkeypatch.setenv("GLOBUS_COMPUTE_CLIENT_ID", known[site.url]["client_id"])
    monkeypatch.setenv("GLOBUS_COMPUTE_CLIENT_SECRET", known[site.url]["client_secret"])
    with TcpProxy(int(site.url.rpartition(":")[2])) as proxy:
        cut = proxy.cut_at(b" /v3/endpoints")
        process = start("endpoint", "run", "here", "--url", f"http://127.0.0.1:{proxy.port}")
        assert cut.wait(START_S)
        # It would ask again for a while.
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=SOON_S)
    assert "Traceback" not in out
    assert process.returncode == 0, out
    assert not (site.home / "endpoints" / "here" / "manager.pid").exists()
