"""Parsl's monitoring of tasks on a real endpoint: what is in the database afterwards, and that it can be seen."""

from __future__ import annotations

import datetime
import platform
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import parsl
import psutil
import pytest
from browser import MISSING, browser, text_of, wait
from monitored import rows, states
from once import wait_until
from parsl import Config, bash_app, python_app
from parsl.monitoring import MonitoringHub
from parsl.monitoring.radios.filesystem import FilesystemRadio
from servers import require

from parsl_globus import GlobusComputeExecutor
from parsl_globus.client.rest import ServiceClient
from parsl_globus.testing.site import LOCAL_ENDPOINT, LocalSite

DEADLINE_S = 120
MANY = 100
NAME = "here"
#: A lost worker is noticed in seconds.
CONFIG = LOCAL_ENDPOINT.format(name=NAME, workers=2).replace("  provider:", "  heartbeat_period: 1\n  provider:")
VISUALIZE = Path(sys.executable).with_name("parsl-visualize")
NO_VISUALIZE = None if find_spec("flask_sqlalchemy") and VISUALIZE.exists() else "parsl[visualization]"


@python_app
def hold_memory(seconds, megabytes):
    import time

    held = b"x" * (megabytes * 2**20)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(10_000))
    return len(held)


@python_app
def double(x):
    return 2 * x


@python_app
def fail():
    raise KeyError("on purpose")


@bash_app
def leave(code):
    return f"exit {code}"


@python_app
def die_once(mark):
    import os
    import signal

    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return "alive"
    os.kill(os.getpid(), signal.SIGKILL)
    return "dead"


@python_app
def slow(walltime=1):
    import time

    while True:  # Parsl's walltime ends no single long call
        time.sleep(0.01)


class Workflow:
    """One monitored workflow with all that can happen, run once for all tests here.

    Attributes:
        database: What Parsl wrote.
        task_ids: By what the task was to do.
        registrations: How many functions were registered.
    """

    def __init__(self, site: LocalSite, folder: Path) -> None:
        self.database = folder / "runinfo" / "monitoring.db"
        self.registrations = 0
        self.task_ids: dict[str, int] = {}
        self.many: list[int] = []
        self.began = datetime.datetime.now()
        self._folder = folder
        executor = GlobusComputeExecutor(site.endpoint_id(NAME), label="globus", client=site.client())
        config = Config(
            executors=[executor],
            monitoring=MonitoringHub(workflow_name="remote", resource_monitoring_interval=0.2),
            run_dir=str(folder / "runinfo"),
            retries=1,
            initialize_logging=False,
        )
        with parsl.load(config) as dfk:
            self.run_id = dfk.run_id
            self._run()
        self.ended = datetime.datetime.now()

    def _run(self) -> None:
        futures = {
            "memory": hold_memory(1.5, 200),
            "fail": fail(),
            "leave": leave(3),
            "die": die_once(str(self._folder / "mark")),
            "slow": slow(),
        }
        for name, future in futures.items():
            future.exception(DEADLINE_S)
            self.task_ids[name] = future.tid
        assert futures["memory"].result() == 200 * 2**20
        assert futures["die"].result() == "alive"
        many = [double(number) for number in range(MANY)]
        assert [future.result(DEADLINE_S) for future in many] == [2 * number for number in range(MANY)]
        self.many = [future.tid for future in many]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with LocalSite(tmp_path_factory.mktemp("site")) as site:
        site.start_service()
        site.start_endpoint(NAME, CONFIG)
        yield site
    assert site.processes() == []


@pytest.fixture(scope="module")
def workflow(site, tmp_path_factory):
    folder = tmp_path_factory.mktemp("workflow")
    with pytest.MonkeyPatch.context() as patch:
        count = []
        register = ServiceClient.register_function
        patch.setattr(ServiceClient, "register_function", lambda *args: count.append(1) or register(*args))
        workflow = Workflow(site, folder)
        workflow.registrations = len(count)
    return workflow


def tries(workflow, name):
    return rows(workflow.database, "try", "task_id = ?", workflow.task_ids[name])


def test_one_function_is_registered_for_all_monitored_tasks(workflow):
    assert workflow.registrations == 1


