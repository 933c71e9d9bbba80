"""An endpoint as whoever operates it sees it: its state, its logs, its unit for systemd, and its end."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import uuid

import psutil
import pytest
from once import DEADLINE_S, Work, wait_until
from servers import require

from parsl_globus import GlobusComputeExecutor
from parsl_globus.client.rest import ServiceClient
from parsl_globus.errors import EndpointStartFailed, RequestRefused, WorkerLost
from parsl_globus.testing.site import LOCAL_ENDPOINT, LocalSite


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with LocalSite(tmp_path_factory.mktemp("operated")) as site:
        site.start_service()
        yield site
    assert site.processes() == []


@pytest.fixture(scope="module")
def endpoint_id(site):
    return site.start_endpoint("operated")


@pytest.fixture
def executor(site, endpoint_id):
    executor = GlobusComputeExecutor(endpoint_id, client=site.client())
    executor.start()
    yield executor
    executor.shutdown()


@pytest.fixture
def work(executor, tmp_path):
    work = Work(executor, tmp_path)
    yield work
    work.open_gate()


def command(site, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "parsl_globus.cli", "endpoint", *arguments],
        env=site.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def test_status_of_one_that_was_never_started(site):
    site.run("endpoint", "configure", "idle")
    told = command(site, "status", "idle", "--json")
    assert told.returncode == 1
    facts = json.loads(told.stdout)
    assert (facts["status"], facts["pid"], facts["endpoint_id"], facts["user_endpoints"]) == ("stopped", None, None, [])
    assert facts["service"]["reachable"]
    assert "is stopped; never registered" in command(site, "status", "idle").stdout
    site.run("endpoint", "delete", "idle", "--yes")
    assert not (site.home / "endpoints" / "idle").exists()


def test_status_counts_workers_and_tasks(site, endpoint_id, work):
    (before,) = [0] if not (told := _user_endpoints(site)) else [told[0]["tasks"]["done"]]
    held = work.submit(2, held=True)
    work.wait_begun(held)
    work.submit(3)
    wait_until(lambda: _tasks(site)["waiting"] == 3, "three tasks should wait")
    facts = json.loads(command(site, "status", "operated", "--json").stdout)
    assert facts["status"] == "running"
    assert facts["endpoint_id"] == str(endpoint_id)
    assert facts["pid"] == int((site.home / "endpoints" / "operated" / "manager.pid").read_text())
    assert facts["service"] == {"url": site.url, "reachable": True, "sees": "online", "error": None}
    (one,) = facts["user_endpoints"]
    assert one["workers"] == {"total": 2, "idle": 0}
    assert one["tasks"]["running"] == 2
    assert one["pid"] in one["processes"]
    # Parsl asks a provider for the state of its blocks now and then only.
    wait_until(lambda: _block_states(site) == ["RUNNING"], "the block should run")
    work.open_gate()
    assert work.outcome() == {}
    wait_until(lambda: _tasks(site)["done"] == before + 5, "five tasks should be done")
    told = command(site, "status", "operated")
    assert told.returncode == 0
    assert "2, of which 2 idle" in told.stdout


def _user_endpoints(site):
    return json.loads(command(site, "status", "operated", "--json").stdout)["user_endpoints"]


def _block_states(site):
    (one,) = json.loads(command(site, "status", "operated", "--json").stdout)["user_endpoints"]
    return [block["status"] for block in one["blocks"].values()]


def _tasks(site):
    return _user_endpoints(site)[0]["tasks"]


def test_logs_tell_of_a_task_by_its_id(site, executor):
    future = executor.submit(abs, {}, -1)
    assert future.result(DEADLINE_S) == 1
    task_id = str(future.globus_task_id)

    def told():
        return command(site, "logs", "operated", "--task", task_id).stdout.splitlines()

    # Lines wait for others, for a second, and each of the two on its own: the end can be told first.
    wait_until(lambda: len(told()) == 2, "the log should tell of the task's begin and end")
    assert {re.search(r"(Accepted|Done)", line).group() for line in told()} == {"Accepted", "Done"}
    everything = command(site, "logs", "operated").stdout.splitlines()
    assert {line.partition(":")[0] for line in everything} == {"manager", told()[0].partition(":")[0]}
    times = re.findall(r"^\S+: (\d{4}-\d\d-\d\d \S+) ", "\n".join(everything), re.MULTILINE)
    assert times == sorted(times)
    (folder,) = (site.home / "endpoints" / "operated").glob("uep.*")
    one = command(site, "logs", "operated", "--user-endpoint", folder.name, "-n", "3").stdout.splitlines()
    assert one
    assert not any(line.startswith("manager") for line in one)
    assert command(site, "logs", "operated", "--user-endpoint", str(uuid.uuid4())).returncode == 2


def test_logs_are_followed_until_ctrl_c(site, executor):
    arguments = [sys.executable, "-m", "parsl_globus.cli", "endpoint", "logs", "operated", "-f", "-n", "0"]
    with subprocess.Popen(
        arguments, env={**site.environment, "PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE, text=True
    ) as process:
        lines = []
        reader = threading.Thread(target=lambda: lines.extend(process.stdout), daemon=True)
        reader.start()

        def told():
            # It may look for the first time after this task has ended, hence more than one.
            future = executor.submit(abs, {}, -1)
            future.result(DEADLINE_S)
            return any("Done" in line for line in lines)

        wait_until(told, "nothing was told")
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 0
        reader.join(DEADLINE_S)
    assert not any("Traceback" in line for line in lines)


def test_a_unit_that_systemd_takes(site, endpoint_id, tmp_path):
    require(None if shutil.which("systemd-analyze") else "systemd-analyze is not installed")
    home = tmp_path / 'odd "100%" $HOME'
    told = subprocess.run(
        [sys.executable, "-m", "parsl_globus.cli", "endpoint", "configure", "odd"],
        env={**site.environment, "PARSL_GLOBUS_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    for name, environment in (("operated", site.environment), ("odd", {**site.environment, "PARSL_GLOBUS_HOME": home})):
        arguments = [sys.executable, "-m", "parsl_globus.cli", "endpoint", "enable-on-boot", name]
        unit = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)
        assert "systemctl" in unit.stderr
        path = tmp_path / f"parsl-globus-{name}.service"
        path.write_text(unit.stdout)
        verified = subprocess.run(
            ["systemd-analyze", "verify", *([] if os.geteuid() == 0 else ["--user"]), str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert not [line for line in verified.stderr.splitlines() if path.name in line], verified.stderr
        assert verified.returncode == 0, verified.stderr


def test_delete_refuses_with_tasks_outstanding(site, work, tmp_path):
    endpoint_id = site.start_endpoint("doomed")
    executor = GlobusComputeExecutor(endpoint_id, client=site.client())
    executor.start()
    try:
        (tmp_path / "doomed").mkdir()
        doomed = Work(executor, tmp_path / "doomed")
        doomed.wait_begun(doomed.submit(1, held=True))
        with pytest.raises(EndpointStartFailed, match="1 tasks outstanding"):
            site.run("endpoint", "delete", "doomed", "--yes")
        site.run("endpoint", "delete", "doomed", "--yes", "--force")
        assert list(doomed.outcome()) == [0]
    finally:
        executor.shutdown()
    assert not (site.home / "endpoints" / "doomed").exists()
    client = ServiceClient(site.client())
    try:
        with pytest.raises(RequestRefused):
            client.endpoint(endpoint_id)
    finally:
        client.close()


def test_a_worker_pool_that_is_killed_takes_its_workers_along(site, tmp_path):
    others = {process.pid for process in site.processes() if _is_pool(process)}
    text = LOCAL_ENDPOINT.format(name="pool", workers=2)
    text = text.replace("engine:", "engine:\n  heartbeat_period: 1\n  heartbeat_threshold: 4")
    executor = GlobusComputeExecutor(site.start_endpoint("pool", text), client=site.client())
    executor.start()
    try:
        work = Work(executor, tmp_path)
        work.wait_begun(work.submit(2, held=True))
        pools = [process for process in site.processes() if _is_pool(process) and process.pid not in others]
        assert pools
        workers = [worker for pool in pools for worker in pool.children(recursive=True)]
        assert len(workers) >= 2
        for pool in pools:
            pool.kill()
        # Both are busy, so neither looks whether its pool lives.
        assert not psutil.wait_procs(workers, timeout=DEADLINE_S)[1]
        errors = work.outcome()
        assert {type(error) for error in errors.values()} == {WorkerLost}
        assert executor.submit(abs, {}, -1).result(DEADLINE_S) == 1
    finally:
        executor.shutdown()
        site.stop_endpoint("pool")


def _is_pool(process):
    """The pool's own process; Parsl's workers carry the same name where setproctitle is installed."""
    try:
        command, above = " ".join(process.cmdline()), process.parent()
        return ("process_worker_pool" in command or "HTEX manager" in command) and not (
            above is not None and _names_pool(above)
        )
    except psutil.Error:
        return False


def _names_pool(process):
    command = " ".join(process.cmdline())
    return "bash" not in command and ("process_worker_pool" in command or "HTEX" in command)
