"""A workflow whose endpoint's workers have another Python: what can be sent as source works, the rest says why."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import subprocess
import sys
from pathlib import Path

import all_at_once
import parsl
import pytest
import servers
from other_python import make_environment, other_python
from parsl import Config, bash_app, join_app, python_app
from parsl.app.errors import AppTimeout

from parsl_globus import GlobusComputeExecutor
from parsl_globus.errors import NotSerializable, VersionMismatch
from parsl_globus.testing.site import LOCAL_ENDPOINT, LocalSite

DEADLINE_S = 120
FACTOR = 7


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    python, missing = other_python()
    servers.require(missing)
    programs = make_environment(python, tmp_path_factory.mktemp("other") / "python")
    with LocalSite(tmp_path_factory.mktemp("site")) as site:
        site.start_service()
        config = LOCAL_ENDPOINT.format(name="other", workers=2).replace(
            "    type: LocalProvider\n", f"    type: LocalProvider\n    worker_init: export PATH={programs}:$PATH\n"
        )
        site.start_endpoint("other", config)
        yield site


@pytest.fixture
def executor(site):
    return GlobusComputeExecutor(site.endpoint_id("other"), label="other", client=site.client())


@pytest.fixture
def workflow(executor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with parsl.load(Config(executors=[executor], run_dir=str(tmp_path / "runinfo"), initialize_logging=False)):
        yield


@dataclasses.dataclass
class Point:
    x: int
    y: int = 2

    def scaled(self):
        return Point(self.x * FACTOR, self.y * FACTOR)


class OurError(Exception):
    pass


def helper(point):
    return point.scaled() if math.isfinite(point.x) else None


@python_app
def python_there():
    return sys.version_info[:2]


@python_app
def scaled(point, key=lambda point: point.x):
    return helper(point), key(point)


@python_app
def failing():
    raise OurError("on purpose")


@python_app
def too_slow(walltime=1):
    import time

    for _ in range(600):  # it ends between two of them
        time.sleep(0.05)


@bash_app
def told(what, stdout=None):
    return f"echo {what} {FACTOR}"


@join_app
def both(number):
    return [python_there(), scaled(Point(number))]


def of_no_source():
    space: dict = {"__name__": __name__}
    exec("def made():\n    return 1\n", space)
    return python_app(space["made"])


@python_app
def makes_a_function():
    return lambda: 1


def test_apps_run_as_source(workflow, caplog):
    caplog.set_level(logging.INFO, "parsl_globus")
    first = [python_there() for _ in range(20)]
    versions = {future.result(DEADLINE_S) for future in first}
    assert len(versions) == 1
    assert versions != {sys.version_info[:2]}
    notes = [record.getMessage() for record in caplog.records if "go to them as source" in record.getMessage()]
    there, here = (".".join(map(str, version)) for version in (*versions, sys.version_info[:2]))
    assert notes == [
        f"other: workers have Python {there}, and this is {here}; functions go to them as source from now on"
    ]
    assert scaled(Point(3)).result(DEADLINE_S) == (Point(21, 14), 3)
    assert both(4).result(DEADLINE_S) == [*versions, (Point(28, 14), 4)]
    assert told("heard", stdout=os.path.abspath("out.txt")).result(DEADLINE_S) == 0
    assert Path("out.txt").read_text() == "heard 7\n"
    with pytest.raises(OurError, match="on purpose"):
        failing().result(DEADLINE_S)
    with pytest.raises(AppTimeout):
        too_slow().result(DEADLINE_S)


@pytest.mark.parametrize("known", [False, True], ids=["first task", "later task"])
def test_what_has_no_source_is_told_with_both_versions(workflow, known):
    if known:
        python_there().result(DEADLINE_S)
    futures = [python_there(), of_no_source()(), python_there()]
    with pytest.raises(VersionMismatch, match="'made', line 1 of <string>, has no source that can be read") as caught:
        futures[1].result(DEADLINE_S)
    assert caught.value.sender["python"] == "{}.{}".format(*sys.version_info)
    assert caught.value.worker["python"] == "{}.{}".format(*futures[0].result(DEADLINE_S))
    assert futures[2].result(DEADLINE_S)


def test_a_function_that_was_made_there_does_not_come_home(workflow):
    with pytest.raises(VersionMismatch, match="in the result, there is a function in it that was made on the worker"):
        makes_a_function().result(DEADLINE_S)


def test_an_argument_that_can_t_be_pickled_is_still_named(workflow):
    python_there().result(DEADLINE_S)
    with pytest.raises(NotSerializable, match="Argument 0"):
        scaled(number for number in [1]).result(DEADLINE_S)


def test_arguments_that_were_changed_meanwhile_are_not_sent(executor):
    executor.start()
    try:
        values = [1, 2]
        changed = executor.submit(len, {}, values)
        values.append(3)
        with pytest.raises(VersionMismatch, match="don't pickle as they did"):
            changed.result(DEADLINE_S)
    finally:
        executor.shutdown()


def test_values_by_reference_a_journal_and_monitoring_at_once(site, tmp_path):
    all_at_once.check(site.client(), site.endpoint_id("other"), tmp_path)


#: The public SDK in a process of its own: it keeps threads, which go on looking for their service.
PUBLIC = """\
import json, math, sys, warnings
import parsl_globus
from globus_compute_sdk import Executor
from globus_compute_sdk.errors import TaskExecutionFailed
from globus_compute_sdk.serialize import AllCodeStrategies, ComputeSerializer, DillCode

def version_there():
    import sys
    return "{}.{}".format(*sys.version_info)

def executor(strategy):
    serializer = ComputeSerializer(strategy_code=strategy())
    return Executor(sys.argv[1], client=parsl_globus.connect(), serializer=serializer, api_burst_limit=1)

warnings.simplefilter("ignore")  # in the SDK's words it is told, too
with executor(DillCode) as code, executor(AllCodeStrategies) as both:
    there = both.submit(version_there)
    failures = []
    for count in (10, 50):  # by the second time it is known to be short, so that many share a trip
        futures = [code.submit(version_there) for _ in range(count)]
        failures += [future.exception(100) for future in futures]
    assert all(isinstance(failure, TaskExecutionFailed) for failure in failures), failures
    by_name = code.submit(math.sqrt, 9).result(100)
    found = {"there": there.result(100), "by name": by_name, "told": [*map(str, failures)]}
print(json.dumps({**found, "here": version_there()}))
"""


def test_callers_of_the_public_sdk_are_told_both_versions(site, tmp_path):
    script = tmp_path / "public.py"
    script.write_text(PUBLIC)
    done = subprocess.run(
        [sys.executable, script, str(site.endpoint_id("other"))],
        env=site.environment,
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    there = found["there"]
    assert there != found["here"]
    assert found["by name"] == 3
    assert len(found["told"]) == 60
    words = f"This workflow runs with python {found['here']}, but the worker with python {there}."
    assert [text for text in found["told"] if words not in text] == []
