"""Parsl's own features with our executor, each configured as its documentation says, on a real endpoint."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import nbformat
import parsl
import pytest
from error_examples import EXAMPLES
from parsl import Config, python_app
from parsl.dataflow.memoization import BasicMemoizer
from parsl.usage_tracking.usage import UsageTracker
from parsl.utils import get_all_checkpoints

from parsl_globus import GlobusComputeExecutor
from parsl_globus.errors import InvalidResourceSpecification, NotSerializable, ParslGlobusError, ResultTooLarge
from parsl_globus.testing.site import LocalSite
from parsl_globus.version import __version__

DEADLINE_S = 120.0


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with LocalSite(tmp_path_factory.mktemp("features") / "home") as site:
        site.start_service()
        site.start_endpoint("features")
        yield site
    assert site.processes() == []


@pytest.fixture
def executor(site):
    def make(label="globus", **settings):
        return GlobusComputeExecutor(site.endpoint_id("features"), label=label, client=site.client(), **settings)

    return make


@pytest.fixture
def load(tmp_path):
    def load_one(*executors, **settings):
        run_dir = str(tmp_path / "runinfo")
        return parsl.load(Config(executors=list(executors), run_dir=run_dir, initialize_logging=False, **settings))

    return load_one


def count_a_run(folder):
    """What an app here does so that its runs can be counted: each leaves a file."""
    import os
    import uuid

    open(os.path.join(folder, uuid.uuid4().hex), "w").close()
    return len(os.listdir(folder))


@python_app(cache=True)
def counted(folder, _other):
    return count_a_run(folder)


@python_app(cache=True, ignore_for_cache=["_other"])
def counted_but_for_one(folder, _other):
    return count_a_run(folder)


@python_app
def fails_until(folder, enough):
    runs = count_a_run(folder)
    if runs < enough:
        raise ConnectionError(f"run {runs}")
    return runs


@python_app
def away_until(folder, enough):
    from parsl_globus.errors import ServiceUnreachable

    runs = count_a_run(folder)
    if runs < enough:
        raise ServiceUnreachable(url="https://data.example", detail=f"run {runs}")
    return runs


@python_app
def fail_with(error):
    raise error


@python_app
def too_much():
    return b"x" * 11 * 2**20


@python_app
def add(x, y, parsl_resource_specification=None):
    return x + y


@python_app(executors=["first"])
def on_first():
    return "first"


@python_app(executors=["second"])
def on_second(before):
    return before, "second"


def runs_in(folder):
    return len(list(folder.iterdir()))


@pytest.fixture
def runs(tmp_path):
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


def test_memoization(executor, load, runs):
    with load(executor()):
        assert counted(str(runs), 1).result(DEADLINE_S) == 1
        assert counted(str(runs), 1).result(DEADLINE_S) == 1
        assert counted(str(runs), 2).result(DEADLINE_S) == 2
        assert counted_but_for_one(str(runs), _other=1).result(DEADLINE_S) == 3
        assert counted_but_for_one(str(runs), _other=2).result(DEADLINE_S) == 3
    assert runs_in(runs) == 3


@pytest.mark.parametrize("mode", ["task_exit", "dfk_exit"])
def test_a_workflow_goes_on_from_its_checkpoint(executor, load, runs, tmp_path, mode):
    with load(executor(), memoizer=BasicMemoizer(checkpoint_mode=mode)):
        assert [counted(str(runs), n).result(DEADLINE_S) for n in range(3)] == [1, 2, 3]
    found = get_all_checkpoints(str(tmp_path / "runinfo"))
    with load(executor(), memoizer=BasicMemoizer(checkpoint_files=found)):
        assert [counted(str(runs), n).result(DEADLINE_S) for n in range(4)] == [1, 2, 3, 4]
    assert runs_in(runs) == 4


def test_retries(executor, load, runs):
    with load(executor(), retries=2):
        assert fails_until(str(runs), 3).result(DEADLINE_S) == 3
        with pytest.raises(ConnectionError, match="run 6"):
            fails_until(str(runs), 100).result(DEADLINE_S)


def test_a_retry_handler_branches_on_the_errors_types_and_fields(executor, load, runs):
    seen = []

    def cost(error, _record):
        seen.append(error)
        return 1 if isinstance(error, ConnectionError) or getattr(error, "transient", False) else 100

    with load(executor(), retries=5, retry_handler=cost):
        assert fails_until(str(runs), 2).result(DEADLINE_S) == 2
        large = too_much()
        here = add(1, (n for n in "no generator travels"))
        assert isinstance(large.exception(DEADLINE_S), ResultTooLarge)
        assert isinstance(here.exception(DEADLINE_S), NotSerializable)
    assert sorted(type(error).__name__ for error in seen) == ["ConnectionError", "NotSerializable", "ResultTooLarge"]
    assert all(error.task_id for error in seen if isinstance(error, ResultTooLarge))
    assert not any(error.transient for error in seen if isinstance(error, ParslGlobusError))


def test_a_retry_handler_gets_each_error_with_its_fields(executor, load):
    """Raised where the app runs, so that each has been pickled twice when it is here."""
    seen = []

    def cost(error, _record):
        seen.append(error)
        return 100

    with load(executor(), retries=1, retry_handler=cost):
        for future in [fail_with(error) for error in EXAMPLES]:
            future.exception(DEADLINE_S)
    assert len(seen) == len(EXAMPLES)
    by_type = {type(error): error for error in seen}
    for error in EXAMPLES:
        told = by_type[type(error)]
        assert (told.fields, told.transient, str(told)) == (error.fields, error.transient, str(error))
        assert all(getattr(told, name) == value for name, value in error.fields.items())


def test_the_retry_handler_of_the_documentation(executor, load, runs):
    page = (Path(__file__).parents[2] / "docs" / "troubleshooting.rst").read_text()
    (block,) = re.findall(r"^\.\. code-block:: python\n\n((?:(?:   .*)?\n)+)", page, re.MULTILINE)
    space: dict = {}
    exec(textwrap.dedent(block), space)
    with load(executor(), retries=5, retry_handler=space["retry_handler"]):
        assert away_until(str(runs), 3).result(DEADLINE_S) == 3
        with pytest.raises(ConnectionError, match="run 4"):  # the app's own
            fails_until(str(runs), 100).result(DEADLINE_S)


def test_each_task_has_its_own_resource_specification(executor, load):
    with load(executor(resource_specification={"priority": 3})):
        good = [add(1, 1), add(1, 2, parsl_resource_specification={"priority": 7})]
        bad = add(1, 3, parsl_resource_specification={"num_nodes": 2})
        assert [future.result(DEADLINE_S) for future in good] == [2, 3]
        assert isinstance(bad.exception(DEADLINE_S), InvalidResourceSpecification)


def test_several_executors_of_ours_in_one_configuration(executor, load):
    with load(executor("first"), executor("second", max_batch=1)):
        assert on_second(on_first()).result(DEADLINE_S) == ("first", "second")


def test_usage_tracking_tells_our_version_and_nothing_of_the_user(executor, load):
    """Parsl's own messages, of which none is sent from here."""
    with load(executor()) as dfk:
        assert add(2, 3).result(DEADLINE_S) == 5
        asked = SimpleNamespace(usage_tracking=3, project_name=None)
        known = SimpleNamespace(
            config=asked, _config=dfk.config, task_count=dfk.task_count, task_state_counts=dfk.task_state_counts
        )
        tracker = UsageTracker(known)
        messages = [tracker.construct_start_message(), tracker.construct_end_message()]
    for message in messages:
        told = json.loads(message[1:])["components"]
        ours = [part for part in told if isinstance(part, dict) and part["c"].startswith("parsl_globus")]
        assert ours == [{"c": "parsl_globus.executor.executor.GlobusComputeExecutor", "version": __version__}]


