"""What is adopted from a `globus_compute_sdk.Executor` that a configuration for Parsl's own class brings along.

The SDK documents no way to ask a `ComputeSerializer` for its strategies. Its attributes `code_serializer`,
`data_serializer` and `allowed_deserializer_types` are read here and nowhere else;
`tests/unit/executor/test_adoption.py` fails when they move.
"""

from __future__ import annotations

import linecache
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from globus_compute_sdk import Client, Executor
from globus_compute_sdk.serialize import ComputeSerializer, DillDataBase64, SerializationStrategy
from globus_compute_sdk.serialize.concretes import DEFAULT_STRATEGY_CODE, DEFAULT_STRATEGY_DATA
from globus_compute_sdk.serialize.facade import validate_strategylike

from parsl_globus.errors import ConfigError, DecodeError, NotDeserializable
from parsl_globus.wire import payload

#: The name that the SDK gives `payload.JSON_RESULT_SERIALIZER`.
_JSON_PATH = validate_strategylike(payload.JSON_RESULT_SERIALIZER).import_path


@dataclass(frozen=True)
class Serializers:
    """How the runner, its arguments and its record travel. App functions and values are pickled inside of them.

    Attributes:
        code: Strategy for the runner; `None` means as source.
        data: Strategy for its arguments; `None` means as JSON.
        results: Import paths of the strategies for its record, the first that works is taken.
    """

    code: SerializationStrategy | None = None
    data: SerializationStrategy | None = None
    results: tuple[str, ...] = (payload.JSON_RESULT_SERIALIZER,)

    def pack_code(self, source: str) -> str:
        """The runner's source as it is registered.

        Raises:
            ConfigError: The strategy can't do it.
        """
        if self.code is None:
            return payload.pack_runner_code(source)
        return payload.pack_buffers([_serialized(self.code, _function_of(source))])

    def pack_call(self, arguments: Sequence[str]) -> str:
        """The runner's arguments as a submission carries them.

        Raises:
            ConfigError: The strategy can't do it.
        """
        if self.data is None:
            return payload.pack_runner_call(arguments)
        return payload.pack_buffers([_serialized(self.data, list(arguments)), _serialized(self.data, {})])


#: What is used unless others are adopted.
OWN = Serializers()


@dataclass(frozen=True)
class Lent:
    """Settings of a lent executor; each is `None` where it has none.

    Attributes:
        endpoint_id: Its endpoint.
        client: Its client.
        resource_specification: What each task needs.
        user_endpoint_config: For the endpoint's template.
        batch_size: Most tasks in a request.
    """

    endpoint_id: Any = None
    client: Client | None = None
    resource_specification: dict[str, Any] | None = None
    user_endpoint_config: dict[str, Any] | None = None
    batch_size: int | None = None


def settings_of(executor: Executor | None) -> Lent:
    """What `executor` says; nothing without one."""
    if executor is None:
        return Lent()
    return Lent(
        endpoint_id=executor.endpoint_id,
        client=executor.client,
        resource_specification=executor.resource_specification,
        user_endpoint_config=executor.user_endpoint_config,
        batch_size=executor.batch_size,
    )


def serializers_of(executor: Executor | None, client: Client | None) -> Serializers:
    """The serializers of a lent executor, or of a client. The SDK's defaults count as none: ours cost less.

    Raises:
        ConfigError: They don't allow the results of this package.
    """
    serializer: ComputeSerializer | None = executor.serializer if executor is not None else None
    if serializer is None and client is not None:
        serializer = client.fx_serializer
    if serializer is None:
        return OWN
    allowed = serializer.allowed_deserializer_types
    if allowed and DillDataBase64 not in allowed:
        names = ", ".join(sorted(kind.__name__ for kind in allowed))
        raise ConfigError(
            f"The SDK's serializer allows {names} only, but an app's results come pickled; allow DillDataBase64, too."
        )
    chosen = [validate_strategylike(each).import_path for each in (executor and executor.result_serializers) or ()]
    if chosen and _JSON_PATH not in chosen:
        chosen.append(_JSON_PATH)  # a strategy for functions, for example, can't do it
    return Serializers(
        code=_unless_default(serializer.code_serializer, DEFAULT_STRATEGY_CODE),
        data=_unless_default(serializer.data_serializer, DEFAULT_STRATEGY_DATA),
        results=tuple(chosen) or OWN.results,
    )


def unpack_record(data: str) -> dict[str, Any]:
    """The runner's record in a result, by whatever strategy of the SDK.

    Raises:
        DecodeError: It is none.
    """
    if data.startswith(payload.JSON_STRATEGY):
        return payload.unpack_runner_record(data)
    try:
        record = ComputeSerializer().deserialize(data)
    except Exception as exc:  # any, as it may be unpickled
        detail = f"{type(exc).__name__}: {exc}"
        raise DecodeError(what="runner record", size_bytes=len(data), detail=detail) from exc
    if not (isinstance(record, dict) and isinstance(record.get("kind"), str)):
        raise DecodeError(what="runner record", size_bytes=len(data), detail="it is no tagged record")
    return record


def unpack_value(data: str) -> Any:
    """The value of a function other than the runner, by whatever strategy of the SDK.

    Raises:
        NotDeserializable: It can't be unpickled here.
    """
    try:
        return ComputeSerializer().deserialize(data)
    except Exception as exc:  # of many kinds
        raise NotDeserializable(what="the result", detail=f"{type(exc).__name__}: {exc}") from exc


def as_endpoint_id(value: uuid.UUID | str | None) -> uuid.UUID:
    """The id of the executor's endpoint, which it needs.

    Raises:
        ConfigError: It is none.
    """
    if value is None:
        raise ConfigError("GlobusComputeExecutor needs an endpoint_id, or an executor that has one.")
    try:
        return uuid.UUID(str(value))
    except ValueError as exc:
        raise ConfigError(f"'{value}' is not the id of an endpoint; 'parsl-globus endpoint list' shows them.") from exc


def _unless_default(strategy: SerializationStrategy, default: SerializationStrategy) -> SerializationStrategy | None:
    return None if type(strategy) is type(default) else strategy


def _serialized(strategy: SerializationStrategy, value: Any) -> str:
    try:
        return str(strategy.serialize(value))
    except Exception as exc:  # of many kinds
        name = type(strategy).__name__
        raise ConfigError(f"The serialization strategy {name} of the SDK's executor can't be used: {exc}") from exc


def _function_of(source: str) -> Callable[..., Any]:
    """The runner as a function, since strategies take one; of no module, so that it is pickled by value."""
    name = "<parsl_globus_runner>"
    # Where `inspect` and dill look for the source of what has no file.
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    namespace: dict[str, Any] = {"__name__": "parsl_globus_sent_runner"}
    exec(compile(source, name, "exec"), namespace)
    function: Callable[..., Any] = namespace[payload.RUNNER_NAME]
    return function
