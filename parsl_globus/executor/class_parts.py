"""What a class is made of, and how classes are told apart, for those that travel by value."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import importlib.metadata
import importlib.util
import os
import sys
import sysconfig
import typing
import uuid
import weakref
from collections.abc import Mapping
from types import DynamicClassAttribute, FunctionType
from typing import Any

#: What makes a class, its arguments and keyword arguments, and the attributes that are set afterwards.
Parts = tuple[Any, tuple[Any, ...], dict[str, Any], list[tuple[str, Any]]]


@functools.lru_cache(maxsize=4096)
def is_installed(module_name: str | None) -> bool:
    """Whether the module belongs to Python or an installed package, so that a worker may well have it."""
    top = (module_name or "").partition(".")[0]
    if top in ("__main__", "__mp_main__"):
        return False
    module: Any = sys.modules.get(module_name or "")
    if not module_name or top in sys.stdlib_module_names:
        return True
    if module is None:  # a module that only its own file or an `exec` knows, or one that is not loaded
        return _can_be_found(module_name)
    file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    if file is None:
        return getattr(module, "__spec__", None) is not None
    if file.startswith(_INSTALLED) or {"site-packages", "dist-packages"} & set(file.split(os.sep)):
        return True
    return top in importlib.metadata.packages_distributions()  # installed in its place, as by `pip install -e`


def _can_be_found(module_name: str) -> bool:
    try:
        return importlib.util.find_spec(module_name) is not None
    except (ImportError, ValueError):
        return False


_INSTALLED = tuple(sysconfig.get_path(kind) + os.sep for kind in ("stdlib", "platstdlib", "purelib", "platlib"))


# ---- names of classes, both ways --------------------------------------------------------------------------------

_tokens: weakref.WeakKeyDictionary[type, str] = weakref.WeakKeyDictionary()
_classes: weakref.WeakValueDictionary[str, type] = weakref.WeakValueDictionary()


def is_ours(module: Any) -> bool:
    """Whether the module must travel by value."""
    name = str(module.__name__)
    return sys.modules.get(name) is not module or not is_installed(name)


def class_name(cls: type) -> tuple[str, str, str]:
    """A token for the class, and its name for a process that did not send it."""
    token = _tokens.setdefault(cls, uuid.uuid4().hex)
    _classes[token] = cls
    return token, cls.__module__, cls.__qualname__


def local_class(token: str, module: str, qualified_name: str) -> Any:
    """The class that was sent under this token; by its name if this process did not send it."""
    found: Any = _classes.get(token)
    if found is None:
        found = sys.modules.get(module)
        for part in qualified_name.split("."):
            found = getattr(found, part, None)
    if found is None:
        raise LookupError(f"The class {module}.{qualified_name} is not defined here any more.")
    return found


# ---- what a class is made of -------------------------------------------------------------------------------------

#: What Python makes by itself for each class.
_MADE_ANEW = frozenset({"__dict__", "__weakref__", "_abc_impl", "__slots__", "__module__", "__qualname__"})


def parts_of_class(cls: type) -> Parts:
    """What makes the class anew, and what it gets afterwards."""
    if issubclass(cls, enum.Enum) and len(cls):
        return _parts_of_enum(cls)
    if issubclass(cls, tuple) and cls.__bases__ == (tuple,) and hasattr(cls, "_field_defaults"):
        return _parts_of_named_tuple(cls)
    return _parts_of_plain_class(cls)


def _parts_of_plain_class(cls: type) -> Parts:
    own = vars(cls)
    slots = own.get("__slots__", ())
    slots = (slots,) if isinstance(slots, str) else tuple(slots)
    body = {name: own[name] for name in ("__module__", "__qualname__", "__slots__", "__orig_bases__") if name in own}
    skipped = _MADE_ANEW | body.keys() | set(slots) | {f"_{cls.__name__.lstrip('_')}{slot}" for slot in slots}
    attributes = [(name, value) for name, value in own.items() if name not in skipped]
    return type(cls), (cls.__name__, cls.__bases__, body), {}, attributes


def _parts_of_enum(cls: Any) -> Parts:
    """Its members must be there when it is made; the functional interface makes them."""
    base = next(base for base in cls.__mro__[1:] if isinstance(base, enum.EnumMeta) and not len(base))
    mixin = next((base for base in cls.__bases__ if not isinstance(base, enum.EnumMeta)), None)
    kwargs = {"module": cls.__module__, "qualname": cls.__qualname__}
    if mixin is not None:
        kwargs["type"] = mixin
    members = [(name, member._value_) for name, member in cls.__members__.items()]
    kinds = (FunctionType, property, classmethod, staticmethod, DynamicClassAttribute)
    attributes = [
        (name, value)
        for name, value in vars(cls).items()
        if isinstance(value, kinds) and name not in cls.__members__ and _is_of_users(value)
    ]
    return base, (cls.__name__, members), kwargs, attributes


def _is_of_users(attribute: Any) -> bool:
    """Whether a method or property was written in the class, and not put there by the enum machinery."""
    function = getattr(attribute, "fget", None) or getattr(attribute, "__func__", None) or attribute
    return not is_installed(getattr(function, "__module__", None))


def _parts_of_named_tuple(cls: Any) -> Parts:
    kwargs = {"module": cls.__module__}
    if cls._field_defaults:
        kwargs["defaults"] = [cls._field_defaults[name] for name in cls._fields if name in cls._field_defaults]
    made = vars(collections.namedtuple(cls.__name__, cls._fields))
    attributes = [(name, value) for name, value in vars(cls).items() if name not in made.keys() | _MADE_ANEW]
    return (
        collections.namedtuple,
        (cls.__name__, cls._fields),
        kwargs,
        [*attributes, ("__qualname__", cls.__qualname__)],
    )


#: Objects that dataclasses tell by identity.
_SENTINELS: Mapping[int, str] = {
    id(value): name
    for name, value in vars(dataclasses).items()
    if getattr(type(value), "__module__", "") == "dataclasses" and not callable(value)
}


def reduce_special(obj: Any, kind: type) -> Any:
    """A reduction for what neither pickle nor dill takes along rightly; `NotImplemented` for all else."""
    if id(obj) in _SENTINELS:
        return getattr, (dataclasses, _SENTINELS[id(obj)])
    if kind is functools._lru_cache_wrapper and not is_installed(obj.__module__):
        size = obj.cache_parameters()
        args = (obj.__wrapped__, size["maxsize"], size["typed"], functools._CacheInfo)
        return kind, args, dict(vars(obj))
    if kind is typing.ForwardRef:  # not with its compiled text, which is made anew
        return kind, (obj.__forward_arg__,)
    if kind in (typing.ParamSpecArgs, typing.ParamSpecKwargs):  # each Python has them in another way
        return kind, (obj.__origin__,)
    if kind is typing.ParamSpec and not is_installed(obj.__module__):
        return kind, (obj.__name__,)
    if kind is functools.cached_property:  # not with its lock
        return kind, (obj.func,), {"attrname": obj.attrname, "__doc__": obj.__doc__}
    return NotImplemented
