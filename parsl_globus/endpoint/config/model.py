"""The typed schema of an endpoint's configuration; unknown keys are refused, with the nearest valid one."""

from __future__ import annotations

import difflib
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from parsl_globus.endpoint.config.serializers import check_serializers
from parsl_globus.endpoint.config.walltime import canonical_walltime
from parsl_globus.endpoint.containers import CONTAINER_TYPES, Container
from parsl_globus.errors import ConfigError

#: HTEX's arguments that the agent sets itself, so that a configuration may not.
RESERVED_ENGINE_ARGUMENTS = frozenset({"storage_access", "remote_monitoring_radio", "interchange_launch_cmd"})

#: Engines without Parsl, and the keys of their own that they take.
_LOCAL_ENGINES: Mapping[str, frozenset[str]] = {
    "ThreadPoolEngine": frozenset({"max_workers", "thread_name_prefix"}),
    "ProcessPoolEngine": frozenset({"max_workers", "max_tasks_per_child"}),
}
ENGINES = ("GlobusComputeEngine", "GlobusMPIEngine", *_LOCAL_ENGINES)
#: What the public agent's classes take in Python, and a file can't hold or needn't.
_REFUSED_KEYS = {
    "executor": "An object can't be in a file; write the executor's arguments as keys of the engine.",
    "endpoint_id": "An engine serves the endpoint whose folder this file is in; remove the key.",
    "mp_context": "The engine's workers are programs of their own, so there is nothing to choose; remove the key.",
    "initializer": "A function can't be in a file; use endpoint_setup, or worker_init of a provider.",
    "initargs": "It belongs to 'initializer', which can't be in a file.",
}
#: The engine's own keys; all others go to Parsl's HighThroughputExecutor.
_ENGINE_KEYS = (
    *("type", "provider", "address", "label", "max_retries_on_system_failure", "strategy", "job_status_kwargs"),
    *("run_in_sandbox", "working_dir", "allowed_serializers", "fuse_short_tasks"),
)
_OLD_STRATEGIES = {"SimpleStrategy": "simple", "NoStrategy": "none", "HTEXAutoScale": "htex_auto_scale"}
_CONTAINER_PROVIDERS = frozenset({"AWSProvider", "GoogleCloudProvider", "KubernetesProvider"})
_CONTAINER_KEYS = ("container_type", "container_uri", "container_cmd_options")


#: Keys of the public agent's that are taken, so that its files load, but do nothing here, and why.
NO_EFFECT = {
    "audit_log_path": "an audit log is written for high assurance only, which this version doesn't offer.",
    "detach_endpoint": "'endpoint start' runs in the background and 'endpoint run' in the foreground.",
    "email": "nothing is sent by mail.",
    "environment": "the service is the one you logged in to, or that --url names.",
    "heartbeat_threshold": "a lost connection is noticed by the broker's own heartbeats.",
    "local_compute_services": "the service is the one you logged in to, or that --url names.",
    "paths": "all files are in the endpoint's folder; PARSL_GLOBUS_HOME moves that.",
}
#: Keys of those that run tasks. Where a template makes these, they belong into it.
_RUNNING_KEYS = ("idle_heartbeats_soft", "idle_heartbeats_hard", "endpoint_setup", "endpoint_teardown")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Block(_Model):
    """One of Parsl's classes or functions, by its exported name, with its keyword arguments."""

    type: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class ProviderBlock(Block):
    """A provider; its launcher is a block of its own."""

    launcher: Block | None = None


class PollerModel(_Model):
    """Keyword arguments of Parsl's `JobStatusPoller`."""

    strategy: Literal["none", "simple", "htex_auto_scale"] | None = "simple"
    max_idletime: float = Field(default=120.0, ge=0)
    strategy_period: float = Field(default=5.0, gt=0)


class EngineModel(_Model):
    """What runs the tasks.

    Attributes:
        container: What starts a container around each worker pool, or `None`.
        options: Arguments for Parsl's executor, or for threads or processes.
        working_dir: Where tasks run; relative to the user endpoint's folder.
        fuse_short_tasks: Whether many waiting tasks that were measured to take milliseconds go to a worker together.
    """

    type: Literal["GlobusComputeEngine", "GlobusMPIEngine", "ThreadPoolEngine", "ProcessPoolEngine"]
    label: str | None = None
    provider: ProviderBlock = ProviderBlock(type="LocalProvider")
    address: str | Block | None = None
    max_retries_on_system_failure: int = Field(default=0, ge=0)
    poller: PollerModel = PollerModel()
    run_in_sandbox: bool = False
    working_dir: str = "tasks_working_dir"
    allowed_serializers: list[str] | None = None
    fuse_short_tasks: bool = True
    container: Container | None = None
    options: dict[str, Any] = Field(default_factory=dict)


