"""Keys of calls: the same in another process, others for other calls."""

from __future__ import annotations

import functools
import importlib
import subprocess
import sys
import textwrap
import threading

import pytest
from parsl.app.app import bash_app, python_app
from parsl.app.python import timeout
from parsl.data_provider.files import File
from parsl.monitoring.remote import monitor_wrapper

from parsl_globus.executor.journal_keys import Keys, Unkeyable

MODULE = """
from parsl import bash_app, python_app

def helper(x):
    return x + {constant}

def decorate(number):
    def decorator(function):
        def wrapper(*args):
            return function(*args) * number
        return wrapper
    return decorator

@python_app
def plain(x, y=2):
    return helper(x) in {{"a", "b", "c", "d"}}

@decorate(2)
def decorated(x):
    return x

@bash_app
def shell(x, stdout=None, stderr=None):
    return f"echo {{x}}"
"""
CALLS = """
import {name}
from parsl_globus.executor.journal_keys import Keys

keys = Keys("endpoint")
print(keys.key({name}.plain.func, (1, "a", [1, {{"b": 2.5}}]), {{"z": None, "y": (True,)}}).hex())
print(keys.key({name}.decorated, (1,), {{}}).hex())
print(keys.key({name}.shell.wrapped_remote_function, (1,), {{"stdout": "o"}}, ignored=("stdout",)).hex())
"""


def repr_of(anything):
    return repr(anything)


@pytest.fixture
def keys():
    return Keys("endpoint")


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of the user's, with this constant in a helper function."""
    monkeypatch.syspath_prepend(str(tmp_path))
    made = []

    def make(constant=1, text=MODULE):
        name = f"journaled_module_{len(made)}"
        made.append(name)
        (tmp_path / f"{name}.py").write_text(text.format(constant=constant))
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield make
    for name in made:
        sys.modules.pop(name, None)


def in_another_process(module, tmp_path, seed):
    code = textwrap.dedent(CALLS.format(name=module.__name__))
    environment = {"PYTHONPATH": str(tmp_path), "PYTHONHASHSEED": seed, "PATH": "/usr/bin:/bin"}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return told.stdout.split()


def test_keys_are_the_same_in_other_processes(module, tmp_path):
    made = module()
    first, second = (in_another_process(made, tmp_path, seed) for seed in ("1", "2"))
    assert first == second
    assert len(set(first)) == 3
    assert Keys("endpoint").key(made.decorated, (1,), {}).hex() == first[1]


def test_other_calls_have_other_keys(keys, module):
    function = module().plain.func
    made = [
        keys.key(function, (1,), {}),
        Keys("another endpoint").key(function, (1,), {}),
        keys.key(function, (2,), {}),
        keys.key(function, (True,), {}),
        keys.key(function, (), {"x": 1}),
        keys.key(function, (), {"y": 1}),
        keys.key(function, (1,), {}, ("{}", '{"queue": "debug"}')),
        keys.key(function, (1,), {}, ignored=("stdout",)),
        keys.key(python_app(lambda x: x).func, (1,), {}),
        keys.key(timeout, (1,), {}),
    ]
    assert len(set(made)) == len(made)


def test_another_source_is_another_key(keys, module):
    texts = [MODULE, MODULE.replace("return helper(x) in", "return 1 + helper(x) in"), MODULE.replace("y=2", "y=3")]
    functions = [module(text=text).plain.func for text in texts]
    for function in functions:
        function.__wrapped__.__module__ = "journaled"
    assert len({keys.key(function, (1,), {}) for function in functions}) == 3


def test_a_helper_s_change_counts(keys, module):
    functions = [module(constant).plain.func for constant in (1, 1, 2)]
    for function in functions:
        function.__wrapped__.__module__ = "journaled"
        function.__wrapped__.__globals__["helper"].__module__ = "journaled"
    first, second, third = (keys.key(function, (1,), {}) for function in functions)
    assert first == second != third


def test_a_file_that_was_changed_meanwhile_does_not_lend_its_source(module, tmp_path):
    before, after = module(), module(text=MODULE.replace("return helper(x) in", "return 1 + helper(x) in"))
    # As if an editor had written the new text before the first key was made.
    (tmp_path / f"{before.__name__}.py").write_text((tmp_path / f"{after.__name__}.py").read_text())
    for made in (before, after):
        made.plain.func.__wrapped__.__module__ = "journaled"
    assert Keys().key(before.plain.func, (1,), {}) != Keys().key(after.plain.func, (1,), {})


def test_what_parsl_wraps_around_an_app_each_time_does_not_count(keys, module):
    function = module().plain.func
    key = keys.key(function, (1,), {"walltime": 3})
    assert keys.key(timeout(function, 3), (1,), {"walltime": 3}) == key
    wrapped, args, kwargs = monitor_wrapper(
        f=function,
        args=(1,),
        kwargs={"walltime": 3},
        x_try_id=0,
        x_task_id=5,
        radio_config=None,
        run_id="r",
        logging_level=20,
        sleep_dur=1.0,
        monitor_resources=False,
        run_dir="runinfo/001",
    )
    assert keys.key(wrapped, args, kwargs) == key


def test_files_of_streams_do_not_count(keys, module):
    shell = module().shell.wrapped_remote_function
    one = keys.key(shell, (1,), {"stdout": "runinfo/000/out"}, ignored=("stdout",))
    assert keys.key(shell, (1,), {"stdout": "runinfo/001/out"}, ignored=("stdout",)) == one
    assert keys.key(shell, (1,), {}) != one


def test_a_closure_counts(keys):
    def made(number):
        return lambda: number

    assert keys.key(made(1), (), {}) == keys.key(made(1), (), {})
    assert keys.key(made(1), (), {}) != keys.key(made(2), (), {})


def test_a_recursive_function(keys):
    def fall(number):
        return number and fall(number - 1)

    assert keys.key(fall, (1,), {}) == keys.key(fall, (1,), {})


def test_two_functions_on_one_line(keys):
    one, two = (lambda x: x + 1), (lambda x: x + 2)
    assert keys.key(one, (1,), {}) != keys.key(two, (1,), {})
    assert keys.key(textwrap.dedent, (one,), {}) != keys.key(textwrap.dedent, (two,), {})


@pytest.mark.parametrize(
    ("function", "args", "why"),
    [
        (abs, (1,), "has no source"),
        (threading.Event().is_set, (), "has no source"),
        (textwrap.dedent, (threading.Lock(),), "no id_for_memo for a lock"),
        (textwrap.dedent, ([object()],), "unknown type"),
        (textwrap.dedent, (File("a"),), "no id_for_memo for a File"),
        (functools.partial(repr_of, object()), (), "no id_for_memo for a object"),
        (eval("lambda: 1"), (), "source of '<lambda>' can't be read"),
    ],
)
def test_what_has_no_key_is_told(keys, function, args, why):
    with pytest.raises(Unkeyable, match=why):
        keys.key(function, args, {})


def test_a_function_that_holds_what_can_t_be_recognised(keys):
    lock = threading.Lock()
    with pytest.raises(Unkeyable, match="'lock' that its function holds"):
        keys.key(lambda: lock, (), {})


def test_bash_apps_have_keys(keys):
    @bash_app
    def run(command, inputs=(), outputs=(), stdout=None):
        return command

    key = keys.key(run.wrapped_remote_function, ("ls",), {"inputs": (), "outputs": [], "stdout": "o"})
    assert len(key) == 32
