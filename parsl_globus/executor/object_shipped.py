"""What the executor puts around a call so that its values may be in an object store; shipped as compressed source."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from typing import Any

from parsl_globus.executor.shipped_source import MAKE_MODULE, shipped_source


class Shipped:
    """A function as it runs on the worker. Pickles as source, which any Python can read.

    Args:
        function: What it is put around.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.__name__ = getattr(function, "__name__", type(function).__name__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError  # pickle wants something that can be called; the worker's is

    def __reduce__(self) -> tuple[Any, ...]:
        name, source = _worker_source()
        names = {"name": name, "source": source, "function": self.function}
        return eval, (f"{MAKE_MODULE}.with_objects(function)", names)


def with_objects(function: Callable[..., Any]) -> Shipped:
    """`function` with its values in an object store; the same one for an app's calls, so that it is encoded once."""
    if getattr(function, "__globals__", {}).get("__name__") == "parsl.app.errors":  # made once per app
        return _known(function)
    return Shipped(function)


_known = functools.lru_cache(maxsize=256)(Shipped)


@functools.cache
def _worker_source() -> tuple[str, bytes]:
    """The name of the module on workers, and its text."""
    text = shipped_source("objects.py")
    # Another one for another text, as workers serve many senders.
    return f"_parsl_globus_objects_{hashlib.sha256(text).hexdigest()[:8]}", text
