"""Values of a configuration, checked against the signatures of Parsl's own classes before anything is built."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Union, get_args, get_origin

from typeguard import TypeCheckError, check_type

from parsl_globus.endpoint.config.classes import parameters_of
from parsl_globus.errors import ConfigError

#: What Parsl's ExecutionProvider declares of its attributes, and others of their kind, for the providers whose
#: arguments have no annotation.
_PROVIDER_ATTRIBUTES: Mapping[str, Any] = {
    "nodes_per_block": int,
    "init_blocks": int,
    "min_blocks": int,
    "max_blocks": int,
    "parallelism": float,
    "cores_per_node": int,
    "cores_per_block": int,
    "cpus_per_node": int,
    "mem_per_node": float,
}
_AT_LEAST = {
    **{"nodes_per_block": 1, "init_blocks": 0, "min_blocks": 0, "max_blocks": 0},
    **{"max_workers_per_node": 1, "prefetch_capacity": 0},
}
_SCALAR = str | float  # whole numbers are numbers, too
_WORDS: Mapping[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    dict: "a mapping",
    Any: "anything",
}


def checked(
    target: Callable[..., Any], arguments: Mapping[str, Any], path: str, *, given_elsewhere: Iterable[str] = ()
) -> dict[str, Any]:
    """`arguments` as `target` takes them: YAML's lists are made tuples where only those will do.

    Args:
        target: A class or function of Parsl's.
        arguments: By name; each name is one of its parameters.
        path: Key path of the block that holds them.
        given_elsewhere: Parameters that something else fills in.

    Raises:
        ConfigError: A value is of another type than the signature says, or a parameter without default is missing.
    """
    parameters = parameters_of(target)
    for name, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and name not in arguments and name not in given_elsewhere:
            raise ConfigError(
                f"The key '{name}' is missing; {target.__name__} can't do without it.", key_path=f"{path}.{name}"
            )
    return {name: _value(target, name, value, f"{path}.{name}") for name, value in arguments.items()}


def expected_type(target: Callable[..., Any], name: str) -> Any:
    """The type of `target`'s parameter `name`: as annotated, or as its default value shows."""
    hints = _hints(target)
    if name in hints:
        return hints[name]
    default = parameters_of(target)[name].default
    if name in _PROVIDER_ATTRIBUTES:
        return _PROVIDER_ATTRIBUTES[name]
    if default is inspect.Parameter.empty:
        return Any
    if default is None:
        return _SCALAR
    return float if type(default) is int else type(default)  # a time limit of 1.5 s is nothing wrong


def in_words(annotation: Any) -> str:
    """`annotation` for people who write YAML."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(in_words(option) for option in get_args(annotation) if option in _writable()))
    if origin is tuple:
        options = get_args(annotation)
        if len(options) == 2 and options[1] is Ellipsis:
            return f"a list, each {in_words(options[0])}"
        return f"a list of {len(options)} values, each {' or '.join(dict.fromkeys(map(in_words, options)))}"
    if origin in (list, collections.abc.Sequence):
        return f"a list, each {in_words(get_args(annotation)[0])}"
    if origin is dict:
        return f"a mapping, each value {in_words(get_args(annotation)[1])}"
    return _WORDS.get(annotation, f"a {getattr(annotation, '__name__', annotation)}, which YAML can't express")


class _writable:  # noqa: N801 - reads as what it is: the set of types that YAML has
    """Contains each annotation that a value in YAML can have."""

    def __contains__(self, annotation: object) -> bool:
        return annotation in _WORDS or get_origin(annotation) in (tuple, list, dict, collections.abc.Sequence)


@functools.cache
def _hints(target: Callable[..., Any]) -> Mapping[str, Any]:
    return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)


def _value(target: Callable[..., Any], name: str, value: Any, path: str) -> Any:
    annotation = expected_type(target, name)
    fitted = _fitted(value, annotation)
    if not _is(fitted, annotation):
        hint = "; put it in quotes" if _wants_text(annotation) and isinstance(value, (bool, int, float)) else ""
        raise ConfigError(f"This should be {in_words(annotation)}, not {value!r}{hint}.", key_path=path)
    least = _AT_LEAST.get(name)
    if least is not None and isinstance(fitted, int) and fitted < least:
        raise ConfigError(f"This should be {least} or more, not {fitted}.", key_path=path)
    return fitted


def _wants_text(annotation: Any) -> bool:
    return annotation is str or str in get_args(annotation)


def _is(value: Any, annotation: Any) -> bool:
    if get_origin(annotation) in (Union, types.UnionType):
        return any(_is(value, option) for option in get_args(annotation))
    if annotation is Any:
        return True
    if isinstance(value, bool) and annotation is not bool:
        return False  # Python takes true for the number 1; who writes it means something else
    if isinstance(value, str) and get_origin(annotation) is collections.abc.Sequence:
        return False  # a text is a sequence of texts, too, each of one letter
    try:
        check_type(value, annotation)
    except TypeCheckError:
        return False
    return True


def _fitted(value: Any, annotation: Any) -> Any:
    """`value` with tuples for lists wherever `annotation` has a tuple."""
    origin, options = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        for option in options:
            fitted = _fitted(value, option)
            if _is(fitted, option):
                return fitted
        return value
    if not isinstance(value, list):
        return value
    if origin is tuple:
        if len(options) == 2 and options[1] is Ellipsis:
            return tuple(_fitted(entry, options[0]) for entry in value)
        if len(options) == len(value):
            return tuple(_fitted(entry, option) for entry, option in zip(value, options, strict=True))
    if origin in (list, collections.abc.Sequence):
        return [_fitted(entry, options[0]) for entry in value]
    return value
