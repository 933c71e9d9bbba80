"""The runner as it runs on a stock worker: from its text, in a fresh namespace, with nothing of this package."""

from __future__ import annotations

import ast
import base64
import json
import pickle
import subprocess
import sys
from pathlib import Path

import dill
import pytest
from parsl.app.errors import wrap_error

import parsl_globus.worker
from parsl_globus.executor import by_value
from parsl_globus.executor.functions import Encoder, runner_registration
from parsl_globus.wire import payload

SOURCE = Path(parsl_globus.worker.__file__).with_name("runner.py").read_text()


def run(function, *args, header=None, **kwargs):
    """Encode as the executor does, run as a stock worker does, decode the record."""
    args_buffer = payload.split_buffers(str(Encoder().encode(function, args, kwargs)), limit=2)[0]
    texts = payload.unpack_runner_call(args_buffer)
    if header is not None:
        texts[0] = json.dumps({**json.loads(texts[0]), **header})
    namespace: dict = {}
    exec(SOURCE, namespace)
    record = namespace[payload.RUNNER_NAME](*texts)
    assert json.loads(json.dumps(record)) == record
    return record


def value_of(record):
    assert record["kind"] == "value", record
    return dill.loads(base64.b64decode(record["data"]))


def registered():
    (buffer,) = payload.split_buffers(payload.pack_runner_code(SOURCE), limit=1)
    start = f"{payload.SOURCE_STRATEGY}{payload.RUNNER_NAME}:"
    assert buffer.startswith(start)
    return buffer.removeprefix(start)


def test_is_small_and_stands_alone():
    """Its text is in every task message of a stock agent."""
    assert len(registered().encode()) < 2560
    assert "parsl_globus." not in SOURCE


def test_is_the_same_without_what_is_for_people():
    tree = ast.parse(SOURCE)
    (function,) = tree.body
    assert isinstance(function, ast.FunctionDef)
    assert ast.get_docstring(function)
    del function.body[0]
    assert ast.dump(ast.parse(registered())) == ast.dump(tree)
    assert not any(text in registered() for text in ("\n\n", "# "))


def test_registration_is_what_the_public_sdk_takes():
    registration = runner_registration()
    assert registration.serialized
    assert registration.function_code == payload.pack_buffers([f"st\n{payload.RUNNER_NAME}:{registered()}"])


def test_a_value_comes_back():
    assert value_of(run(lambda x, y=1: (x, y), 5, y={"a": [1, 2]})) == (5, {"a": [1, 2]})


def test_an_exception_comes_back_as_itself():
    def fail():
        raise KeyError("missing")

    record = run(fail)
    assert record["kind"] == "raised"
    error = dill.loads(base64.b64decode(record["data"]))
    assert isinstance(error, KeyError)
    assert error.args == ("missing",)
    assert "in fail" in record["text"]


def test_what_a_parsl_app_raised_is_told_as_text_beside_the_value():
    def fail():
        raise KeyError("missing")

    record = run(wrap_error(fail))
    with pytest.raises(KeyError, match="missing"):
        value_of(record).reraise()
    assert "in fail" in record["raised"]
    assert record["raised"].endswith("KeyError: 'missing'\n")
    assert list(record) == ["kind", "raised", "data"]


def test_an_exception_that_can_t_be_pickled_comes_as_text():
    def fail():
        error = RuntimeError("with a generator")
        error.generator = (i for i in [1])
        raise error

    record = run(fail)
    assert record["data"] is None
    assert "with a generator" in record["text"]


def test_system_exit_ends_the_task_only():
    assert run(sys.exit, 3)["kind"] == "raised"


def test_a_result_that_can_t_be_pickled_is_told():
    record = run(lambda: (i for i in [1]))
    assert (record["kind"], record["what"]) == ("broken", "the result")


def test_another_python_is_told_before_anything_is_unpickled():
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    record = run(print, Bomb(), header={"python": "2.7"})
    assert record["kind"] == "mismatch"
    assert record["worker"]["python"] == f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert record["worker"]["parsl"] != "unknown"


def test_what_can_t_be_unpickled_is_told():
    class Missing:
        def __reduce__(self):
            return (pickle.loads, (b"cno_such_module\nthing\n.",))

    record = run(print, Missing())
    assert (record["kind"], record["what"]) == ("broken", "an argument")
    assert "no_such_module" in record["text"]


def test_functions_are_unpickled_once():
    def count(step):
        count.calls = getattr(count, "calls", 0) + step
        return count.calls

    header = {"function": "test_functions_are_unpickled_once"}
    assert value_of(run(count, 1, header=header)) == 1
    assert value_of(run(count, 10, header=header)) == 11


def test_the_cache_is_bounded():
    for i in range(80):
        run(abs, -1, header={"function": f"bounded-{i}"})
    known = sys.modules["_parsl_globus_functions"].calls
    assert len(known) == 64
    assert "bounded-0" not in known
    assert "bounded-79" in known


def test_what_the_script_defines_travels_by_value(tmp_path, monkeypatch):
    """Both ways: in arguments and in results, between two different `__main__` modules."""
    script = tmp_path / "script.py"
    script.write_text(
        "class Point:\n"
        "    def __init__(self, x): self.x = x\n"
        "import parsl\n"
        "FACTOR = 2\n"
        "def double(point): return Point(point.x * FACTOR)\n"
        "double = parsl.python_app(double).func\n"
        "from parsl_globus.executor.functions import Encoder\n"
        "print(Encoder().encode(double, (Point(21),), {}), end='')\n"
    )
    call = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True).stdout
    header, function, arguments = payload.unpack_runner_call(payload.split_buffers(call, limit=2)[0])
    worker = f"import sys, json\nexec({SOURCE!r})\nprint(json.dumps(parsl_globus_runner(*json.load(sys.stdin))))\n"
    done = subprocess.run(
        [sys.executable, "-c", worker],
        input=json.dumps([header, function, arguments]),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    # This process has not sent it, so it goes by the class's name.
    here = type("Point", (), {})
    monkeypatch.setattr(sys.modules["__main__"], "Point", here, raising=False)
    point = by_value.loads(base64.b64decode(json.loads(done.stdout)["data"]))
    assert type(point) is here
    assert point.x == 42