def test_the_workflow_and_its_tasks(workflow):
    (row,) = rows(workflow.database, "workflow")
    assert (row["run_id"], row["workflow_name"]) == (workflow.run_id, "remote")
    assert (row["tasks_completed_count"], row["tasks_failed_count"]) == (MANY + 2, 3)
    tasks = rows(workflow.database, "task")
    assert [task["task_func_name"] for task in tasks[5:]] == ["double"] * MANY
    assert tasks[workflow.task_ids["fail"]]["task_fail_count"] == 2


def test_states_of_a_task_that_went_well(workflow):
    for task_id in [workflow.task_ids["memory"], *workflow.many]:
        assert states(workflow.database, task_id) == [
            "pending", "launched", "running", "running_ended", "exec_done",
        ]  # fmt: skip


@pytest.mark.parametrize("name", ["fail", "leave", "slow"])
def test_states_of_a_task_that_failed_twice(workflow, name):
    assert states(workflow.database, workflow.task_ids[name]) == [
        "pending", "launched", "running", "running_ended", "fail_retryable",
        "pending", "launched", "running", "running_ended", "failed",
    ]  # fmt: skip
    first, second = tries(workflow, name)
    assert first["task_fail_history"]
    assert first["hostname"] == second["hostname"] == platform.node()


def test_where_and_when_tries_ran(workflow):
    (row,) = tries(workflow, "memory")
    assert (row["task_executor"], row["block_id"], row["hostname"]) == ("globus", "0", platform.node())
    launched, running, returned = (
        datetime.datetime.fromisoformat(row[f"task_try_time_{what}"]) for what in ("launched", "running", "returned")
    )
    assert workflow.began <= launched <= running <= returned <= workflow.ended
    assert returned - running >= datetime.timedelta(seconds=1.5)


def test_a_lost_worker_s_try_has_no_records_and_the_next_one_has(workflow):
    lost, good = tries(workflow, "die")
    assert "WorkerLost" in lost["task_fail_history"]
    assert (lost["hostname"], lost["task_try_time_running"]) == (None, None)
    assert good["hostname"] == platform.node()
    assert states(workflow.database, workflow.task_ids["die"])[-1] == "exec_done"


def test_the_series_of_a_task(workflow):
    series = rows(workflow.database, "resource", "task_id = ?", workflow.task_ids["memory"])
    assert len(series) >= 3
    assert max(row["psutil_process_memory_resident"] for row in series) > 200 * 2**20
    times = [row["psutil_process_time_user"] for row in series]
    assert times == sorted(times)
    assert times[-1] - times[0] > 0.1
    assert {row["resource_monitoring_interval"] for row in series} == {0.2}


def test_each_task_has_a_sample(workflow):
    sampled = {row["task_id"] for row in rows(workflow.database, "resource")}
    assert sampled >= {*workflow.many, *workflow.task_ids.values()}


def test_the_node(workflow):
    found = rows(workflow.database, "node")
    assert {row["hostname"] for row in found} == {platform.node()}
    assert {row["block_id"] for row in found} == {"0"}
    assert {row["total_memory"] for row in found} == {psutil.virtual_memory().total}
    assert {row["worker_count"] for row in found} == {2}
    assert len({row["uid"] for row in found}) == len(found)


def test_the_block(workflow):
    found = rows(workflow.database, "block")
    assert {(row["executor_label"], row["block_id"]) for row in found} == {("globus", "0")}
    assert found[-1]["status"] == "RUNNING"
    assert found[-1]["job_id"]


def test_a_workflow_without_samples_has_states_and_hosts_all_the_same(site, tmp_path):
    executor = GlobusComputeExecutor(site.endpoint_id(NAME), label="globus", client=site.client())
    hub = MonitoringHub(resource_monitoring_interval=0)
    with parsl.load(Config(executors=[executor], monitoring=hub, run_dir=str(tmp_path), initialize_logging=False)):
        assert double(21).result(DEADLINE_S) == 42
    assert states(tmp_path / "monitoring.db", 0)[-2:] == ["running_ended", "exec_done"]
    assert rows(tmp_path / "monitoring.db", "resource") == []


def test_with_resource_monitoring_off_tasks_go_as_ever(site, tmp_path):
    executor = GlobusComputeExecutor(site.endpoint_id(NAME), label="globus", client=site.client())
    hub = MonitoringHub(resource_monitoring_enabled=False)
    with parsl.load(Config(executors=[executor], monitoring=hub, run_dir=str(tmp_path), initialize_logging=False)):
        assert double(21).result(DEADLINE_S) == 42
    assert states(tmp_path / "monitoring.db", 0) == ["pending", "launched", "exec_done"]


