"""A configuration for Parsl's own class, with only the import line changed."""

from __future__ import annotations

import subprocess
import sys

import parsl
import pytest
from globus_compute_sdk import Executor
from globus_compute_sdk.serialize import (
    AllCodeStrategies,
    AllDataStrategies,
    CombinedCode,
    ComputeSerializer,
    DillDataBase64,
    JSONData,
    PureSourceDill,
)
from parsl import Config, python_app

from parsl_globus import GlobusComputeExecutor
from parsl_globus.testing.site import LOCAL_ENDPOINT, LocalSite

DEADLINE_S = 120.0

#: This one takes functions as source and arguments as JSON only.
STRICT = "  allowed_serializers: [globus_compute_sdk.serialize.PureSourceDill, globus_compute_sdk.serialize.JSONData]\n"


#: A program of its own, as the SDK's thread for results stays for as long as the program.
SCRIPT = """
import sys
import parsl
from globus_compute_sdk import Executor
from globus_compute_sdk.serialize import AllCodeStrategies, ComputeSerializer
from parsl import Config, join_app, python_app
from parsl_globus import GlobusComputeExecutor, connect

lent = Executor(endpoint_id=sys.argv[1], client=connect(), serializer=ComputeSerializer(AllCodeStrategies()))

@python_app
def triple(x):
    return 3 * x

@join_app
def both(x):
    return [triple(x), lent.submit(pow, x, 2)]

with parsl.load(Config(executors=[GlobusComputeExecutor(label="lent", executor=lent)])):
    here = both(4).result(60)
print(here, lent.submit(pow, 2, 3).result(60), lent.task_count_submitted)  # it outlives Parsl
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with LocalSite(tmp_path_factory.mktemp("dropin") / "home") as site:
        site.start_service()
        for name, more in (("open", ""), ("strict", STRICT)):
            before, provider, after = LOCAL_ENDPOINT.format(name=name, workers=1).partition("  provider:\n")
            site.start_endpoint(name, before + more + provider + after)
        yield site
    assert site.processes() == []


@pytest.fixture
def lend(site):
    lent = []

    def lend_one(name="open", **settings):
        lent.append(Executor(endpoint_id=site.endpoint_id(name), client=site.client(), **settings))
        return lent[-1]

    yield lend_one
    for executor in lent:
        executor.shutdown()


@pytest.fixture
def load(tmp_path):
    def load_one(executor):
        ours = GlobusComputeExecutor(label="lent", executor=executor)
        return parsl.load(Config(executors=[ours], run_dir=str(tmp_path / "runinfo"), initialize_logging=False))

    return load_one


@python_app
def triple(x):
    return {"tripled": 3 * x, "set": {x}}


@python_app
def fail():
    raise LookupError("on purpose")


SERIALIZERS = {
    "defaults": ("open", None, None),
    "combined": ("open", ComputeSerializer(strategy_code=CombinedCode()), [DillDataBase64]),
    "all": ("open", ComputeSerializer(AllCodeStrategies(), AllDataStrategies()), [AllDataStrategies, JSONData]),
    # This endpoint refuses the runner as it is sent by default.
    "strict": ("strict", ComputeSerializer(PureSourceDill(), JSONData()), [JSONData]),
}


@pytest.mark.parametrize("which", SERIALIZERS)
def test_tasks_travel_by_the_lent_serializers(lend, load, which):
    name, serializer, results = SERIALIZERS[which]
    lent = lend(name, serializer=serializer, result_serializers=results)
    with load(lent):
        futures = [triple(x) for x in range(5)]
        assert [f.result(DEADLINE_S) for f in futures] == [{"tripled": 3 * x, "set": {x}} for x in range(5)]
        with pytest.raises(LookupError, match="on purpose"):
            fail().result(DEADLINE_S)
    assert lent.task_count_submitted == 0


def test_an_endpoint_that_takes_other_serializers_only_says_so(site, lend, load):
    with load(lend("strict")):
        error = triple(1).exception(DEADLINE_S)
    assert "PureSourceTextInspect disabled by current configuration" in str(error).replace("\n", " ")


def test_a_join_app_goes_on_using_the_lent_executor(site, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py", str(site.endpoint_id("open"))],
        env=site.environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert (done.returncode, done.stdout) == (0, "[12, 16] 8 2\n"), done.stderr
