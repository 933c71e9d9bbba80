"""The typed model to Parsl's own objects: HighThroughputExecutor, provider, launcher, address; nothing is started."""

from __future__ import annotations

import os
import re
import shlex
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from parsl.errors import OptionalModuleMissing
from parsl.executors.high_throughput.executor import DEFAULT_LAUNCH_CMD, HighThroughputExecutor
from parsl.launchers.base import Launcher
from parsl.providers.base import ExecutionProvider
from typeguard import TypeCheckError

from parsl_globus.endpoint.blocks import give_up_on_blocks
from parsl_globus.endpoint.config.classes import engine_class, lookup
from parsl_globus.endpoint.config.model import Block, EngineModel, ProviderBlock
from parsl_globus.endpoint.htex_private import relax_version_check
from parsl_globus.errors import ConfigError

POOL_MODULE = "parsl.executors.high_throughput.process_worker_pool"
POOL_COMMAND = "process_worker_pool.py"
INTERCHANGE_MODULE = "parsl.executors.high_throughput.interchange"

#: Extras of Parsl's by which the modules of these come.
_PARSL_EXTRAS = {"KubernetesProvider": "kubernetes", "AWSProvider": "aws", "AzureProvider": "azure"}
#: Providers whose blocks have no files in common with this machine, this Python among them.
_OTHER_MACHINES = frozenset({"KubernetesProvider", "AWSProvider", "AzureProvider", "GoogleCloudProvider"})
_ONE_NODE_LAUNCHERS = frozenset({"SingleNodeLauncher", "SimpleLauncher"})


def build_executor(
    engine: EngineModel,
    *,
    provider: ExecutionProvider | None = None,
    address: str | None = None,
    run_dir: Path | None = None,
) -> HighThroughputExecutor:
    """Make the executor that `engine` describes.

    Args:
        engine: Which one.
        provider: In place of the one that it describes.
        address: In place of the one that it describes.
        run_dir: The endpoint's folder, for containers; `None` where nothing will be started.

    Raises:
        ConfigError: Parsl doesn't take a value, or this machine lacks something that it names.
    """
    provider = provider or build_provider(engine.provider)
    target = engine_class(engine.type)
    options = {"encrypted": True, **engine.options}  # whatever the version of Parsl has for a default
    in_image = engine.container is not None
    command = launch_command(engine.provider, options.get("worker_logdir_root"), in_image=in_image)
    options.setdefault("launch_cmd", command)
    if engine.container is not None:
        options["launch_cmd"] = engine.container.wrap(options["launch_cmd"], _braces(str(run_dir or "RUN_DIR")))
    if options.get("block_error_handler", True) is True:
        options["block_error_handler"] = give_up_on_blocks
    address = address or build_address(engine)
    if address is not None:
        options["address"] = address
    # It is part of paths, which Parsl doesn't quote.
    label = re.sub(r"[^\w@%+=:,.-]", "_", f"{engine.label or engine.type}-{target.__name__}", flags=re.ASCII)
    executor = _call(target, {**options, "label": label, "provider": provider}, "engine")
    assert isinstance(executor, HighThroughputExecutor)
    # Not by the constructor: MPIExecutor's takes a text only, which can't be run then.
    executor.interchange_launch_cmd = [sys.executable, "-m", INTERCHANGE_MODULE]
    relax_version_check(executor)
    return executor


def build_provider(block: ProviderBlock, cls: Callable[..., Any] | None = None) -> ExecutionProvider:
    """Make the provider, with its launcher.

    Args:
        block: Which one.
        cls: A subclass to use in place of the named class.

    Raises:
        ConfigError: Parsl doesn't take a value.
    """
    target = lookup("provider", block.type)
    arguments = dict(block.arguments)
    if block.launcher is not None:
        arguments["launcher"] = build_launcher(block.launcher)
    provider = _call(cls or target, arguments, "engine.provider")
    assert isinstance(provider, ExecutionProvider)
    return provider


def build_launcher(block: Block) -> Launcher:
    """Make the launcher.

    Raises:
        ConfigError: Parsl doesn't take a value.
    """
    launcher = _call(lookup("launcher", block.type), dict(block.arguments), "engine.provider.launcher")
    assert isinstance(launcher, Launcher)
    return launcher