class PamModel(_Model):
    """PAM sessions for user endpoints."""

    enable: bool = True
    service_name: str = "globus-compute-endpoint"


class PathsModel(_Model):
    """Where the public agent keeps its files; ours are always in the endpoint's folder."""

    endpoint_dir: str | None = None
    endpoint_log: str | None = None


class EndpointModel(_Model):
    """A whole configuration file; the keys are those of `globus-compute-endpoint`."""

    display_name: str | None = None
    engine: EngineModel | None = None
    multi_user: bool = False
    public: bool = False
    high_assurance: bool = False
    admins: list[uuid.UUID] | None = None
    allowed_functions: list[uuid.UUID] | None = None
    authentication_policy: uuid.UUID | None = None
    subscription_id: uuid.UUID | None = None
    amqp_port: int | None = Field(default=None, ge=1, le=65535)
    heartbeat_period: float = Field(default=30.0, ge=1)
    heartbeat_threshold: int = 120
    idle_heartbeats_soft: int = Field(default=0, ge=0)
    idle_heartbeats_hard: int = Field(default=5760, ge=0)
    endpoint_setup: str | None = None
    endpoint_teardown: str | None = None
    detach_endpoint: bool = True
    environment: str | None = None
    local_compute_services: bool = False
    debug: bool = False
    paths: PathsModel | None = None
    user_config_template_path: str | None = None
    user_config_schema_path: str | None = None
    identity_mapping_config_path: str | None = None
    audit_log_path: str | None = None
    pam: PamModel | None = None
    mu_child_ep_grace_period_s: float = 30.0
    email: str | None = None

    @field_validator("display_name")
    @classmethod
    def _no_word_none(cls, value: str | None) -> str | None:
        # Files written by the public agent in 2023 hold the text "None" where no name was given.
        return None if value == "None" else value


def build_model(document: Mapping[str, Any]) -> EndpointModel:
    """Check a configuration document.

    Raises:
        ConfigError: Something is wrong with it; `key_path` says where.
    """
    raw = {key: value for key, value in document.items() if value is not None}
    for key in raw:
        _require_known(str(key), EndpointModel.model_fields, "")
    for part, fields in (("pam", PamModel.model_fields), ("paths", PathsModel.model_fields)):
        for key in _mapping(raw.get(part, {}), part):
            _require_known(key, fields, part)
    engine = raw.get("engine")
    if engine is not None:
        raw["engine"] = _engine(_mapping(engine, "engine"))
    model = _validate(EndpointModel, raw, "")
    assert isinstance(model, EndpointModel)
    _refuse_unsupported(model)
    return model


def nearest(key: str, valid: Iterable[str]) -> str:
    """A hint for an unknown `key`: the nearest valid one, or all when none is near."""
    names = sorted(valid)
    near = difflib.get_close_matches(key, names, n=1)
    return f"did you mean '{near[0]}'?" if near else f"valid are: {', '.join(names)}."


def _require_known(key: str, valid: Iterable[str], path: str) -> None:
    if key not in valid:
        raise ConfigError(f"There is no key '{key}' here; {nearest(key, valid)}", key_path=_join(path, key))


def _engine(raw: dict[str, Any]) -> EngineModel:
    kind = _type_of(raw, "engine")
    if kind not in ENGINES:
        raise ConfigError(f"There is no engine '{kind}'; {nearest(kind, ENGINES)}", key_path="engine.type")
    for key in raw:
        if key in _REFUSED_KEYS:
            raise ConfigError(_REFUSED_KEYS[key], key_path=f"engine.{key}")
    container = {key: raw.pop(key) for key in _CONTAINER_KEYS if key in raw}
    own = {key: raw.pop(key) for key in _ENGINE_KEYS if key in raw}
    check_serializers(own.get("allowed_serializers"))
    poller = _mapping(own.pop("job_status_kwargs", {}), "engine.job_status_kwargs")
    for key in poller:
        _require_known(key, PollerModel.model_fields, "engine.job_status_kwargs")
    poller = {**_old_strategy(own.pop("strategy", None)), **poller}
    own["poller"] = _validate(PollerModel, poller, "engine.job_status_kwargs")
    own["options"] = _engine_options(kind, raw)
    if kind not in _LOCAL_ENGINES:
        provider = _provider(_mapping(own.get("provider", {"type": "LocalProvider"}), "engine.provider"))
        own["provider"] = _for_mpi(provider) if kind == "GlobusMPIEngine" else provider
        own["container"] = _container(container, provider)
        if isinstance(own.get("address"), Mapping):
            own["address"] = _block(_mapping(own["address"], "engine.address"), "address", "engine.address")
    else:
        for key in ("provider", "address", *_CONTAINER_KEYS):
            if key in own or key in container:
                raise ConfigError(f"{kind} runs on this machine and takes no {key}.", key_path=f"engine.{key}")
    model = _validate(EngineModel, own, "engine")
    assert isinstance(model, EngineModel)
    return model


