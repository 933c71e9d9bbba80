"""The one registered function, the runner, and how app functions and arguments travel as its data.

Parsl makes a new callable per call for walltime, staging and monitoring, and the public SDK registers each of them: a
REST call per task. Here one small runner is registered once, and what it runs is data.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import weakref
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from parsl_globus.errors import NotSerializable
from parsl_globus.executor import by_value
from parsl_globus.executor.adoption import OWN, Serializers
from parsl_globus.executor.late_arguments import late_size
from parsl_globus.executor.source_code import NoSource
from parsl_globus.executor.wrappers import Wrappers, shape_of
from parsl_globus.wire import payload
from parsl_globus.wire.documents import DEFAULT_PAYLOAD_LIMIT_BYTES, FunctionRegistration

#: An encoded function: makes the payload of a call from its encoded arguments.
_Pack = Callable[[str | payload.LateText], payload.Payload]


def sender_versions() -> dict[str, str]:
    """The versions that decide whether a worker can run what this process pickles."""
    return {"python": f"{sys.version_info[0]}.{sys.version_info[1]}", "parsl": version("parsl")}


def runner_registration(serializers: Serializers = OWN) -> FunctionRegistration:
    """What to register, once per service. The runner is read as text: it runs elsewhere, not here.

    Raises:
        ConfigError: The serializers can't do it.
    """
    source = files("parsl_globus.worker").joinpath("runner.py").read_text()
    function_code = serializers.pack_code(source)
    return FunctionRegistration(
        function_name=payload.RUNNER_NAME,
        function_code=function_code,
        meta={
            "python_version": platform.python_version(),
            "sdk_version": version("globus-compute-sdk"),
            "serde_identifier": payload.split_buffers(function_code, limit=1)[0][
                : len(payload.SOURCE_STRATEGY)
            ].strip(),
        },
        description="Runs one call of a Parsl app (parsl-globus)",
    )


class Encoder:
    """Encodes calls; remembers the encodings of functions. Thread-safe.

    Args:
        as_source: Whether functions go as source, for workers of any Python.
    """

    def __init__(self, serializers: Serializers = OWN, *, as_source: bool = False) -> None:
        self._serializers = serializers
        self._as_source = as_source
        self._versions = sender_versions() | ({"python": "any"} if as_source else {})
        # By object: a Parsl app keeps one function for all its calls. What Parsl makes per call is forgotten with it.
        self._known: weakref.WeakKeyDictionary[Callable[..., Any], _Pack] = weakref.WeakKeyDictionary()
        self._wrappers: Wrappers[_Pack] = Wrappers()

    def for_any_python(self) -> Encoder:
        """Likewise, but functions go as source."""
        return Encoder(self._serializers, as_source=True)

    def encode(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> payload.Payload:
        """The packed arguments of the runner for this call, as a submission carries them.

        Raises:
            NotSerializable: The function or an argument can't be pickled; the error says which one.
            NoSource: Functions go as source, and one has none.
        """
        pack = self._encode_function(function)
        if not args and not kwargs:
            return pack(_NO_ARGUMENTS)
        late = late_arguments(args, kwargs) if self._serializers.data is None else None
        if late is not None:
            return pack(late)
        return pack(_encode_arguments(args, kwargs, as_source=self._as_source))

    def _encode_function(self, function: Callable[..., Any]) -> _Pack:
        try:
            return self._known[function]
        except (KeyError, TypeError):  # new, or one that has no hash or weak reference
            pass
        shape = shape_of(function)
        encoded = self._wrappers.find(shape)
        if encoded is not None:
            return encoded
        try:
            pickled = by_value.dumps(function, as_source=self._as_source)
        except NoSource:
            raise
        except Exception as exc:
            name = getattr(function, "__name__", repr(function))
            raise NotSerializable(what=f"the function '{name}'", detail=_describe(exc)) from exc
        header = {**self._versions, "function": hashlib.sha256(pickled).hexdigest()[:32]}
        # Once for all its calls, each of which has it along.
        encoded = self._packer([json.dumps(header), payload.to_text(zlib.compress(pickled, 9))])
        if shape is not None:
            self._wrappers.keep(shape, function, encoded)
            return encoded
        try:
            self._known[function] = encoded
        except TypeError:
            pass
        return encoded

    def _packer(self, lead: list[str]) -> _Pack:
        """What packs calls that begin with these arguments of the runner."""
        if self._serializers.data is None:
            return partial(payload.RunnerCall, payload.runner_call_lead(lead))
        return lambda arguments: self._serializers.pack_call([*lead, str(arguments)])


def late_arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> payload.LateText | None:
    """Large arguments that need not be encoded before they are sent; `None` for others.

    They wait as they are, which costs nothing, while their text would cost a third more than their own size.
    """
    most_bytes = late_size(args, kwargs)
    if most_bytes is None or payload.text_length(most_bytes) > DEFAULT_PAYLOAD_LIMIT_BYTES:
        return None  # of one that may be too large, the exact size has to be known
    call = (tuple(args), dict(kwargs))
    return payload.LateText(partial(_text_of, call), payload.text_length(most_bytes))


def _text_of(call: tuple[tuple[Any, ...], dict[str, Any]]) -> bytes:
    return payload.to_ascii(pickled_value(call))


def _encode_arguments(args: Sequence[Any], kwargs: Mapping[str, Any], *, as_source: bool = False) -> str:
    call = (tuple(args), dict(kwargs))
    try:
        return payload.to_text(pickled_value(call, as_source=as_source))
    except NoSource:
        raise
    except Exception as exc:
        raise not_serializable(args, kwargs, exc, pickled_value) from exc


def not_serializable(
    args: Sequence[Any], kwargs: Mapping[str, Any], exc: Exception, encode: Callable[[Any], Any]
) -> NotSerializable:
    """Which of these arguments can't be encoded, and why.

    Args:
        args: Of the call.
        kwargs: Of the call.
        exc: What encoding all of them raised.
        encode: Encodes one.
    """
    for name, value in [*((f"argument {i}", a) for i, a in enumerate(args)), *_named(kwargs)]:
        try:
            encode(value)
        except Exception as cause:  # noqa: BLE001 - whatever its own reduction raises
            return NotSerializable(what=name, detail=_describe(cause))
    return NotSerializable(what="the arguments together", detail=_describe(exc))


def _named(kwargs: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(f"argument '{name}'", value) for name, value in kwargs.items()]


def pickled_value(value: Any, *, as_source: bool = False) -> bytes:
    """Pickle; by value only where it is needed, as that is several times slower."""
    return by_value.dumps_quickly(value) or by_value.dumps(value, as_source=as_source)


#: The same for every Python, and for all tasks.
_NO_ARGUMENTS = _encode_arguments((), {})


def _describe(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {exc}"
