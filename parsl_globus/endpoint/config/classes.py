"""The closed table of Parsl's classes that a configuration may name, and the arguments each takes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import parsl.addresses
import parsl.launchers
import parsl.providers
from parsl.executors.high_throughput.executor import HighThroughputExecutor
from parsl.executors.high_throughput.mpi_executor import MPIExecutor

from parsl_globus.errors import ConfigError

_ADDRESSES = ("address_by_hostname", "address_by_interface", "address_by_query", "address_by_route")


@functools.cache
def _table(kind: str) -> Mapping[str, Callable[..., Any]]:
    if kind == "provider":
        return {name: getattr(parsl.providers, name) for name in parsl.providers.__all__}
    if kind == "launcher":
        return {name: getattr(parsl.launchers, name) for name in parsl.launchers.__all__}
    return {name: getattr(parsl.addresses, name) for name in _ADDRESSES}


def names(kind: str) -> frozenset[str]:
    """The valid types of a `provider`, `launcher` or `address` block."""
    return frozenset(_table(kind))


def lookup(kind: str, name: str) -> Callable[..., Any]:
    """Parsl's class or function of this name.

    Raises:
        ConfigError: There is none.
    """
    try:
        return _table(kind)[name]
    except KeyError:
        raise ConfigError(f"There is no {kind} '{name}'.") from None


def engine_class(engine: str = "GlobusComputeEngine") -> type[HighThroughputExecutor]:
    """The executor behind GlobusComputeEngine or GlobusMPIEngine."""
    return MPIExecutor if engine == "GlobusMPIEngine" else HighThroughputExecutor


@functools.cache
def parameters_of(target: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of `target` that can be given by name."""
    given = inspect.signature(target).parameters
    return {name: parameter for name, parameter in given.items() if name != "self" and parameter.kind in _BY_NAME}


_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def arguments_of(target: Callable[..., Any]) -> frozenset[str]:
    """The names of those parameters."""
    return frozenset(parameters_of(target))