def build_address(engine: EngineModel) -> str | None:
    """The address that workers connect to; `None` lets them try all addresses of this machine.

    Raises:
        ConfigError: It can't be found out, for example as there is no such interface.
    """
    if isinstance(engine.address, Block):
        missing = missing_interface(engine)
        if missing is not None:
            raise ConfigError(missing, key_path="engine.address.ifname")
        found = _call(lookup("address", engine.address.type), dict(engine.address.arguments), "engine.address")
        return str(found)
    own_network = engine.container is not None and engine.container.has_own_network
    if engine.address is None and stays_here(engine.provider) and not own_network:
        # Workers on this machine need no more. Without an address Parsl asks a web site for one, which takes its
        # timeout of 30 s where there is no way out.
        return "127.0.0.1"
    return engine.address


def missing_interface(engine: EngineModel) -> str | None:
    """What to say if `engine` names an interface that this machine doesn't have."""
    if not isinstance(engine.address, Block) or engine.address.type != "address_by_interface":
        return None
    name, known = engine.address.arguments["ifname"], sorted(name for _, name in socket.if_nameindex())
    return None if name in known else f"There is no interface {name} on this machine; it has {', '.join(known)}."


def launch_command(provider: ProviderBlock, log_folder: str | None = None, *, in_image: bool = False) -> str:
    """The command that starts a worker pool, for HTEX to fill in: Parsl's own, which the block's shell must find.

    Args:
        provider: What runs it.
        log_folder: Where the configuration wants the workers' logs.
        in_image: Whether it runs in a container, which has another Python than this machine.
    """
    if not DEFAULT_LAUNCH_CMD.startswith(POOL_COMMAND):
        raise ConfigError(f"This version of Parsl starts its workers by other means than {POOL_COMMAND}.")
    arguments = DEFAULT_LAUNCH_CMD[len(POOL_COMMAND) :]
    if log_folder is not None and re.search(r"\s", log_folder):
        # Parsl doesn't quote it. All its other paths are below a run folder that has no spaces, see `plain_path`.
        arguments = arguments.replace("{logdir}", '"{logdir}"')
    if provider.type in _OTHER_MACHINES or in_image:
        return POOL_COMMAND + arguments  # of the image's own environment
    # Tasks may start Parsl's programs by name, as workflows of their own do, even if this environment was never
    # activated.
    path = f'env PATH="$PATH":{_braces(shlex.quote(str(Path(sys.executable).parent)))}'
    if provider.arguments.get("worker_init"):
        # It may activate an environment for the workers, whose command then comes first in PATH. Where it doesn't, the
        # one next to this agent's Python serves.
        return f"{path} {POOL_COMMAND}{arguments}"
    return f"{path} {_braces(shlex.quote(sys.executable))} -m {POOL_MODULE}{arguments}"


def _braces(text: str) -> str:
    """`text` for two rounds of `str.format`, by which HTEX fills in its launch command."""
    return text.replace("{", "{{{{").replace("}", "}}}}")


def stays_here(provider: ProviderBlock) -> bool:
    """Whether all workers run on this machine."""
    launcher = provider.launcher.type if provider.launcher is not None else "SingleNodeLauncher"
    one_node = provider.arguments.get("nodes_per_block", 1) == 1
    return provider.type == "LocalProvider" and launcher in _ONE_NODE_LAUNCHERS and one_node


def _call(target: Callable[..., Any], arguments: dict[str, Any], path: str) -> Any:
    name = getattr(target, "__name__", str(target))
    try:
        return target(**arguments)
    except TypeCheckError as exc:
        # typeguard begins with: argument "queue" (int) ...
        text = str(exc)
        key = text.split('"')[1] if text.startswith('argument "') else ""
        where = f"{path}.{key}" if key in arguments else path
        raise ConfigError(f"{name} does not take this value: {text}.", key_path=where) from exc
    except OptionalModuleMissing as exc:
        extra = _PARSL_EXTRAS.get(name, "all")
        raise ConfigError(
            f"{name} needs Python modules that are not installed ({', '.join(exc.module_names)}). "
            f"Install them with: pip install 'parsl[{extra}]'",
            key_path=path,
        ) from exc
    except Exception as exc:
        # The constructors of all providers and launchers come by here, and raise as they like.
        detail = os.strerror(exc.errno) if isinstance(exc, OSError) and exc.errno else str(exc).rstrip(".")
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items()) if path == "engine.address" else ""
        raise ConfigError(f"{name}({given}) failed: {detail or type(exc).__name__}.", key_path=path) from exc
