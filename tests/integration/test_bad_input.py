"""Bad input: one clear sentence, an exit code that isn't 0, no traceback, and soon."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from parsl_globus.testing.site import LocalSite

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
COMMAND = [sys.executable, "-m", "parsl_globus.cli"]
WORKFLOWS = ["co2_workflow.py", "co2_join_apps.py"]
SOON_S = 60


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A service with an endpoint that is registered and stopped, and one that was never started."""
    with LocalSite(tmp_path_factory.mktemp("s")) as site:
        site.start_service()
        site.start_endpoint("stopped")
        site.stop_endpoint("stopped")
        site.run("endpoint", "configure", "fresh")
        yield site
    assert site.processes() == []


@pytest.fixture
def here(site, monkeypatch, tmp_path):
    """The commands below meet that site, and write into a folder of the test."""
    monkeypatch.setenv("PARSL_GLOBUS_HOME", str(site.home))
    monkeypatch.chdir(tmp_path)
    return site


def command(*arguments: object) -> list[str]:
    return [*COMMAND, *map(str, arguments)]


def workflow(script: str, *arguments: object, ids: tuple[object, object] = (uuid.uuid4(), uuid.uuid4())) -> list[str]:
    ends = ["--perlmutter", str(ids[0]), "--polaris", str(ids[1])]
    return [sys.executable, str(EXAMPLES / script), *ends, "--no-plot", *map(str, arguments)]


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=SOON_S, check=False)


def assert_told(words: list[str], *said: str) -> None:
    """It fails with one line on stderr that has all of `said`, and prints nothing else."""
    result = run(words)
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stdout == ""
    for text in said:
        assert text in result.stderr


@pytest.fixture
def closed_port():
    """A port at which nobody listens, for as long as the test runs."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


# ---- the service is not running ---------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["status"], ["status", "--json"], ["env"]])
def test_no_service_to_ask(words):
    assert_told(command("service", *words), "No service is known here", "'parsl-globus service start'")


@pytest.mark.parametrize("verb", ["start", "run"])
def test_an_endpoint_without_a_service(verb, closed_port):
    assert run(command("endpoint", "configure", "a")).returncode == 0
    assert_told(command("endpoint", verb, "a"), "No service is known here", "'parsl-globus service start'")
    url = f"http://127.0.0.1:{closed_port}"
    assert_told(command("endpoint", verb, "a", "--url", url), url, "can't be reached", "Connection refused")
    assert_told(command("endpoint", verb, "a", "--url", "localhost:5000"), "'localhost:5000' is not the URL")


@pytest.mark.parametrize("script", WORKFLOWS)
def test_a_workflow_without_a_service(script, closed_port, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_told(workflow(script), "No service is known here", "'parsl-globus service start'")
    url = f"http://127.0.0.1:{closed_port}"
    assert_told(workflow(script, "--url", url), f"The service at {url} can't be reached (Connection refused).")


# ---- the service can't start ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("option", "other"), [("--port", "--amqp-port"), ("--amqp-port", "--port")])
def test_a_port_in_use(option, other, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_told(command("service", "run", option, port, other, 0, "--data", tmp_path / "data"), str(port), option)


def _a_file(path: Path) -> Path:
    path.write_text("not a folder")
    return path


def _below_a_file(path: Path) -> Path:
    return _a_file(path) / "data"


def _a_text_in_the_database_s_place(path: Path) -> Path:
    path.mkdir()
    (path / "service.db").write_text("my thesis\n")
    return path


def _a_folder_in_the_database_s_place(path: Path) -> Path:
    (path / "service.db").mkdir(parents=True)
    return path


def _another_program_s_database(path: Path) -> Path:
    path.mkdir()
    connection = sqlite3.connect(path / "service.db")
    connection.execute("CREATE TABLE thesis (chapter TEXT)")
    connection.commit()
    connection.close()
    return path


@pytest.mark.parametrize(
    "make",
    [
        _a_file,
        _below_a_file,
        _a_text_in_the_database_s_place,
        _a_folder_in_the_database_s_place,
        _another_program_s_database,
        lambda _: Path("/proc/none"),
    ],
)
def test_a_data_folder_that_can_t_be_used(make, tmp_path):
    folder = make(tmp_path / "data")
    assert_told(command("service", "run", "--port", 0, "--amqp-port", 0, "--data", folder), str(folder), "--data")


# ---- endpoints --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["check", "start", "run", "stop"])
def test_an_endpoint_nobody_configured(verb, here):
    assert_told(command("endpoint", verb, "nope"), "There is no endpoint 'nope'. Known here: ")


def test_stop_of_one_that_does_not_run(here):
    result = run(command("endpoint", "stop", "stopped"))
    assert (result.returncode, result.stdout, result.stderr) == (0, "Endpoint 'stopped' was not running.\n", "")


def test_a_second_start(here):
    here.start_endpoint("twice")
    try:
        for verb in ("start", "run"):
            assert_told(command("endpoint", verb, "twice"), "runs already", "'parsl-globus endpoint stop twice'")
        assert here.run("endpoint", "list", "--json").count('"running"') == 1
    finally:
        here.stop_endpoint("twice")


def test_names_and_files_that_can_t_be(here, tmp_path):
    assert_told(command("endpoint", "configure", "../x"), "'../x' can't be the name of an endpoint")
    assert_told(command("endpoint", "configure", "fresh"), "exists already", "--force")
    for path in (tmp_path / "none.yaml", tmp_path):
        assert_told(command("endpoint", "configure", "x", "--config", path), str(path))


CONFIGS = {
    "broken": ("engine:\n  type: GlobusComputeEngine\n  provider: [\n", "broken.yaml:4"),
    "unknown-key": (
        "engine:\n  type: GlobusComputeEngine\n  max_wrokers: 3\n  provider:\n    type: LocalProvider\n",
        "unknown-key.yaml:3: engine.max_wrokers",
    ),
    "unknown-provider": (
        "engine:\n  type: GlobusComputeEngine\n  provider:\n    type: LocalProvidr\n",
        "unknown-provider.yaml:4: engine.provider.type",
    ),
    "wrong-type": (
        "heartbeat_period: often\nengine:\n  type: GlobusComputeEngine\n  provider:\n    type: LocalProvider\n",
        "wrong-type.yaml:1: heartbeat_period",
    ),
    "a-list": ("- 1\n", "a-list.yaml"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_that_can_t_be(name, here, tmp_path):
    text, where = CONFIGS[name]
    source = tmp_path / f"{name}.yaml"
    source.write_text(text)
    assert_told(command("endpoint", "configure", name, "--config", source), where)
    # As if it was edited after that.
    folder = here.home / "endpoints" / f"edited-{name}"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(text)
    try:
        where = where.replace(f"{name}.yaml", str(folder / "config.yaml"))
        assert_told(command("endpoint", "check", folder.name), where)
        assert_told(command("endpoint", "start", folder.name), where)
    finally:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


# ---- workflows --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", WORKFLOWS)
def test_an_endpoint_that_nobody_registered(script, here):
    unknown = uuid.uuid4()
    assert_told(workflow(script, ids=(unknown, unknown)), f"There is no endpoint '{unknown}'", "endpoint list")


@pytest.mark.parametrize("script", WORKFLOWS)
def test_an_endpoint_that_is_not_started(script, here):
    stopped = here.endpoint_id("stopped")
    said = f"Endpoint {stopped} is offline. Start it on its site with 'parsl-globus endpoint start NAME'."
    assert_told(workflow(script, ids=(stopped, stopped)), said)


SCRIPT = """
import sys
import parsl
from parsl_globus import GlobusComputeExecutor
from parsl_globus.errors import EndpointNotFound, EndpointOffline