NOTEBOOK = """
import parsl
from parsl import Config, bash_app, python_app
from parsl_globus import GlobusComputeExecutor
dfk = parsl.load(Config(executors=[GlobusComputeExecutor("{endpoint_id}")]))
---
FACTOR = 3
class Point:
    def __init__(self, x):
        self.x = x
class MyError(Exception):
    pass
def scaled(point):
    return Point(point.x * FACTOR)
@python_app
def scale(point):
    if point.x < 0:
        raise MyError(point.x)
    return scaled(point)
@bash_app
def tell(text, stdout=None):
    return f"echo {{text}}"
---
assert isinstance(scale(Point(2)).result(), Point)
print(scale(Point(2)).result().x)
---
FACTOR = 5
@python_app
def scale(point):
    return scaled(point)
print(scale(Point(2)).result().x)
---
try:
    dfk.cleanup()
finally:
    parsl.clear()
"""


def test_apps_of_a_notebook(site, tmp_path):
    cells = NOTEBOOK.format(endpoint_id=site.endpoint_id("features")).split("---\n")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in cells])
    path = tmp_path / "notebook.ipynb"
    nbformat.write(notebook, path)
    done = subprocess.run(
        [sys.executable, "-c", "from nbclient.cli import main; main()", "--inplace", "--timeout=100", str(path)],
        env={**site.environment, "HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stderr
    said = [output.get("text", "") for cell in nbformat.read(path, 4).cells for output in cell.get("outputs", [])]
    assert said == ["6\n", "10\n"]