def _old_strategy(value: Any) -> dict[str, Any]:
    """Poller arguments of the key `strategy`, which is a name, or a mapping as the public agent took it at first."""
    if not isinstance(value, Mapping):
        return {} if value is None else {"strategy": value}
    keys = {str(key): entry for key, entry in value.items()}
    name = _OLD_STRATEGIES.get(str(keys.pop("type", None)))
    if name is None:
        raise ConfigError(
            f"A strategy's type is one of {', '.join(_OLD_STRATEGIES)}; better write 'job_status_kwargs'.",
            key_path="engine.strategy.type",
        )
    for key in keys:
        _require_known(key, {"max_idletime", "strategy_period"}, "engine.strategy")
    return {"strategy": name, **keys}


def _engine_options(kind: str, raw: dict[str, Any]) -> dict[str, Any]:
    from parsl_globus.endpoint.config.classes import arguments_of, engine_class
    from parsl_globus.endpoint.config.values import checked

    if kind in _LOCAL_ENGINES:
        for key, value in raw.items():
            _require_known(key, _LOCAL_ENGINES[kind] | set(_ENGINE_KEYS), "engine")
            if key != "thread_name_prefix" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ConfigError(f"This should be a whole number from 1 up, not {value!r}.", key_path=f"engine.{key}")
        return raw
    target = engine_class(kind)
    valid = set(arguments_of(target)) - RESERVED_ENGINE_ARGUMENTS
    for key in raw:
        if key in ("enable_mpi_mode", "mpi_launcher") and key not in valid - {"enable_mpi_mode"}:
            raise ConfigError("For MPI tasks, the engine's type is GlobusMPIEngine.", key_path=f"engine.{key}")
        _require_known(key, valid | set(_ENGINE_KEYS) | set(_CONTAINER_KEYS), "engine")
    options = checked(target, raw, "engine")
    if kind == "GlobusMPIEngine":
        _check_mpi(options)
    return options


def _check_mpi(options: Mapping[str, Any]) -> None:
    from parsl.executors.high_throughput.mpi_prefix_composer import VALID_LAUNCHERS

    launcher = options.get("mpi_launcher", "mpiexec")
    if launcher not in VALID_LAUNCHERS:
        raise ConfigError(
            f"There is no MPI launcher '{launcher}'; {nearest(str(launcher), VALID_LAUNCHERS)}",
            key_path="engine.mpi_launcher",
        )
    if options.get("max_workers_per_block", 1) < 1:
        raise ConfigError("At least one task at a time.", key_path="engine.max_workers_per_block")


def _for_mpi(provider: ProviderBlock) -> ProviderBlock:
    """The provider with the one launcher that MPIExecutor takes: MPI's own starts the ranks, from the first node."""
    from parsl_globus.endpoint.config.classes import arguments_of, lookup

    if "launcher" not in arguments_of(lookup("provider", provider.type)):
        raise ConfigError(
            f"GlobusMPIEngine needs a provider with a launcher; {provider.type} takes none.",
            key_path="engine.provider.type",
        )
    if provider.launcher is None:
        return provider.model_copy(update={"launcher": Block(type="SimpleLauncher")})
    if provider.launcher.type != "SimpleLauncher":
        raise ConfigError(
            f"GlobusMPIEngine needs SimpleLauncher, not {provider.launcher.type}: one worker pool runs on a block's "
            "first node, and each task starts its ranks itself, by $PARSL_MPI_PREFIX.",
            key_path="engine.provider.launcher.type",
        )
    return provider