@parsl.python_app
def app():
    return 1

executor = GlobusComputeExecutor(sys.argv[1], offline_timeout_s=0.5)
try:
    with parsl.load(parsl.Config(executors=[executor], strategy="none")):
        app().result()
except (EndpointNotFound, EndpointOffline) as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def test_the_executor_tells_the_same(here, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    unknown, stopped = uuid.uuid4(), here.endpoint_id("stopped")
    assert_told([sys.executable, str(script), str(unknown)], f"EndpointNotFound: There is no endpoint '{unknown}'")
    result = run([sys.executable, str(script), str(stopped)])
    assert result.returncode == 1
    warning, error = result.stderr.splitlines()
    assert "tasks will wait for 0 s" in warning
    assert error.startswith(f"EndpointOffline: Endpoint {stopped} is offline (waited ")


@pytest.mark.parametrize("script", WORKFLOWS)
def test_data_that_can_t_be_used(script, here, tmp_path):
    for folder, why in (("none", "No such file or directory"), ("file", "Not a directory")):
        (tmp_path / "file").write_text("")
        assert_told(workflow(script, "--experiments", tmp_path / folder), f"{folder} can't be read: {why}.")
    assert_told(workflow(script, "--output", tmp_path / "file" / "out"), "can't be made: Not a directory.")


@pytest.mark.parametrize("script", WORKFLOWS)
def test_a_data_file_that_is_none_is_reported_and_the_others_go_on(script, here, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for year in (1970, 1971, 1972):
        os.symlink(EXAMPLES / "experiments" / f"co2_{year}.txt", folder / f"co2_{year}.txt")
    (folder / "notes.txt").write_text("call the observatory\n")
    (folder / "photo.txt").write_bytes(b"\xff\xd8\xff")
    worker = here.start_endpoint("worker")
    try:
        result = run(workflow(script, "--experiments", folder, ids=(worker, worker)))
    finally:
        here.stop_endpoint("worker")
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    said = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert said == [
        "warning: notes.txt was left out: notes.txt line 1 is not 'date value': 'call the observatory'",
        "warning: photo.txt was left out: photo.txt is not a text file",
    ]
    assert result.stdout.splitlines()[-1].startswith("trend: ")
