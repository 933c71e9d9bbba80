"""Everything that travels by value travels to a worker of another Python as well, as source; what can't says why."""

from __future__ import annotations

import base64
import dataclasses
import linecache
import os
import pathlib
import subprocess
import sys
import time
import types
import typing

import dill
import pytest
import servers
import test_by_value as zoo
from other_python import other_python

from parsl_globus.executor import by_value, source_code
from parsl_globus.executor.source_code import NoSource, NotForThisPython


def call_with(worker, function, *args):
    arguments = by_value.dumps_quickly(args) or by_value.dumps(args, as_source=True)
    texts = (base64.b64encode(data).decode() for data in (by_value.dumps(function, as_source=True), arguments))
    worker.stdin.write(" ".join(texts) + "\n")
    worker.stdin.flush()
    line = worker.stdout.readline()
    assert not line.startswith("failed"), line
    return by_value.loads(base64.b64decode(line), foreign=True)


@pytest.fixture(scope="module")
def call(tmp_path_factory):
    """Call a function in a process of another Python, which has nothing but dill."""
    python, missing = other_python()
    servers.require(missing)
    folder = tmp_path_factory.mktemp("worker")
    (folder / "dill").symlink_to(pathlib.Path(dill.__file__).parent)
    with subprocess.Popen(
        [python, "-c", zoo.WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
    ) as worker:
        yield lambda function, *args: call_with(worker, function, *args)
        worker.stdin.close()


P = typing.ParamSpec("P")


def decorated(function):
    def wrapper(*args):
        return "decorated", function(*args)

    return wrapper


@decorated
def with_decorator(x):
    return zoo.helper(x)


def with_defaults(x, y=lambda: 3, *, key=lambda x: x + 1):
    """Its documentation.

    Indented.
    """
    return x + y() + key(x), with_defaults.__doc__


class Mangled:
    __secret = 5

    def peek(self):
        return [(lambda: self.__secret)() for _ in range(2)]


class Child(Mangled):
    def peek(self):
        return super().peek()[0]


def counter():
    count = 0

    def step():
        nonlocal count
        count += 1
        return count

    return step


@dataclasses.dataclass(frozen=True, order=True)
class Frozen:
    x: int
    cache: typing.ClassVar[dict] = {}
    seed: dataclasses.InitVar[int] = 4
    y: list = dataclasses.field(default_factory=list, compare=False, repr=False)

    def __post_init__(self, seed):
        object.__setattr__(self, "x", self.x + seed)


@dataclasses.dataclass(slots=True)
class Slotted:
    a: int
    b: int = 2

    def __repr__(self):
        return f"<{self.a}, {self.b}>"


def frozen_there():
    made = Frozen(1)
    try:
        made.x = 3  # type: ignore[misc]
    except dataclasses.FrozenInstanceError:
        return repr(made), made < Frozen(2), hash(made) == hash(Frozen(1)), made
    return None


def annotated(numbers):
    return len(numbers)


annotated.__annotations__ = {"args": P.args, "kwargs": P.kwargs}  # as Parsl's own wrappers have it


def generator():
    yield from (x for x in range(3))


async def coroutine():
    return 4


def run_coroutine():
    try:
        coroutine().send(None)
    except StopIteration as stop:
        return stop.value


TWO = [lambda: 1, lambda: 2]  # in one line
CONSTANTS = lambda: (0.0, -0.0, 1, True, b"x", None, ..., {1, 2} == {2, 1}, "é")  # noqa: E731


@pytest.mark.parametrize(
    ("function", "args", "value"),
    [
        *((function, (), value) for function, value in zoo.THERE_AND_BACK[:-1]),
        (with_decorator, (1,), ("decorated", 3)),
        (with_defaults, (1,), (6, with_defaults.__doc__)),
        (lambda: Mangled().peek(), (), [5, 5]),
        (lambda: Child().peek(), (), 5),
        (lambda: list(generator()), (), [0, 1, 2]),
        (run_coroutine, (), 4),
        (annotated, ([1],), 1),
        (TWO[0], (), 1),
        (TWO[1], (), 2),
        (counter(), (), 1),
        (CONSTANTS, (), CONSTANTS()),
        (frozen_there, (), ("Frozen(x=5)", True, True, Frozen(1))),
        (lambda: (repr(Slotted(1)), Slotted(1, 3) == Slotted(1, 3)), (), ("<1, 2>", True)),
        (lambda callback: callback(4), (zoo.helper,), 12),
        (lambda path: (path.name, path), (pathlib.Path("/a/b"),), ("b", pathlib.Path("/a/b"))),
    ],
)
def test_what_a_function_is_made_of_comes_along(call, function, args, value):
    assert call(function, *args) == value


def test_the_other_python_is_another_one(call):
    assert call(lambda: sys.version_info[:2]) != sys.version_info[:2]


@pytest.mark.parametrize("value", [zoo.Point(1), zoo.Color.RED, zoo.Named(1), zoo.MyError, Frozen(1), Slotted(1)])
def test_what_comes_home_is_of_the_class_from_here(call, value):
    there_and_back = call(lambda x: x, value)
    assert there_and_back == value
    assert type(there_and_back) is type(value)


def test_an_exception_raised_there_is_of_the_class_from_here(call):
    def fail():
        raise zoo.SubError(7)

    error = call(fail)
    assert type(error) is zoo.SubError
    assert error.doubled() == 42


def test_a_class_that_comes_twice_is_made_once(call):
    call(lambda: Frozen(1))
    assert call(lambda made: isinstance(made, Frozen), Frozen(1))


def test_a_function_made_there_does_not_come_home(call):
    with pytest.raises(NotForThisPython, match="made on the worker"):
        call(lambda: lambda: 1)


def test_tracebacks_name_the_line(call):
    def fail():
        return 1 / 0

    def line_of(function):
        try:
            function()
        except ZeroDivisionError as error:
            last = error.__traceback__.tb_next
            return last.tb_frame.f_code.co_filename, last.tb_lineno

    assert call(line_of, fail) == (__file__, fail.__code__.co_firstlineno + 1)


# ---- what has no source -----------------------------------------------------------------------------------------


def made_of(text):
    space = {"__name__": "__main__"}
    exec(compile(text, "<nowhere>", "exec"), space)
    return space["made"]


def closure_over(value):
    return lambda: value


def uses_global():
    return made()  # type: ignore[name-defined]  # noqa: F821 - see below


needs_global = types.FunctionType(uses_global.__code__, {"__name__": "__main__", "made": made_of("made = lambda: 1")})


@pytest.mark.parametrize(
    "function",
    [
        made_of("def made(): return 1"),
        closure_over(made_of("made = lambda: 1")),
        types.FunctionType((lambda: 1).__code__.replace(co_consts=(None, 2)), {}),
        needs_global,
    ],
    ids=["made from text", "in a closure", "changed", "as a global"],
)
def test_what_has_no_source_is_told(function):
    with pytest.raises(NoSource, match=r"line \d+ of .*, (has no source that can be read|is not what its source says)"):
        by_value.dumps(function, as_source=True)


def test_a_module_goes_without_what_has_no_source(call, caplog):
    assert isinstance(call(lambda: zoo.MODULE.times(1)), AttributeError)
    assert "travels without the global 'times': NoSource" in caplog.text


def test_an_edited_file_is_not_mistaken_for_what_runs(tmp_path):
    file = tmp_path / "edited.py"
    file.write_text("def made():\n    return 1\n")
    space = {"__name__": "__main__"}
    exec(compile(file.read_text(), str(file), "exec"), space)
    file.write_text("def made():\n    return 12\n")
    os.utime(file, (time.time() + 9,) * 2)
    with pytest.raises(NoSource, match="is not what its source says"):
        source_code.parts_of_code(space["made"].__code__)
    linecache.clearcache()


def test_an_edited_file_that_was_read_before_is_still_known(tmp_path):
    file = tmp_path / "read.py"
    file.write_text("def made():\n    return 1\n")
    space = {"__name__": "__main__"}
    exec(compile(file.read_text(), str(file), "exec"), space)
    linecache.getlines(str(file))  # as when a traceback was shown
    file.write_text("def other():\n    return 12\n")
    assert "return 1" in source_code.parts_of_code(space["made"].__code__)[0]
    linecache.clearcache()


def test_a_cell_of_a_notebook_is_a_source():
    text = "def made():\n    return 1\n"
    linecache.cache["<ipython-input-1>"] = (len(text), None, text.splitlines(keepends=True), "<ipython-input-1>")
    try:
        space = {"__name__": "__main__"}
        exec(compile(text, "<ipython-input-1>", "exec"), space)
        assert by_value.dumps(space["made"], as_source=True)
    finally:
        del linecache.cache["<ipython-input-1>"]
