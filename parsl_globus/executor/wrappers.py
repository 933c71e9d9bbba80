"""Functions that Parsl makes anew for each call, and that pickle the same: those of monitoring and of walltime.

Pickling one takes milliseconds, and each would be another function for a worker's cache.
"""

from __future__ import annotations

import threading
import types
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from parsl.monitoring.radios.base import RadioConfig

from parsl_globus.executor.object_shipped import Shipped

_E = TypeVar("_E")

#: A wrapper of a wrapper of a wrapper is all that Parsl makes.
_DEPTH = 4
#: How many encodings are kept; each holds on to what it wraps.
_LIMIT = 256

#: Where Parsl makes them, and what the executor puts around a bash_app. What Parsl makes once per app is forgotten
#: with the app.
_PER_CALL = frozenset({"parsl.monitoring.remote", "parsl.app.python", "_parsl_globus_streams"})

Shape = Hashable


def shape_of(function: Callable[..., Any], depth: int = _DEPTH) -> Shape | None:
    """What decides how such a function pickles: its code and the contents of its closure.

    Returns:
        `None` for any other function, and where the closure has something that may change: lists and the like. Apps
        themselves count by identity, as everywhere.
    """
    if isinstance(function, Shipped):
        return (Shipped, shape_of(function.function, depth) or id(function.function))
    if not isinstance(function, types.FunctionType) or not function.__closure__ or depth == 0:
        return None
    if function.__globals__.get("__name__") not in _PER_CALL or function.__defaults__:
        return None
    contents: list[Hashable] = []
    for cell in function.__closure__:
        try:
            content = cell.cell_contents
        except ValueError:  # it is still empty
            return None
        if content is None or isinstance(content, (str, int, float)):
            contents.append((type(content), content))
        elif callable(content) or isinstance(content, RadioConfig):
            contents.append(shape_of(content, depth - 1) or id(content))
        else:
            return None
    return (function.__code__, function.__qualname__, *contents)


class Wrappers(Generic[_E]):
    """What was made of functions of a shape. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # With the function, as a shape has ids of its contents, which must not become another object's.
        self._known: OrderedDict[Shape, tuple[Callable[..., Any], _E]] = OrderedDict()

    def find(self, shape: Shape | None) -> _E | None:
        """What was kept for this shape."""
        if shape is None:
            return None
        with self._lock:
            found = self._known.get(shape)
            if found is None:
                return None
            self._known.move_to_end(shape)
            return found[1]

    def keep(self, shape: Shape, function: Callable[..., Any], value: _E) -> None:
        """Keep `value` for functions of this shape."""
        with self._lock:
            self._known[shape] = (function, value)
            while len(self._known) > _LIMIT:
                self._known.popitem(last=False)
