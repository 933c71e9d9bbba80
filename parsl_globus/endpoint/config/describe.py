"""What `endpoint check` shows: the model, Parsl's objects, and the script that the scheduler would get."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from parsl.providers.base import ExecutionProvider

from parsl_globus.endpoint.config.build import build_address, build_executor, build_provider, stays_here
from parsl_globus.endpoint.config.classes import lookup
from parsl_globus.endpoint.config.model import Block, EngineModel, ProviderBlock
from parsl_globus.errors import ConfigError

#: Engines without an executor of Parsl's.
_OWN_ENGINES = {
    "ThreadPoolEngine": "threads of the user endpoint's process",
    "ProcessPoolEngine": "processes of the user endpoint on this machine",
}
#: Stands for what is known only when the endpoint runs, or only on another machine.
_ADDRESS = "ADDRESS"


@dataclass(frozen=True)
class Description:
    """What would be built, as text.

    Attributes:
        model: The typed model, as YAML.
        executor: Parsl's executor with its provider and launcher, or `None` where it can't be built.
        submit_script: What the scheduler would get, or `None` where the provider has no script.
        problems: Why something can't be built on this machine.
    """

    model: str
    executor: str | None
    submit_script: str | None
    problems: tuple[ConfigError, ...] = ()


class _Captured(Exception):
    """Carries the script out of the provider."""

    def __init__(self, script: str) -> None:
        super().__init__("captured")
        self.script = script


def describe(engine: EngineModel) -> Description:
    """Build what `engine` describes, without starting, submitting or asking anything."""
    model = yaml.safe_dump(engine.model_dump(mode="json", exclude_none=True), sort_keys=False)
    if engine.type in _OWN_ENGINES:
        return Description(model=model, executor=_OWN_ENGINES[engine.type], submit_script=None)
    problems: list[ConfigError] = []
    address = _address(engine, problems)
    executor, script = None, None
    try:
        provider = build_provider(engine.provider, _capturing(lookup("provider", engine.provider.type)))
        built = build_executor(engine, provider=provider, address=address)
        executor = repr(built)
        script = _script(provider, filled_launch_command(built))
    except ConfigError as exc:
        problems.append(exc)
    return Description(model=model, executor=executor, submit_script=script, problems=tuple(problems))


def _address(engine: EngineModel, problems: list[ConfigError]) -> str:
    if isinstance(engine.address, Block) and engine.address.type == "address_by_query":
        return _ADDRESS  # it would ask a web site
    own_network = engine.container is not None and engine.container.has_own_network
    if engine.address is None and (own_network or not stays_here(engine.provider)):
        return _ADDRESS  # Parsl would look for all of this machine's, and ask a web site
    try:
        return build_address(engine) or _ADDRESS
    except ConfigError as exc:
        problems.append(exc)
        return _ADDRESS


def filled_launch_command(executor: Any) -> str:
    """The command of one block; what is known only while the executor runs is a word in capitals."""
    executor.worker_port = executor.worker_port or 0
    executor.logconf_path = None
    executor.cert_dir = "CERTIFICATES" if executor.encrypted else None
    executor.run_dir = "RUN_DIR"
    executor.initialize_scaling()  # fills in the launch command, and nothing else
    return str(executor.launch_cmd).format(block_id="0").replace("--port=0 ", "--port=PORT ")


def submit_script(block: ProviderBlock, command: str) -> str | None:
    """The script by which `command` would be submitted, made by the provider itself.

    Returns:
        The script, or `None` when the provider doesn't write one.

    Raises:
        ConfigError: The provider can't be made, or can't write it.
    """
    return _script(build_provider(block, _capturing(lookup("provider", block.type))), command)


def _script(provider: ExecutionProvider, command: str) -> str | None:
    name = type(provider).__name__
    if name == "KubernetesProvider":
        vars(provider)["kube_client"] = _PodCatcher()
    try:
        with tempfile.TemporaryDirectory() as folder:
            provider.script_dir = folder
            try:
                provider.submit(command, 1, "parsl.check.block-0")
            except _Captured as captured:
                return captured.script.replace(folder, "SCRIPT_DIR")
    except Exception as exc:
        # Providers raise as they like.
        raise ConfigError(f"{name} can't write its submit script: {exc}", key_path="engine.provider") from exc
    return None


def _capturing(base: Any) -> Any:
    """A subclass that writes its script and then, instead of submitting it, hands it over."""

    class Capturing(base):  # type: ignore[misc]
        def execute_wait(self, cmd: str, timeout: float | None = None) -> tuple[int, str, str]:  # noqa: ARG002
            return 1, "", "not run by a check"

        def _write_submit_script(self, template: str, script_filename: str, *rest: Any) -> None:
            super()._write_submit_script(template, script_filename, *rest)
            raise _Captured(Path(script_filename).read_text())

    Capturing.__name__ = base.__name__
    return Capturing


class _PodCatcher:
    """In place of the client by which KubernetesProvider asks for a pod."""

    def create_namespaced_pod(self, *, namespace: str, body: Any) -> None:
        from kubernetes import client

        with client.ApiClient() as api:
            pod = {"apiVersion": "v1", "kind": "Pod", **api.sanitize_for_serialization(body)}
        pod["metadata"]["namespace"] = namespace
        raise _Captured(yaml.safe_dump(pod, sort_keys=False))
