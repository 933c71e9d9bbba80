"""Functions that are registered already, for endpoints that run listed ones only: `function_ids` of the executor.

A task of such a function is what the public SDK would submit: the function's id, and its arguments. All that Parsl, and
this package, would put around an app can't go along, as only the function itself may run.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from globus_compute_sdk.serialize import DillDataBase64
from parsl.app.app import AppBase
from parsl.app.python import PythonApp

from parsl_globus.errors import ConfigError, NotForRegisteredFunction
from parsl_globus.executor.adoption import Serializers
from parsl_globus.executor.functions import not_serializable, pickled_value
from parsl_globus.executor.journal import Journal
from parsl_globus.executor.outcome import PLAIN
from parsl_globus.wire import payload

logger = logging.getLogger(__name__)

#: Of these modules are the wrappers that Parsl makes; more than so many are never around one app.
_PARSL = "parsl."
_DEPTH = 12
#: These do nothing that a registered function could not do without, or that it has not in itself.
_ERRORS, _MONITORING = "parsl.app.errors", "parsl.monitoring.remote"
_MONITORING_KEYS = "_parsl_monitoring_"
#: What these do is missed.
_STAGING = "parsl.data_provider."
_NAMES = {"parsl.app.python": "walltime"}


@dataclass(frozen=True)
class Registered:
    """A function that is registered, and its id."""

    function: Callable[..., Any]
    function_id: uuid.UUID


class RegisteredFunctions:
    """The functions of one executor that are registered already. Thread-safe.

    Args:
        function_ids: Their ids, by app or function.
        serializers: How arguments travel.
        label: Of the executor, for messages.

    Raises:
        ConfigError: What is named is no python_app and no function, or its id is none.
    """

    def __init__(
        self, function_ids: Mapping[Any, uuid.UUID | str] | None, serializers: Serializers, *, label: str
    ) -> None:
        self._ids = {_function_of(app): _as_id(value) for app, value in (function_ids or {}).items()}
        self._serializers = serializers
        self._label = label
        self._told_of_monitoring = False

    def find(self, function: Callable[..., Any]) -> Registered | None:
        """What is registered, inside of what Parsl has put around it; `None` for all other functions.

        Raises:
            NotForRegisteredFunction: Parsl has put something around it that would have to run with it.
        """
        if not self._ids:
            return None
        for part, around in _inside(function):
            try:
                function_id = self._ids.get(part)
            except TypeError:  # it has no hash
                continue
            if function_id is not None:
                self._check_wrappers(around, function_id)
                return Registered(part, function_id)
        return None

    def _check_wrappers(self, modules: Sequence[str], function_id: uuid.UUID) -> None:
        for name in modules:
            if name == _MONITORING:
                self._tell_of_monitoring()
            elif name != _ERRORS:
                what = "staging in the task" if name.startswith(_STAGING) else _NAMES.get(name, name)
                raise NotForRegisteredFunction(what=what, function_id=str(function_id))

    def enter(
        self,
        future: Future[Any],
        function: Registered,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        group: tuple[str, str],
        journal: Journal | None,
    ) -> str:
        """A call of a registered function is about to be submitted.

        Args:
            future: Whom to answer.
            function: From `find`.
            args: For it.
            kwargs: For it.
            group: See `Waiting`.
            journal: Of the executor.

        Returns:
            Its packed arguments, as the SDK packs them.

        Raises:
            NotSerializable: An argument can't be pickled; the error says which one.
        """
        kwargs = {name: value for name, value in kwargs.items() if not name.startswith(_MONITORING_KEYS)}
        if journal is not None:
            journal.enter(future, function.function, args, kwargs, group)
        setattr(future, PLAIN, True)
        try:
            return payload.pack_buffers([self._buffer(tuple(args)), self._buffer(kwargs)])
        except Exception as exc:
            raise not_serializable(args, kwargs, exc, self._buffer) from exc

    def _buffer(self, value: Any) -> str:
        if self._serializers.data is not None:
            return str(self._serializers.data.serialize(value))
        # What is the script's own goes by value, as in all other calls.
        return DillDataBase64.identifier + payload.to_text(pickled_value(value))

    def _tell_of_monitoring(self) -> None:
        if not self._told_of_monitoring:
            self._told_of_monitoring = True
            logger.warning(
                "%s: Parsl's monitoring learns nothing of the workers of registered functions, as only they run there",
                self._label,
            )


def _inside(function: Any) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """The function and those that it wraps, each with the modules of the wrappers around it, outermost first."""
    waiting: list[tuple[Any, tuple[str, ...]]] = [(function, ())]
    while waiting:
        part, around = waiting.pop()
        yield part, around
        name = str(getattr(part, "__globals__", {}).get("__name__"))
        if not isinstance(part, FunctionType) or not name.startswith(_PARSL) or len(around) == _DEPTH:
            continue
        inner = getattr(part, "__wrapped__", None)
        # What Parsl's staging makes does not say what it wraps.
        contents = [inner] if inner is not None else list(_contents(part))
        waiting += [(each, (*around, name)) for each in contents if callable(each)]


def _contents(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # it is still empty
            pass


def _function_of(app: Any) -> Callable[..., Any]:
    if isinstance(app, PythonApp) and not app.join:
        function: Callable[..., Any] = app.func
        return function
    if isinstance(app, AppBase):
        raise ConfigError(f"function_ids: {app} is a bash_app or join_app, and these consist of more than a function.")
    if not callable(app):
        raise ConfigError(f"function_ids: {app!r} is no app and no function.")
    given: Callable[..., Any] = app
    return given


def _as_id(value: uuid.UUID | str) -> uuid.UUID:
    try:
        return uuid.UUID(str(value))
    except ValueError as exc:
        raise ConfigError(f"function_ids: '{value}' is not the id of a registered function.") from exc
