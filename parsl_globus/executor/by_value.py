"""Pickles what the user wrote by value: no worker has the script, the modules beside it or the notebook.

Functions, classes and modules that belong to no installed package travel with what they refer to. Everything is made
first and filled afterwards, so they may refer to each other. dill does the rest: code objects, and all that belongs to
no module at all.

A class keeps its identity: on a worker it is made once per process, however many tasks bring it, and in a result it is
named, so that what comes home is the class from here and `except MyError` works.

For a worker of another Python code goes as source, see `source_code`, and none may come home.
"""

from __future__ import annotations

import dataclasses
import dis
import functools
import io
import logging
import pathlib
import pickle
import sys
import uuid
from collections.abc import Callable, Iterator
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any, TypeVar

import dill

from parsl_globus.executor.class_parts import (
    class_name,
    is_installed,
    is_ours,
    local_class,
    parts_of_class,
    reduce_special,
)
from parsl_globus.executor.shipped_source import MAKE_MODULE, shipped_source
from parsl_globus.executor.source_code import (
    NoSource,
    NotForThisPython,
    dataclass_parts,
    parts_of_code,
)
from parsl_globus.monitoring.radio import persistent_id

logger = logging.getLogger(__name__)

#: Fixed, so that every supported Python can read it.
PICKLE_PROTOCOL = 4
#: Name of the module on workers; another one when `worker/by_value.py` changes, as workers serve many senders.
WORKER_MODULE = "_parsl_globus_by_value_1"
#: The same for `worker/from_source.py`.
SOURCE_MODULE = "_parsl_globus_from_source_1"
#: So many globals may turn out not to be picklable.
_MOST_LEFT_OUT = 50


def dumps(value: Any, *, as_source: bool = False) -> bytes:
    """Pickle `value`, and by value what no worker has.

    A global that can't be pickled is left out, which is logged: the function may never touch it.

    Args:
        value: What to pickle.
        as_source: Whether it must be read by any Python.

    Raises:
        NoSource: Something that is needed has no source.
        Exception: Whatever the value's own reduction raises, when it isn't a global's.
    """
    left_out: set[tuple[int, str]] = set()
    while True:
        file = io.BytesIO()
        pickler = ByValuePickler(file, left_out, as_source=as_source)
        try:
            pickler.dump(value)
        except Exception as exc:
            culprit = pickler.culprit()
            if isinstance(exc, NoSource) and not pickler.may_do_without():
                raise
            if culprit is None or culprit in left_out or len(left_out) >= _MOST_LEFT_OUT:
                raise
            left_out.add(culprit)
            logger.warning(
                "'%s' travels without the global '%s': %s: %s", _name(value), culprit[1], type(exc).__name__, exc
            )
        else:
            return file.getvalue()


def dumps_quickly(value: Any) -> bytes | None:
    """Pickle `value` as it is; `None` if it needs `dumps`, or can't be pickled at all."""
    file = io.BytesIO()
    try:
        _QuickPickler(file, protocol=PICKLE_PROTOCOL).dump(value)
    except Exception:  # noqa: BLE001 - an object's own reduction may raise anything; the thorough one tells it
        return None
    return file.getvalue()


def loads(data: bytes, *, foreign: bool = False) -> Any:
    """Unpickle what came from a worker; classes from here are found again.

    Args:
        data: What came.
        foreign: Whether the worker may have another Python.

    Raises:
        NotForThisPython: It has, and there is code of its own in it.
        Exception: Whatever unpickling raises.
    """
    return (_ForeignUnpickler if foreign else _Unpickler)(io.BytesIO(data)).load()


class _Unpickler(dill.Unpickler):  # type: ignore[misc]  # dill ships no types
    def find_class(self, module: str, name: str) -> Any:
        if module == WORKER_MODULE:
            return local_class
        return super().find_class(module, name)


class _ForeignUnpickler(_Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module.startswith("dill") and name == "_create_code") or (module, name) == ("types", "CodeType"):
            raise NotForThisPython("there is a function in it that was made on the worker")
        return super().find_class("pathlib" if module == _PATHS_OF_313 else module, name)


#: Where Python 3.13, and no other, says that its paths are.
_PATHS_OF_313 = "pathlib._local"


# ---- pickling ---------------------------------------------------------------------------------------------------


