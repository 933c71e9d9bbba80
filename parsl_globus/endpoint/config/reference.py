"""The reference of all keys of a configuration, as reStructuredText made from the models and Parsl's signatures."""

from __future__ import annotations

import inspect
import types
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from parsl_globus.endpoint.config.classes import engine_class, lookup, names, parameters_of
from parsl_globus.endpoint.config.model import (
    NO_EFFECT,
    RESERVED_ENGINE_ARGUMENTS,
    EndpointModel,
    EngineModel,
    PollerModel,
)
from parsl_globus.endpoint.config.values import expected_type, in_words

#: What each key means; a test holds them against the models.
MEANINGS: Mapping[type[BaseModel], Mapping[str, str]] = {
    EndpointModel: {
        "display_name": "What people see on the service's page and in lists; without one, the endpoint's name.",
        "engine": "What runs tasks, see below. Without it, user endpoints are made from a template.",
        "multi_user": "Whether the site maps identities to accounts of its own, see the guide for several users.",
        "public": "Whether everyone may see the endpoint. To use it, they need to be allowed to, all the same.",
        "high_assurance": "Refused: it needs an audit log, which this version doesn't write.",
        "admins": "Identities that may act for the endpoint's owner.",
        "allowed_functions": "The only functions that may be run, by id. Others' tasks end with an error.",
        "authentication_policy": "Sent to the service. Ours has no such policies, and refuses the registration.",
        "subscription_id": "Sent to the service. Globus asks for one where `admins` is given; ours doesn't.",
        "amqp_port": "Port of the broker in place of the one that the service names.",
        "heartbeat_period": "Seconds between two signs of life.",
        "heartbeat_threshold": "",
        "idle_heartbeats_soft": (
            "After so many heartbeats without a task, a user endpoint ends, once it has had one and has none left. "
            "0 lets it run on. The next task starts it again."
        ),
        "idle_heartbeats_hard": (
            "After so many heartbeats in which nothing moved, it ends even with tasks left. Counts only if "
            "`idle_heartbeats_soft` is above 0."
        ),
        "endpoint_setup": (
            "Shell commands before the engine starts. If they fail, so does the user endpoint. They may take as long "
            "as they need; `endpoint stop` ends them, and tasks wait for the next start. A limit of your own: "
            "`timeout 300 sh setup.sh`."
        ),
        "endpoint_teardown": (
            "Shell commands after the engine ended. They may take a minute, and after `endpoint stop` a few seconds."
        ),
        "detach_endpoint": "",
        "environment": "",
        "local_compute_services": "",
        "debug": "Whether every detail is logged.",
        "paths": "",
        "user_config_template_path": "The template, relative to the endpoint's folder.",
        "user_config_schema_path": "The JSON schema for users' options, relative to the endpoint's folder.",
        "identity_mapping_config_path": "How identities are mapped to accounts, see the guide for several users.",
        "audit_log_path": "",
        "pam": "PAM sessions for user endpoints, see the guide for several users.",
        "mu_child_ep_grace_period_s": (
            "A user endpoint that was asked for while it ended is started again if that is no longer ago than this, in "
            "seconds."
        ),
        "email": "",
    },
    EngineModel: {
        "type": "Which engine.",
        "label": "Names the engine's folder of logs and the jobs of the scheduler.",
        "provider": "Where blocks of workers come from, see below.",
        "address": "How workers reach this machine: an address, or a block that finds it, see below.",
        "max_retries_on_system_failure": (
            "How often a task runs again after the system lost it while it ran. A task that had not begun always runs."
        ),
        "poller": "Written as `job_status_kwargs`, see below; `strategy` alone may be a key of the engine.",
        "run_in_sandbox": "Whether each task gets a folder of its own, below `working_dir`.",
        "working_dir": "The folder in which tasks run, relative to the user endpoint's.",
        "fuse_short_tasks": "On unless told otherwise. Whether many tasks that wait go to a worker together where "
        "they were measured to take at most 3 ms; up to 10 ms of work in one trip. Results, failures and "
        "cancellation stay each task's own.",
        "allowed_serializers": "The only ways of encoding that tasks may use, by import path of the SDK's classes.",
        "container": "Written as `container_type`, `container_uri` and `container_cmd_options`: what workers run in.",
        "options": "All other keys go to Parsl's executor, see below.",
    },
    PollerModel: {
        "strategy": "How blocks are added and given back: Parsl's strategies.",
        "max_idletime": "Seconds after which an idle block is given back.",
        "strategy_period": "Seconds between two looks at what blocks are needed.",
    },
}
_HEAD = """\
.. Made from the models when the documentation is built.

"""
_WALLTIME = """\
Walltimes
---------

A ``walltime`` is read as it is written, never as a number of YAML's:

.. list-table::
   :header-rows: 1

   * - written
     - means
   * - ``01:00:00``, ``1:00:00``
     - one hour
   * - ``10:00:00``
     - ten hours
   * - ``12:00``
     - twelve minutes
   * - ``24:00:00``, ``1-00:00:00``
     - one day
   * - ``3600``
     - 3600 seconds

Less than a minute is refused: Parsl would tell Slurm ``--time=0``, which is without a limit.
"""


