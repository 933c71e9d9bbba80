"""The whole agent with a real service and the public SDK: what it does when parts of it fail."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest
from globus_compute_sdk import Executor
from globus_compute_sdk.errors import TaskExecutionFailed
from globus_compute_sdk.serialize import AllCodeStrategies, ComputeSerializer

from parsl_globus import connect
from parsl_globus.endpoint.multiuser.manager import STOP_GRACE_S
from parsl_globus.errors import EndpointStartFailed
from parsl_globus.testing.site import LocalSite

BY_SOURCE = ComputeSerializer(strategy_code=AllCodeStrategies())

CONFIG = """\
heartbeat_period: 1
{top}
engine:
  type: GlobusComputeEngine
  max_workers_per_node: 2
  heartbeat_period: 1
  heartbeat_threshold: 4
  provider:
    type: LocalProvider
    init_blocks: 1
    min_blocks: 1
    max_blocks: 1
{provider}
"""


def config(top="", provider=""):
    return CONFIG.format(top=top, provider=textwrap.indent(provider, "    "))


def double(x):
    return 2 * x


def run_once(folder, number, release):
    """Leave a file that can be made once only, and wait for a word."""
    import os
    import time

    os.close(os.open(f"{folder}/ran-{number}", os.O_CREAT | os.O_EXCL))
    deadline = time.monotonic() + 60
    while not os.path.exists(release) and time.monotonic() < deadline:
        time.sleep(0.02)
    return number


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    home = tmp_path_factory.mktemp("live") / "home"
    with LocalSite(home) as site:
        site.start_service()
        yield site
    assert site.processes() == []


@pytest.fixture
def executor_for(site, monkeypatch):
    monkeypatch.setenv("PARSL_GLOBUS_HOME", str(site.home))
    executors = []

    def make(endpoint_id, **settings):
        executor = Executor(endpoint_id, client=connect(site.url), api_burst_limit=1, batch_size=1000, **settings)
        executor.serializer = BY_SOURCE  # workers can't import this module
        executors.append(executor)
        return executor

    yield make
    for executor in executors:
        executor.shutdown(wait=False, cancel_futures=True)


@pytest.fixture(autouse=True)
def _no_endpoint_stays(site):
    """A test that fails takes no other one along."""
    yield
    for row in json.loads(site.run("endpoint", "list", "--json")):
        if row["status"] == "running":
            site.stop_endpoint(row["name"])


#: Words in the commands of Parsl's processes; they name themselves where setproctitle is installed.
INTERCHANGE = ("high_throughput.interchange", "HTEX interchange")
PARSL = ("high_throughput", "HTEX")


def processes(site, *words):
    """The site's processes whose command has one of `words`."""
    found = []
    for process in site.processes():
        try:
            command = " ".join(process.cmdline())
            if any(word in command for word in words):
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_until(condition, timeout_s=120.0):
    """For what only polling tells: processes and files."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        threading.Event().wait(0.05)


def outcomes(futures, timeout_s=60):
    """Values, and the texts of typed failures."""
    ends = []
    for future in futures:
        error = future.exception(timeout_s)
        assert error is None or isinstance(error, TaskExecutionFailed)
        ends.append(future.result(0) if error is None else str(error))
    return ends


def test_start_run_stop_and_nothing_left(site, executor_for):
    endpoint_id = site.start_endpoint("plain", config())
    with executor_for(endpoint_id) as executor:
        assert [future.result(60) for future in [executor.submit(double, n) for n in range(100)]] == [
            2 * n for n in range(100)
        ]
    folder = site.home / "endpoints" / "plain"
    secrets = [path for path in folder.rglob("*") if path.is_file() and path.suffix in (".json", ".db", ".yaml")]
    assert secrets
    assert all(path.stat().st_mode & 0o077 == 0 for path in secrets)
    site.stop_endpoint("plain")
    assert [process.cmdline() for process in site.processes() if process.pid != site.service_pid] == []
    assert site.start_endpoint("plain") == endpoint_id
    with executor_for(endpoint_id) as executor:
        assert executor.submit(double, 4).result(60) == 8
    site.stop_endpoint("plain")


def test_a_killed_user_endpoint_answers_for_every_task(site, executor_for, tmp_path):
    endpoint_id = site.start_endpoint("killed", config())
    executor = executor_for(endpoint_id)
    release = tmp_path / "release"
    futures = [executor.submit(run_once, str(tmp_path), n, str(release)) for n in range(8)]
    wait_until(lambda: len(list(tmp_path.glob("ran-*"))) == 2)
    (agent,) = processes(site, "parsl_globus.endpoint.user_endpoint")
    workers = processes(site, *PARSL)
    agent.kill()
    # While they live they go on, and would begin further tasks when they are released.
    assert not psutil.wait_procs(workers, timeout=30)[1]
    release.touch()
    ends = outcomes(futures)
    # Two had begun and are lost, and none ran twice: that would have failed on the file.
    assert sorted(end for end in ends if isinstance(end, int)) == sorted(set(range(8)) - set(_lost(ends)))
    assert len(_lost(ends)) == 2
    assert all("had begun" in ends[n] for n in _lost(ends))
    site.stop_endpoint("killed")


def test_threads_run_tasks_too(site, executor_for):
    endpoint_id = site.start_endpoint("threads", "engine: {type: ThreadPoolEngine, max_workers: 3}\n")
    with executor_for(endpoint_id) as executor:
        assert [future.result(60) for future in [executor.submit(double, n) for n in range(30)]] == [
            2 * n for n in range(30)
        ]
    site.stop_endpoint("threads")


def test_no_log_tells_a_password(site, executor_for):
    endpoint_id = site.start_endpoint("discreet", config(top="debug: true"))
    with executor_for(endpoint_id) as executor:
        assert executor.submit(double, 1).result(60) == 2
    site.stop_endpoint("discreet")
    for log in site.home.rglob("*.log"):
        text = log.read_text(errors="replace")
        assert not re.search(r"amqps?://[^@\s]*:[^@\s]+@", text), log
        assert "connection_url" not in text


def test_ctrl_c_during_a_start_ends_what_was_started(site):
    site.run("endpoint", "configure", "regretted")
    command = [sys.executable, "-m", "parsl_globus.cli", "endpoint", "start", "regretted"]
    process = subprocess.Popen(command, env=site.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: processes(site, "--ready-fd"))
    process.send_signal(signal.SIGINT)
    # Either it was quicker than the signal, or it took the manager along.
    code = process.wait(30)
    assert bool(processes(site, "--ready-fd")) == (code == 0)
    site.stop_endpoint("regretted")


def _lost(ends):
    return [n for n, end in enumerate(ends) if isinstance(end, str)]


def test_with_retries_lost_tasks_run_again(site, executor_for, tmp_path):
    text = config().replace("max_workers_per_node: 2", "max_workers_per_node: 2\n  max_retries_on_system_failure: 1")
    endpoint_id = site.start_endpoint("retrying", text)
    executor = executor_for(endpoint_id)

    def die_once(path):
        import os

        if not os.path.exists(path):
            open(path, "w").close()
            os.kill(os.getpid(), 9)
        return "alive"

    assert executor.submit(die_once, str(tmp_path / "died")).result(60) == "alive"
    site.stop_endpoint("retrying")


def test_a_killed_manager_takes_all_along_and_a_new_one_goes_on(site, executor_for, tmp_path):
    endpoint_id = site.start_endpoint("headless", config())
    executor = executor_for(endpoint_id)
    release = tmp_path / "release"
    futures = [executor.submit(run_once, str(tmp_path), n, str(release)) for n in range(6)]
    wait_until(lambda: len(list(tmp_path.glob("ran-*"))) == 2)
    pid = int((site.home / "endpoints" / "headless" / "manager.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not processes(site, "user_endpoint", *PARSL))
    release.touch()
    assert site.start_endpoint("headless") == endpoint_id
    ends = outcomes(futures)
    assert all("TaskLost" in end or "stopped" in end for end in ends if isinstance(end, str))
    with executor_for(endpoint_id) as fresh:
        assert fresh.submit(double, 1).result(60) == 2
    site.stop_endpoint("headless")


def test_a_dead_interchange_costs_what_had_begun_and_all_else_runs(site, executor_for, tmp_path):
    endpoint_id = site.start_endpoint("bent", config())
    executor = executor_for(endpoint_id)
    release = tmp_path / "release"
    futures = [executor.submit(run_once, str(tmp_path), n, str(release)) for n in range(4)]
    wait_until(lambda: len(list(tmp_path.glob("ran-*"))) == 2)
    (interchange,) = processes(site, *INTERCHANGE)
    begun = {int(path.name.removeprefix("ran-")) for path in tmp_path.glob("ran-*")}
    interchange.kill()
    release.touch()
    for number, end in enumerate(outcomes(futures)):
        assert "stopped while it had the task" in end if number in begun else end == number
    with executor_for(endpoint_id) as fresh:
        assert fresh.submit(double, 1).result(60) == 2
    site.stop_endpoint("bent")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("setup", config(top="endpoint_setup: echo no such module >&2; exit 3"), "no such module"),
        (
            "interface",
            config(provider="").replace(
                "  heartbeat_period", "  address: {type: address_by_interface, ifname: bond77}\n  heartbeat_period"
            ),
            "bond77",
        ),
        ("blocks", config(provider='worker_init: "echo no such environment >&2; exit 4"'), "no such environment"),
    ],
)
def test_a_failed_start_is_told_to_the_caller(site, executor_for, name, text, words):
    endpoint_id = site.start_endpoint(name, text)
    (end,) = outcomes([executor_for(endpoint_id).submit(double, 1)])
    assert words in end
    site.stop_endpoint(name)


def test_an_endpoint_stops_at_once_while_it_sets_up_and_keeps_its_tasks(site, executor_for, tmp_path):
    begun, go_on = tmp_path / "begun", tmp_path / "go on"
    setup = f"touch '{begun}'; while [ ! -e '{go_on}' ]; do sleep 1; done"
    endpoint_id = site.start_endpoint("slow", config(top=f'endpoint_setup: "{setup}"'))
    future = executor_for(endpoint_id).submit(double, 4)
    wait_until(begun.exists)
    began_s = time.monotonic()
    site.stop_endpoint("slow")
    took_s = time.monotonic() - began_s
    assert "is killed" not in (site.home / "endpoints" / "slow" / "endpoint.log").read_text()
    assert took_s < STOP_GRACE_S
    go_on.touch()
    site.start_endpoint("slow")
    assert future.result(60) == 8
    site.stop_endpoint("slow")


def test_tasks_go_on_while_the_service_is_away(tmp_path, monkeypatch):
    with LocalSite(tmp_path / "home") as own:
        own.start_service()
        port, amqp_port = int(own.url.rpartition(":")[2]), own.amqp_port
        monkeypatch.setenv("PARSL_GLOBUS_HOME", str(own.home))
        endpoint_id = own.start_endpoint("steady", config())
        release = tmp_path / "release"
        client = connect(own.url)
        client.fx_serializer = BY_SOURCE
        batch = client.create_batch()
        function_id = client.register_function(run_once)
        for n in range(4):
            batch.add(function_id, args=(str(tmp_path), n, str(release)))
        task_ids = client.batch_run(endpoint_id, batch)["tasks"][function_id]
        wait_until(lambda: len(list(tmp_path.glob("ran-*"))) == 2)
        own.stop_service(kill=True)
        release.touch()
        wait_until(lambda: len(list(tmp_path.glob("ran-*"))) == 4)
        own.start_service(port=port, amqp_port=amqp_port)
        client = connect(own.url)
        results = {}
        wait_until(lambda: not _pending(client, task_ids, results))
        assert [results[task_id] for task_id in task_ids] == [0, 1, 2, 3]
    assert own.processes() == []


def _pending(client, task_ids, results):
    for task_id in task_ids:
        if task_id not in results:
            state = client.get_task(task_id)
            if not state["pending"]:
                results[task_id] = state["result"]
    return len(results) < len(task_ids)


def test_user_options_fill_the_template(site, executor_for):
    text = "heartbeat_period: 1\n"
    folder = site.home / "endpoints" / "templated"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(text)
    (folder / "user_config_template.yaml.j2").write_text(
        config(provider="worker_init: export SITE_WORD={{ word|shell_escape }}").replace(
            "worker_init: export SITE_WORD={{ word|shell_escape }}", "worker_init: {{ init }}"
        )
    )
    (folder / "user_config_schema.json").write_text('{"type": "object", "properties": {"init": {"type": "string"}}}')
    site.start_endpoint("templated")
    endpoint_id = site.endpoint_id("templated")

    def word():
        import os

        return os.environ.get("SITE_WORD")

    ends = [
        executor_for(endpoint_id, user_endpoint_config={"init": f"export SITE_WORD={text}"}).submit(word)
        for text in ("one", "two")
    ]
    assert [future.result(60) for future in ends] == ["one", "two"]
    (refused,) = outcomes([executor_for(endpoint_id, user_endpoint_config={"init": 3}).submit(word)])
    assert "init" in refused
    (missing,) = outcomes([executor_for(endpoint_id).submit(word)])
    assert "init" in missing
    site.stop_endpoint("templated")


def test_an_idle_user_endpoint_ends_and_comes_back(site, executor_for):
    endpoint_id = site.start_endpoint("idle", config(top="idle_heartbeats_soft: 1"))
    executor = executor_for(endpoint_id)
    assert executor.submit(double, 1).result(60) == 2
    wait_until(lambda: not processes(site, "user_endpoint"))
    assert executor.submit(double, 2).result(60) == 4
    site.stop_endpoint("idle")


def test_starting_twice_and_unreachable_services_are_sentences(site):
    site.start_endpoint("twice", config())
    with pytest.raises(EndpointStartFailed, match="runs already"):
        site.run("endpoint", "start", "twice")
    site.stop_endpoint("twice")
    with pytest.raises(EndpointStartFailed, match=r"http://127\.0\.0\.1:9"):
        site.run("endpoint", "start", "twice", "--url", "http://127.0.0.1:9")
    log = Path(site.home, "endpoints", "twice", "endpoint.log").read_text()
    assert "Traceback" not in log