def _container(raw: Mapping[str, Any], provider: ProviderBlock) -> Container | None:
    if not raw:
        return None
    for key, value in raw.items():
        if not isinstance(value, str):
            raise ConfigError(f"This should be a text, not {value!r}.", key_path=f"engine.{key}")
    if provider.type in _CONTAINER_PROVIDERS:
        raise ConfigError(
            f"{provider.type} starts its workers from images itself; name the image there.",
            key_path=f"engine.{next(iter(raw))}",
        )
    if "container_type" not in raw:
        raise ConfigError(
            f"It says nothing without container_type, one of {', '.join(CONTAINER_TYPES)}.",
            key_path=f"engine.{next(iter(raw))}",
        )
    return Container(raw["container_type"], raw.get("container_uri"), raw.get("container_cmd_options", ""))


def _provider(raw: dict[str, Any]) -> ProviderBlock:
    launcher = raw.pop("launcher", None)
    _type_of(raw, "engine.provider")
    if "walltime" in raw:
        raw["walltime"] = canonical_walltime(raw["walltime"], "engine.provider.walltime")
    block = _block(raw, "provider", "engine.provider")
    _check_blocks(block)
    launcher_block = None
    if launcher is not None:
        from parsl_globus.endpoint.config.classes import arguments_of, lookup

        if "launcher" not in arguments_of(lookup("provider", block.type)):
            raise ConfigError(f"{block.type} takes no launcher.", key_path="engine.provider.launcher")
        path = "engine.provider.launcher"
        launcher_block = _block(_mapping(launcher, path), "launcher", path)
    return ProviderBlock(type=block.type, arguments=block.arguments, launcher=launcher_block)


def _check_blocks(block: Block) -> None:
    least, most = block.arguments.get("min_blocks"), block.arguments.get("max_blocks")
    if least is not None and most is not None and least > most:
        raise ConfigError(
            f"The least number of blocks is {least}, more than the most, {most}.", key_path="engine.provider.min_blocks"
        )


def _block(raw: dict[str, Any], kind: str, path: str) -> Block:
    from parsl_globus.endpoint.config.classes import arguments_of, lookup, names
    from parsl_globus.endpoint.config.values import checked

    type_name = _type_of(raw, path)
    if type_name not in names(kind):
        raise ConfigError(
            f"There is no {kind} '{type_name}'; {nearest(type_name, names(kind))}", key_path=f"{path}.type"
        )
    del raw["type"]
    target = lookup(kind, type_name)
    for key in raw:
        _require_known(key, arguments_of(target), path)
    return Block(type=type_name, arguments=checked(target, raw, path, given_elsewhere=("launcher",)))


def _type_of(raw: Mapping[str, Any], path: str) -> str:
    kind = raw.get("type")
    if not isinstance(kind, str):
        raise ConfigError("The key 'type' is missing; it names the class.", key_path=f"{path}.type")
    return kind


def _mapping(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"This should be a mapping of keys to values, not {value!r}.", key_path=path)
    return {str(key): entry for key, entry in value.items() if entry is not None}


def _validate(model: type[_Model], raw: Mapping[str, Any], path: str) -> _Model:
    try:
        return model.model_validate(dict(raw))
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        where = _join(path, *[str(part) for part in first["loc"]])
        raise ConfigError(f"{first['msg']}, not {first['input']!r}.", key_path=where or None) from None


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _refuse_unsupported(model: EndpointModel) -> None:
    for key in _RUNNING_KEYS:
        if model.engine is None and key in model.model_fields_set:
            raise ConfigError(
                "This is for what runs tasks, and without 'engine' this file doesn't; write it into the template.",
                key_path=key,
            )
    if model.engine is not None and model.engine.type == "ThreadPoolEngine" and model.engine.run_in_sandbox:
        raise ConfigError(
            "Threads share the process's folder, so tasks can't have folders of their own; use another engine.",
            key_path="engine.run_in_sandbox",
        )
    if (
        model.identity_mapping_config_path is not None
        and model.multi_user is False
        and "multi_user" in model.model_fields_set
    ):
        raise ConfigError(
            "An identity mapping is for several users; say multi_user: true, or remove the mapping.",
            key_path="multi_user",
        )
    if model.pam is not None and model.pam.enable:
        raise ConfigError("PAM sessions are not supported by this version yet.", key_path="pam")
    if model.high_assurance:
        raise ConfigError(
            "High assurance needs an audit log, which this version doesn't write.", key_path="high_assurance"
        )
