"""What stands in for the sender's modules on a worker: shipped as text along with what travels by value."""

from __future__ import annotations

import builtins
import io
import pickle
import weakref
from types import ModuleType
from typing import Any

import dill

classes: weakref.WeakValueDictionary[str, type] = weakref.WeakValueDictionary()
names: weakref.WeakKeyDictionary[type, tuple[str, ...]] = weakref.WeakKeyDictionary()


def shape(name: tuple[str, ...], make: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The class of this name (token, module, qualified name); one per process, so that `isinstance` holds."""
    found = classes.get(name[0])
    if found is None:
        found = classes.setdefault(name[0], make(*args, **kwargs))
        names[found] = name
    return found


def space(module: ModuleType) -> dict[str, Any]:
    """The namespace of a module that was made here; with builtins, without which imports by C code fail."""
    namespace = vars(module)
    namespace.setdefault("__builtins__", builtins)
    return namespace


def fill(_made: Any, entries: list[tuple[Any, str, Any]]) -> None:
    """Set what may refer to what is being made, which is there now."""
    for target, name, value in entries:
        setattr(target, name, value)


def local(*name: str) -> Any:
    """A class as its sender knows it; results name it so."""
    raise LookupError(f"{name} is known to its sender")


class _Naming:
    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, type) and value in names:
            return local, names[value]
        return NotImplemented


class _Fast(_Naming, pickle.Pickler):
    pass


class _Thorough(_Naming, dill.Pickler):  # type: ignore[misc]  # dill ships no types
    pass


def encode(value: Any) -> bytes:
    """Pickle, with classes of the sender's by their names."""
    file = io.BytesIO()
    try:
        _Fast(file, protocol=4).dump(value)
    except Exception:  # noqa: BLE001 - whatever an object's own reduction raises
        file = io.BytesIO()
        _Thorough(file, protocol=4).dump(value)
    return file.getvalue()