class _QuickPickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, (type, FunctionType)) and not is_installed(obj.__module__):
            raise pickle.PicklingError(f"{obj} must travel by value")
        if isinstance(obj, type) and obj.__module__ == _PATHS_OF_313:
            return getattr, (pathlib, obj.__name__)
        return NotImplemented


class _WorkerModule:
    """Pickles as a module of the worker's side, which the first that comes makes there."""

    def __init__(self, name: str, file: str) -> None:
        self.name = name
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (MAKE_MODULE, {"name": self.name, "source": shipped_source(self.file)})


class _OnWorker:
    """Pickles as a function of such a module."""

    def __init__(self, module: _WorkerModule, name: str) -> None:
        self.module = module
        self.name = name

    def __call__(self, *_: Any) -> Any:
        raise NotImplementedError  # pickle wants something that can be called; the worker's is

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.module, self.name)


_WORKER = _WorkerModule(WORKER_MODULE, "by_value.py")
_SHAPE, _FILL, _SPACE = (_OnWorker(_WORKER, name) for name in ("shape", "fill", "space"))
_FROM_SOURCE = _WorkerModule(SOURCE_MODULE, "from_source.py")
_CODE, _FILL_DATACLASS = (_OnWorker(_FROM_SOURCE, name) for name in ("code", "fill_dataclass"))


def _reduce_class(cls: type, *, as_source: bool) -> tuple[Any, ...]:
    make, args, kwargs, attributes = parts_of_class(cls)
    shape = (class_name(cls), make, args, kwargs)
    parts = dataclass_parts(cls, attributes) if as_source else None
    entries = [_Entry(cls, name, value) for name, value in (attributes if parts is None else parts[0])]
    if parts is None:
        return _SHAPE, shape, entries, None, None, _FILL
    return _SHAPE, shape, (entries, *parts[1:]), None, None, _FILL_DATACLASS


def _reduce_type_variable(variable: Any) -> tuple[Any, ...]:
    options = {"covariant": variable.__covariant__, "contravariant": variable.__contravariant__}
    if variable.__bound__ is not None:
        options["bound"] = variable.__bound__
    return _SHAPE, ((uuid.uuid4().hex,), TypeVar, (variable.__name__, *variable.__constraints__), options)


class _Vars:
    """Pickles as the namespace of a module."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __reduce__(self) -> tuple[Any, ...]:
        return _SPACE, (self.module,)


class _Module:
    """Pickles as an empty module: the home of functions whose globals are no module's."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return ModuleType, (self.name,)


@dataclasses.dataclass(frozen=True, eq=False)
class _Entry:
    """`value` is to be the attribute `name` of `target`; with a key it is a global, and may be left out.

    It is `spare` if the function may well not touch it.
    """

    target: Any
    name: str
    value: Any
    key: tuple[int, str] | None = None
    spare: bool = False