def reference() -> str:
    """The whole reference, a page's body."""
    parts = [
        _HEAD,
        *_model_section("The file", EndpointModel),
        *_model_section("engine", EngineModel),
        *_model_section("engine.job_status_kwargs", PollerModel),
    ]
    for engine in ("GlobusComputeEngine", "GlobusMPIEngine"):
        target = engine_class(engine)
        without = {*EngineModel.model_fields, *RESERVED_ENGINE_ARGUMENTS}
        parts += _title(f"Arguments of Parsl's {target.__name__} ({engine})", "~")
        parts += _arguments(target, without)
    for kind in ("provider", "launcher", "address"):
        where = {"provider": "engine.provider", "launcher": "engine.provider.launcher", "address": "engine.address"}
        parts += _title(where[kind], "-")
        parts.append("One of these as ``type``, with the class's own arguments as keys.\n\n")
        for name in sorted(names(kind)):
            parts += _title(name, "~")
            parts += _arguments(lookup(kind, name), {"launcher"})
    return "".join([*parts, _WALLTIME])


def _model_section(title: str, model: type[BaseModel]) -> Iterator[str]:
    yield from _title(title, "-")
    rows = []
    for key, field in model.model_fields.items():
        meaning = MEANINGS[model].get(key, "")
        if model is EndpointModel and key in NO_EFFECT:
            meaning = f"Taken, but without effect: {NO_EFFECT[key]}"
        rows.append((key, _kind(field.annotation), _default(field), meaning))
    yield from _table(("key", "value", "default", "meaning"), rows)


def _arguments(target: Any, without: Iterable[str]) -> Iterator[str]:
    rows = []
    for name, parameter in parameters_of(target).items():
        if name in without:
            continue
        needed = parameter.default is inspect.Parameter.empty
        value = in_words(expected_type(target, name))
        rows.append((name, value, "must be given" if needed else _literal(parameter.default)))
    if rows:
        yield from _table(("key", "value", "default"), rows)
    else:
        yield "No arguments.\n\n"


def _kind(annotation: Any) -> str:
    origin, options = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(_kind(option) for option in options if option is not type(None))
    if origin is Literal:
        return "one of " + ", ".join(f"``{option}``" for option in options)
    if origin is list:
        return f"a list, each {_kind(options[0])}"
    if annotation is uuid.UUID:
        return "a UUID"
    if isinstance(annotation, type) and (
        issubclass(annotation, BaseModel) or annotation not in (str, int, float, bool)
    ):
        return "a mapping"
    return in_words(annotation)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    value = field.get_default(call_default_factory=True)
    return "" if isinstance(value, (BaseModel, dict)) else _literal(value)


def _literal(value: Any) -> str:
    """A default value as it would be written; nothing for objects, which can't."""
    if isinstance(value, bool):
        return f"``{str(value).lower()}``"
    if isinstance(value, (int, float, str)):
        return f"``{value}``" if value != "" else ""
    if isinstance(value, (list, tuple)) and value:
        return f"``[{', '.join(map(str, value))}]``"
    return ""


def _title(text: str, line: str) -> list[str]:
    return [f"{text}\n{line * len(text)}\n\n"]


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield ".. list-table::\n   :header-rows: 1\n\n"
    for number, row in enumerate([head, *rows]):
        cells = [_cell(number, column, text) for column, text in enumerate(row)]
        yield "   * - " + "\n     - ".join(cells) + "\n"
    yield "\n"


def _cell(row: int, column: int, text: str) -> str:
    if column == 0 and row:
        return f"``{text}``"
    return text if "``" in text else text.replace("`", "``")
