"""Functions of the public SDK that come from another Python: what only that one can run is never unpickled."""

from __future__ import annotations

import math
import sys
import uuid

import pytest
from globus_compute_sdk import ShellFunction
from globus_compute_sdk.errors import TaskExecutionFailed
from globus_compute_sdk.serialize import (
    AllCodeStrategies,
    CombinedCode,
    ComputeSerializer,
    DillCode,
    DillCodeSource,
    DillCodeTextInspect,
    PureSourceDill,
    PureSourceTextInspect,
)

from parsl_globus.endpoint.engine import EngineTask, WorkerSettings
from parsl_globus.errors import VersionMismatch
from parsl_globus.wire.codec import pack, unpack
from parsl_globus.wire.fused import pack_bodies, split_results
from parsl_globus.wire.messages import Result, Task
from parsl_globus.worker import versions
from parsl_globus.worker.run import run_task
from parsl_globus.worker.run_fused import run_fused

HERE = "{}.{}".format(*sys.version_info)
OTHER = "3.9"


class Bomb:
    """Unpickling it is seen, as is everything else of its pickle."""

    went_off = 0

    def __reduce__(self):
        return _go_off, ()


def _go_off():
    Bomb.went_off += 1


@pytest.fixture(autouse=True)
def _come_back(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def twice(x):
    return 2 * x


def buffers_of(strategy, function, *args):
    serializer = ComputeSerializer(strategy_code=strategy())
    return [serializer.serialize(part) for part in (function, args, {})]


def run(buffers, tmp_path, sender_python, **options) -> Result:
    task_id = uuid.uuid4()
    body = pack(Task(task_id=task_id, task_buffer=ComputeSerializer.pack_buffers(buffers)))
    options = {"run_dir": str(tmp_path), "sender_python": sender_python, **options}
    return unpack(run_task(body, str(task_id), "an-endpoint", **options), Result)


def value(result):
    assert result.error_details is None, result.data
    return ComputeSerializer().deserialize(result.data)


def by_value():
    """A function that dill finds in no module, so that its code is in its pickle."""
    bomb = Bomb()
    return lambda x: (bomb, 2 * x)[1]


@pytest.mark.parametrize("strategy", [DillCode, AllCodeStrategies, CombinedCode])
def test_bytecode_of_another_python_is_told_and_never_unpickled(strategy, tmp_path, monkeypatch):
    monkeypatch.setattr(Bomb, "went_off", 0)
    exec("made = lambda x: (bomb, 2 * x)[1]", space := {"__name__": "nowhere", "bomb": Bomb()})
    result = run(buffers_of(strategy, space["made"], 21), tmp_path, OTHER)
    assert Bomb.went_off == 0
    assert result.error_details.code == "VersionMismatch"
    words = str(VersionMismatch(sender={"python": OTHER}, worker={"python": HERE})).partition(".")[0]
    assert f"This workflow runs with python {OTHER}, but the worker with python {HERE}" in result.data
    assert words in result.error_details.user_message
    assert "Traceback" not in result.data
    assert words in str(TaskExecutionFailed(result.data))
    assert value(run(buffers_of(strategy, space["made"], 21), tmp_path, HERE)) == 42
    assert Bomb.went_off == 1


@pytest.mark.parametrize("sender", [HERE, None], ids=["the same", "unknown"])
def test_bytecode_of_this_python_runs(sender, tmp_path):
    assert value(run(buffers_of(DillCode, by_value(), 21), tmp_path, sender)) == 42


@pytest.mark.parametrize(
    "strategy",
    [DillCodeSource, DillCodeTextInspect, PureSourceDill, PureSourceTextInspect, CombinedCode, AllCodeStrategies],
)
def test_source_of_another_python_runs(strategy, tmp_path):
    assert value(run(buffers_of(strategy, twice, 21), tmp_path, OTHER)) == 42


@pytest.mark.parametrize("strategy", [CombinedCode, AllCodeStrategies])
def test_of_source_and_bytecode_together_the_bytecode_is_left_out(strategy):
    function = by_value()
    serializer = ComputeSerializer(strategy_code=strategy())
    bytecode = DillCode().serialize(function).removeprefix(DillCode.identifier)
    both = serializer.serialize(function)
    rest = versions.usable(both, OTHER)
    assert bytecode in both
    assert bytecode not in rest
    assert rest.startswith(strategy.identifier)
    whole = serializer.serialize(math.sqrt)
    assert versions.usable(whole, OTHER) is whole


def test_source_that_can_t_be_used_beside_bytecode_of_another_python_is_told(tmp_path):
    """The source of a lambda has no name to be found by."""
    buffers = buffers_of(AllCodeStrategies, by_value(), 21)
    assert value(run(buffers, tmp_path, HERE)) == 42
    result = run(buffers, tmp_path, OTHER)
    assert result.error_details.code == "VersionMismatch"
    assert f"runs with python {OTHER}, but the worker with python {HERE}" in result.data
    assert "PureSourceTextInspect" in result.data


def test_what_is_pickled_by_its_name_runs(tmp_path):
    assert value(run(buffers_of(DillCode, math.sqrt, 1764), tmp_path, OTHER)) == 42
    assert value(run(buffers_of(DillCode, ShellFunction("exit 3")), tmp_path, OTHER)).returncode == 3


def test_a_buffer_that_is_no_function_fails_as_ever(tmp_path):
    for bad in ("01\nno base64!", "12\nnonsense", "10\n", "10\n01", "zz\n", ""):
        result = run([bad, "11\n[]", "11\n{}"], tmp_path, OTHER)
        assert result.error_details is not None
        assert result.error_details.code != "VersionMismatch"


def test_short_tasks_that_share_a_trip_are_told_apart(tmp_path):
    settings = WorkerSettings(endpoint_id="an-endpoint", run_dir=str(tmp_path))
    buffer = ComputeSerializer.pack_buffers(buffers_of(DillCode, by_value(), 21))
    ids = [uuid.uuid4() for _ in range(3)]
    pythons = [None, OTHER, HERE]
    tasks = [
        EngineTask(task_id, pack(Task(task_id=task_id, task_buffer=buffer)), sender_python=python)
        for task_id, python in zip(ids, pythons, strict=True)
    ]
    packed = run_fused(
        pack_bodies([task.body for task in tasks]),
        [settings.call(task) for task in tasks],
        run_task="parsl_globus.worker.run.run_task",
        results=str(tmp_path / "results"),
        limit_s=60.0,
    )
    results = [unpack(one.body, Result) for one in split_results(packed)]
    codes = [result.error_details and result.error_details.code for result in results]
    assert codes == [None, "VersionMismatch", None]
