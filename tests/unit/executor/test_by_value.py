"""This module belongs to no installed package, so all of it must travel by value, to a worker that has none of it."""

from __future__ import annotations

import abc
import base64
import dataclasses
import enum
import functools
import logging
import subprocess
import sys
import threading
import time
import types
import typing
from collections import namedtuple

import pytest

from parsl_globus.executor import by_value, class_parts

WORKER = """
import base64, dill, sys, traceback
for line in sys.stdin:
    try:
        call, args = (dill.loads(base64.b64decode(text)) for text in line.split())
        try:
            value = call(*args)
        except Exception as error:
            value = error
        print(base64.b64encode(sys.modules["_parsl_globus_by_value_1"].encode(value)).decode(), flush=True)
    except Exception:
        print("failed:", repr(traceback.format_exc()), flush=True)
"""


@pytest.fixture(scope="module")
def call(tmp_path_factory):
    """Call a function in another process."""
    folder = tmp_path_factory.mktemp("worker")
    with subprocess.Popen(
        [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder
    ) as worker:

        def call(function, *args):
            arguments = by_value.dumps_quickly(args) or by_value.dumps(args)
            texts = (base64.b64encode(data).decode() for data in (by_value.dumps(function), arguments))
            worker.stdin.write(" ".join(texts) + "\n")
            worker.stdin.flush()
            line = worker.stdout.readline()
            assert not line.startswith("failed"), line
            return by_value.loads(base64.b64decode(line))

        yield call
        worker.stdin.close()


COUNT = 3
LOCK = threading.Lock()
GENERATOR = (i for i in [1])
MODULE = types.ModuleType("a_module_of_the_user")
exec("FACTOR = 7\nGENERATOR = (i for i in [1])\ndef times(x): return FACTOR * x", vars(MODULE))


def helper(x):
    return x * COUNT


def even(n):
    return True if n == 0 else odd(n - 1)


def odd(n):
    return False if n == 0 else even(n - 1)


def make_factorial():
    def factorial(n):
        return 1 if n < 2 else n * factorial(n - 1)

    return factorial


FACTORIAL = make_factorial()


@functools.lru_cache
def cached(x):
    return x + COUNT


class MyError(Exception):
    def __init__(self, code):
        super().__init__(code)
        self.code = code

    def doubled(self):
        return 2 * helper(self.code)


class SubError(MyError):
    pass


@dataclasses.dataclass
class Point:
    x: int
    y: int = 2
    tags: list = dataclasses.field(default_factory=list)

    def norm(self):
        return self.x + self.y + COUNT


class Color(enum.Enum):
    RED = 1
    BLUE = 2

    def is_red(self):
        return self is Color.RED


class Level(str, enum.Enum):
    LOW = "low"


class Permission(enum.IntFlag):
    READ = 1
    WRITE = 2


Pair = namedtuple("Pair", "a b")


class Named(typing.NamedTuple):
    u: int
    v: int = 5

    def both(self):
        return self.u + self.v


class Base(abc.ABC):
    @abc.abstractmethod
    def run(self): ...


class Derived(Base):
    def __init__(self):
        super().__init__()
        self.z = 1

    def run(self):
        return self.z


class Slotted:
    __slots__ = ("__q", "p")

    def __init__(self):
        self.p, self.__q = 4, 5

    def q(self):
        return self.__q


T = typing.TypeVar("T")


class Box(typing.Generic[T]):
    def __init__(self, value):
        self.value = value


class Described:
    @property
    def by_property(self):
        return COUNT

    @classmethod
    def made(cls):
        return cls()

    @staticmethod
    def static():
        return helper(1)

    @functools.cached_property
    def once(self):
        return 9


THERE_AND_BACK = [
    (lambda: helper(2), 6),
    (lambda: even(10), True),
    (lambda: FACTORIAL(5), 120),
    (lambda: cached(1), 4),
    (lambda: Point(1).norm(), 6),
    (lambda: Point(1) == Point(1, 2), True),
    (lambda: dataclasses.asdict(Point(3)), {"x": 3, "y": 2, "tags": []}),
    (lambda: dataclasses.replace(Point(1), y=9).y, 9),
    (lambda: (Color(1).is_red(), Color.BLUE.is_red()), (True, False)),
    (lambda: int(Permission.READ | Permission.WRITE), 3),
    (lambda: (Pair(1, 2).b, Named(1).both()), (2, 6)),
    (lambda: Derived().run(), 1),
    (lambda: (Slotted().p, Slotted().q()), (4, 5)),
    (lambda: Box[int](3).value, 3),
    (lambda: time.strptime("2", "%d").tm_mday, 2),  # imports from C code, by the caller's globals
    (lambda: Described.made().by_property, 3),
    (lambda: (Described.static(), Described().once), (3, 9)),
    (lambda: MODULE.times(6), 42),
]


@pytest.mark.parametrize(("function", "value"), THERE_AND_BACK)
def test_what_a_function_refers_to_comes_along(call, function, value):
    assert call(function) == value


@pytest.mark.parametrize(
    "value",
    [Point(1), Color.RED, Level.LOW, Permission.READ, Pair(1, 2), Named(1), Color, MyError],
    ids=lambda value: str(value),
)
def test_what_comes_home_is_of_the_class_from_here(call, value):
    there_and_back = call(lambda x: x, value)
    assert there_and_back == value
    assert type(there_and_back) is type(value)


@pytest.mark.parametrize("cls", [Derived, Slotted, Described])
def test_an_object_made_there_is_of_the_class_from_here(call, cls):
    assert type(call(lambda: cls())) is cls


def test_an_exception_raised_there_is_of_the_class_from_here(call):
    def fail():
        raise SubError(7)

    error = call(fail)
    assert type(error) is SubError
    assert error.doubled() == 42


def test_an_argument_is_of_the_class_that_the_function_means(call):
    assert call(lambda point: isinstance(point, Point), Point(1))
    assert call(lambda color: color is Color.RED, Color.RED)


def test_a_class_of_a_function_keeps_its_identity(call):
    class Local(Exception):
        pass

    def fail():
        raise Local("here")

    assert type(call(fail)) is Local


def test_a_class_that_is_gone_is_told():
    with pytest.raises(LookupError, match="no_such_module.Gone is not defined here any more"):
        class_parts.local_class("no-such-token", "no_such_module", "Gone")


def test_a_global_that_can_t_be_pickled_stays_behind(call, caplog):
    def touches(really):
        return GENERATOR if really else helper(1)

    with caplog.at_level(logging.WARNING):
        assert call(touches, False) == 3
    assert "'touches' travels without the global 'GENERATOR': TypeError" in caplog.text
    assert isinstance(call(touches, True), NameError)


def test_a_module_travels_as_far_as_it_is_used(call, caplog):
    with caplog.at_level(logging.WARNING):
        assert call(lambda: MODULE.times(2)) == 14
    assert caplog.text == ""


def test_a_module_in_an_argument_travels_whole(call):
    assert call(lambda modules: modules[0].times(3), [MODULE]) == 21


def test_modules_of_packages_do_not_travel():
    assert class_parts.is_installed("json")
    assert class_parts.is_installed("parsl.app.errors")
    assert class_parts.is_installed("parsl_globus.errors")
    assert not class_parts.is_installed("__main__")
    assert not class_parts.is_installed(__name__)


def test_plain_values_go_the_quick_way():
    assert by_value.dumps_quickly(((1, "a", [2.0]), {"__main__": b"x"})) is not None
    assert by_value.dumps_quickly(((Point(1),), {})) is None