class ByValuePickler(dill.Pickler):  # type: ignore[misc]
    """See the module.

    Args:
        file: Where to write.
        left_out: Globals not to take along, by the identity of their namespace and their name.
        as_source: Whether code goes as source.
    """

    def __init__(self, file: io.BytesIO, left_out: set[tuple[int, str]], *, as_source: bool = False) -> None:
        super().__init__(file, protocol=PICKLE_PROTOCOL, recurse=False)
        self._left_out = left_out
        self._as_source = as_source
        self._open: list[_Entry] = []
        self._homes: dict[int, tuple[Any, _Vars]] = {}
        self._cells: set[int] = set()
        self._modules: set[int] = set()

    def persistent_id(self, obj: Any) -> Any:
        return persistent_id(obj)  # a monitored task's radio; the runner has the other side

    def culprit(self) -> tuple[int, str] | None:
        """The innermost global that was being pickled when it failed."""
        return next((entry.key for entry in reversed(self._open) if entry.key is not None), None)

    def may_do_without(self) -> bool:
        """Whether what was being pickled when it failed may well not be needed."""
        return any(entry.spare for entry in self._open)

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if type(obj) is not _Entry:
            super().save(obj, save_persistent_id)
            return
        self._open.append(obj)
        super().save((obj.target, obj.name, obj.value))
        self._open.pop()

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind is FunctionType:
            return NotImplemented if is_installed(obj.__module__) else self._function(obj)
        if isinstance(obj, type):
            if obj.__module__ == _PATHS_OF_313:
                return getattr, (pathlib, obj.__name__)
            return NotImplemented if is_installed(obj.__module__) else _reduce_class(obj, as_source=self._as_source)
        if kind is CodeType and self._as_source:
            return _CODE, parts_of_code(obj)
        if kind is CellType:
            return (CellType, ()) if id(obj) in self._cells else NotImplemented
        if kind is ModuleType:
            return self._module(obj) if is_ours(obj) else NotImplemented
        if kind is TypeVar and not is_installed(obj.__module__):
            return _reduce_type_variable(obj)
        return reduce_special(obj, kind)

    def _function(self, function: FunctionType) -> tuple[Any, ...]:
        code = function.__code__
        namespace = function.__globals__
        entries = [_Entry(function, name, value) for name, value in _attributes_of_function(function)]
        for cell in function.__closure__ or ():
            entries += self._content_of_cell(cell, code)
        if is_installed(namespace.get("__name__")):
            space: Any = namespace  # of a wrapper of some package: dill refers to it by name
        else:
            home, space = self._home(namespace)
            for name in sorted(_global_names(code)):
                if name in namespace and name != "__builtins__" and (id(namespace), name) not in self._left_out:
                    entries += self._entries(home, name, namespace[name], code, (id(namespace), name))
        args = (code, space, function.__name__, function.__defaults__, function.__closure__)
        return FunctionType, args, entries, None, None, _FILL

    def _content_of_cell(self, cell: CellType, code: CodeType) -> Iterator[_Entry]:
        if id(cell) in self._cells:
            return
        self._cells.add(id(cell))
        try:
            value = cell.cell_contents
        except ValueError:
            return  # it is empty
        yield from self._entries(cell, "cell_contents", value, code, None)

    def _entries(
        self, target: Any, name: str, value: Any, code: CodeType, key: tuple[int, str] | None
    ) -> Iterator[_Entry]:
        """A value; of a module, only what this code may ask it for."""
        narrowed = type(value) is ModuleType and is_ours(value)
        if narrowed:
            self._modules.add(id(value))
        yield _Entry(target, name, value, key)
        if not narrowed:
            return
        namespace = vars(value)
        for attribute in sorted(_attribute_names(code) & namespace.keys()):
            inner_key = (id(namespace), attribute)
            if inner_key not in self._left_out and namespace[attribute] is not value:
                for entry in self._entries(value, attribute, namespace[attribute], code, inner_key):
                    yield dataclasses.replace(entry, spare=True)

    def _home(self, namespace: dict[str, Any]) -> tuple[Any, _Vars]:
        known = self._homes.get(id(namespace))
        if known is None:
            name = str(namespace.get("__name__", "__main__"))
            module: Any = sys.modules.get(name)
            if type(module) is ModuleType and vars(module) is namespace:
                self._modules.add(id(module))
            else:
                module = _Module(name)
            known = self._homes[id(namespace)] = module, _Vars(module)
        return known

    def _module(self, module: ModuleType) -> tuple[Any, ...]:
        if id(module) in self._modules:
            return ModuleType, (module.__name__,)
        entries = [
            _Entry(module, name, value, (id(vars(module)), name), spare=True)
            for name, value in vars(module).items()
            if not name.startswith("__") and (id(vars(module)), name) not in self._left_out
        ]
        return ModuleType, (module.__name__,), entries, None, None, _FILL


def _attributes_of_function(function: FunctionType) -> Iterator[tuple[str, Any]]:
    for name in ("__kwdefaults__", "__annotations__", "__doc__", "__module__", "__qualname__"):
        value = getattr(function, name)
        if value:
            yield name, value
    yield from vars(function).items()


@functools.lru_cache(maxsize=1024)
def _global_names(code: CodeType) -> frozenset[str]:
    """The globals that the code may use, in functions and classes inside it, too."""
    kinds = ("LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME")
    own = {step.argval for step in dis.get_instructions(code) if step.opname in kinds}
    return frozenset(own.union(*(_global_names(inner) for inner in code.co_consts if isinstance(inner, CodeType))))


@functools.lru_cache(maxsize=1024)
def _attribute_names(code: CodeType) -> frozenset[str]:
    """The names that the code may look up anywhere: more than its attributes, but no fewer."""
    inner = (_attribute_names(part) for part in code.co_consts if isinstance(part, CodeType))
    return frozenset(code.co_names).union(*inner)


def _name(value: Callable[..., Any] | Any) -> str:
    return str(getattr(value, "__name__", type(value).__name__))
