"""What a call is known by from one run of a workflow to the next: a key that is the same in another process."""

from __future__ import annotations

import functools
import hashlib
import inspect
import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import CodeType, FunctionType
from typing import Any

from parsl.dataflow.memoization import id_for_memo

from parsl_globus.executor.class_parts import is_installed

#: Functions in functions: decorators of an app, and Parsl's wrappers for errors, walltime, monitoring and staging.
_DEPTH = 16
#: What Parsl's monitoring adds to the keyword arguments; it differs from run to run.
_PER_RUN = frozenset({"_parsl_monitoring_task_id", "_parsl_monitoring_try_id"})


class Unkeyable(Exception):
    """This call can't be recognised by another process; the text says why."""


class Keys:
    """Makes keys; remembers what was found of functions. Thread-safe.

    Args:
        scope: What else decides whether two calls are the same one, for example the endpoint.
    """

    def __init__(self, *scope: str) -> None:
        self._scope = [text.encode() for text in scope]
        self._lock = threading.Lock()
        self._known: weakref.WeakKeyDictionary[FunctionType, bytes] = weakref.WeakKeyDictionary()

    def key(
        self,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        group: Sequence[str] = (),
        *,
        ignored: Collection[str] = (),
    ) -> bytes:
        """The key of this call, without its occurrence number.

        Args:
            function: What is called.
            args: Its arguments.
            kwargs: Its keyword arguments.
            group: What the call needs, as text.
            ignored: Keyword arguments whose values don't matter, though it does that they are there.

        Raises:
            Unkeyable: Its function or an argument is not to be recognised.
        """
        named = {name: value for name, value in kwargs.items() if name not in _PER_RUN and name not in ignored}
        outputs = named.pop("outputs", ())
        parts = [*self._scope, *(text.encode() for text in group), self._function(function)]
        parts += [name.encode() for name in sorted(ignored)]
        parts += [self._argument(str(place), value) for place, value in enumerate(args)]
        parts += [name.encode() + b"=" + self._argument(name, value) for name, value in sorted(named.items())]
        parts += [b"->" + self._argument("outputs", value, output_ref=True) for value in outputs]
        return _digest(parts)

    def _argument(self, name: str, value: Any, **options: bool) -> bytes:
        if isinstance(value, FunctionType):  # Parsl goes by its name only
            return self._function(value)
        return _id(f"argument {name}", value, **options)

    def _function(self, function: Any, depth: int = _DEPTH) -> bytes:
        """What tells this function from others: its place, source and code, and what it holds on to."""
        if depth == 0:
            raise Unkeyable("its function is wrapped in too many others")
        if isinstance(function, functools.partial):
            inner = [self._function(function.func, depth - 1)]
            inner += [self._held("an argument of a partial", value, depth - 1) for value in function.args]
            held = sorted(function.keywords.items())
            inner += [name.encode() + self._held(f"argument {name}", value, depth - 1) for name, value in held]
            return _digest([b"partial", *inner])
        if not isinstance(function, FunctionType):
            raise Unkeyable(f"its function is a {type(function).__name__}, which has no source")
        if _is_parsls_wrapper(function):
            return self._function(getattr(function, "__wrapped__"), depth - 1)  # noqa: B009 - for mypy
        with self._lock:
            known = self._known.get(function)
        if known is None:
            known = self._digest_of(function, depth)
            with self._lock:
                self._known[function] = known
        return known

    def _digest_of(self, function: FunctionType, depth: int) -> bytes:
        parts = [_body(function)]
        defaults = [*(function.__defaults__ or ()), *sorted((function.__kwdefaults__ or {}).items())]
        parts += [self._held("a default", value, depth - 1) for value in defaults]
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                content = cell.cell_contents
            except ValueError:  # it is still empty
                continue
            # A recursive function holds itself.
            parts.append(b"itself" if content is function else self._held(f"'{name}'", content, depth - 1))
        parts += [_body(helper) for helper in _helpers(function)]
        return _digest(parts)

    def _held(self, what: str, value: Any, depth: int) -> bytes:
        if isinstance(value, (FunctionType, functools.partial)):
            return self._function(value, depth)
        return _id(f"{what} that its function holds", value)


def _id(what: str, value: Any, **options: bool) -> bytes:
    try:
        # Not asked at all for what it will refuse: it would log an error for each call.
        if id_for_memo.dispatch(type(value)) is not id_for_memo.dispatch(object):
            return bytes(id_for_memo(value, **options))
        why = f"there is no id_for_memo for a {type(value).__name__}"
    except Exception as exc:  # noqa: BLE001 - of users, too
        why = f"{type(exc).__name__}: {exc}"
    raise Unkeyable(f"{what} can't be recognised ({why})")


def _is_parsls_wrapper(function: FunctionType) -> bool:
    """Whether it is one that Parsl puts around each app, for errors, walltime and monitoring."""
    return hasattr(function, "__wrapped__") and str(function.__globals__.get("__name__")).startswith("parsl.")


def _body(function: FunctionType) -> bytes:
    """The function by itself: its source, and its code, as a file that was changed meanwhile has another source."""
    try:
        source = inspect.getsource(function.__code__)
    except (OSError, TypeError) as exc:
        raise Unkeyable(f"the source of '{function.__qualname__}' can't be read") from exc
    names = f"{function.__module__}\n{function.__qualname__}"
    return _digest([names.encode(), source.encode(), *_code(function.__code__)])


def _code(code: CodeType) -> Iterator[bytes]:
    """What the code does, without where it stands."""
    yield code.co_code
    yield repr((code.co_names, code.co_varnames, code.co_freevars, code.co_flags)).encode()
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code(constant)
        else:
            # The order of a set differs between processes.
            yield repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant).encode()


def _helpers(function: FunctionType) -> list[FunctionType]:
    """Functions of the user's own modules that this one names, and those that they name."""
    found: dict[int, FunctionType] = {id(function): function}
    waiting = [function]
    while waiting:
        user = waiting.pop()
        for name in _names(user.__code__):
            helper = user.__globals__.get(name)
            if isinstance(helper, FunctionType) and id(helper) not in found and not is_installed(helper.__module__):
                found[id(helper)] = helper
                waiting.append(helper)
    return list(found.values())[1:]


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _digest(parts: Sequence[bytes]) -> bytes:
    """A hash of the parts, each with its length, so that their borders count."""
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(len(part).to_bytes(8, "big"))
        hashed.update(part)
    return hashed.digest()