@pytest.mark.parametrize("engine", ["ThreadPoolEngine", "ProcessPoolEngine"])
def test_engines_without_blocks(site, tmp_path, engine):
    endpoint_id = site.start_endpoint(engine.lower(), f"engine: {{type: {engine}, max_workers: 2}}\n")
    executor = GlobusComputeExecutor(endpoint_id, label="globus", client=site.client())
    hub = MonitoringHub(resource_monitoring_interval=0.2)
    with parsl.load(Config(executors=[executor], monitoring=hub, run_dir=str(tmp_path), initialize_logging=False)):
        # One after another: with threads all tasks are one process, and Parsl takes no sample of it when another task's
        # sampling process, its child, ends in the middle (`monitor` in parsl/monitoring/remote.py).
        assert [double(number).result(DEADLINE_S) for number in range(4)] == [0, 2, 4, 6]
    database = tmp_path / "monitoring.db"
    assert {(row["hostname"], row["block_id"]) for row in rows(database, "try")} == {(platform.node(), None)}
    assert len({row["task_id"] for row in rows(database, "resource")}) == 4
    assert {row["hostname"] for row in rows(database, "node")} == {platform.node()}
    assert rows(database, "block") == []


def test_another_radio_where_workers_can_reach_the_workflow(site, tmp_path):
    executor = GlobusComputeExecutor(
        site.endpoint_id(NAME), label="globus", client=site.client(), remote_monitoring_radio=FilesystemRadio()
    )
    hub = MonitoringHub(resource_monitoring_interval=0.2)
    with parsl.load(Config(executors=[executor], monitoring=hub, run_dir=str(tmp_path), initialize_logging=False)):
        assert double(21).result(DEADLINE_S) == 42
    found = [row["task_status_name"] for row in rows(tmp_path / "monitoring.db", "status")]
    assert {"running", "running_ended", "exec_done"} <= set(found)
    assert rows(tmp_path / "monitoring.db", "resource")


# ---- parsl-visualize --------------------------------------------------------------------------------------------


@pytest.fixture
def visualize(workflow, tmp_path):
    require(MISSING)
    require(NO_VISUALIZE)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(VISUALIZE), f"sqlite:///{workflow.database}", "--port", str(port)], stdout=log, stderr=log
        )
    try:
        wait_until(lambda: _answers(port) or process.poll() is not None, "parsl-visualize did not start")
        assert process.poll() is None, (tmp_path / "log").read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def _answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def page(visualize, tmp_path):
    """A browser that fetches nothing from elsewhere."""
    with browser(tmp_path / "profile") as driver:
        driver.execute_cdp_cmd("Network.enable", {})
        driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["https://*"]})
        yield driver


#: Runs a script as if the page had it, then those of the page that failed for want of it.
ADD_SCRIPT = """
const add = text => { const one = document.createElement('script'); one.text = text; document.body.append(one) };
const wanting = [...document.scripts].map(one => one.text).filter(text => text.includes('Plotly.newPlot'));
add(arguments[0]); wanting.forEach(add);
"""


def draw(driver):
    """The lines of the page's plots; their library, which the pages would fetch, comes from the installed package."""
    import plotly

    library = Path(plotly.__file__).with_name("package_data") / "plotly.min.js"
    driver.execute_script(ADD_SCRIPT, library.read_text())
    count = "return document.querySelectorAll('.js-plotly-plot .scatterlayer .trace').length"
    wait(driver, lambda: driver.execute_script(count), "nothing is drawn")
    plots = "[...document.querySelectorAll('.js-plotly-plot')]"
    return driver.execute_script(f"return {plots}.flatMap(plot => plot._fullData.map(one => [...one.y]))")


def test_parsl_visualize_shows_them(workflow, visualize, page):
    page.get(visualize)
    assert "remote" in text_of(page, "body")
    base = f"{visualize}/workflow/{workflow.run_id}"

    page.get(f"{base}/")
    assert "hold_memory" in text_of(page, "body")

    page.get(f"{base}/task/{workflow.task_ids['memory']}")
    assert "running_ended" in text_of(page, "table")
    (memory_gb,) = draw(page)
    assert max(memory_gb) > 0.2

    page.get(f"{base}/resource_usage")
    assert "due to missing data" not in text_of(page, "body")
    assert len(draw(page)) >= 4
