"""What a configuration needs of this machine and doesn't find: commands, interface, modules, account, packages."""

from __future__ import annotations

import getpass
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from parsl_globus.endpoint.config.build import missing_interface, stays_here
from parsl_globus.endpoint.config.model import NO_EFFECT, EndpointModel, EngineModel, ProviderBlock

#: Commands of the scheduler by which each provider submits, asks and cancels.
_SCHEDULER_COMMANDS = {
    "SlurmProvider": ("sbatch", "squeue", "scancel"),
    "PBSProProvider": ("qsub", "qstat", "qdel"),
    "TorqueProvider": ("qsub", "qstat", "qdel"),
    "LSFProvider": ("bsub", "bjobs", "bkill"),
    "GridEngineProvider": ("qsub", "qstat", "qdel"),
    "CondorProvider": ("condor_submit", "condor_q", "condor_rm"),
    "LocalProvider": ("bash", "ps"),
}
#: Commands by which each launcher starts workers within a block.
_LAUNCHER_COMMANDS = {
    "SrunLauncher": "srun",
    "SrunMPILauncher": "srun",
    "AprunLauncher": "aprun",
    "JsrunLauncher": "jsrun",
    "GnuParallelLauncher": "parallel",
    "MpiExecLauncher": "mpiexec",
    "MpiRunLauncher": "mpirun",
}
_ACCOUNT_KEYS = ("account", "project")
#: What examples and our own templates write in place of a value.
_PLACEHOLDER = re.compile(
    r"CHANGE[_-]?ME|(\b|_)(your|example)[_-]|[_-](name|here)\b$|^(account|project|allocation)$|^x{3,}$|<.*>|\{\{|^m0000$",
    re.IGNORECASE,
)
_ASK_TIMEOUT_S = 15.0


@dataclass(frozen=True)
class Finding:
    """Something that is not as the configuration needs it.

    Attributes:
        severity: An `error` stops the endpoint or each of its blocks from starting; a `warning` may not.
        kind: What is concerned: `command`, `interface`, `address`, `module`, `file`, `account`, `setting` or `build`.
        key_path: The key that needs it.
        message: A sentence.
    """

    severity: Literal["error", "warning"]
    kind: str
    key_path: str
    message: str


def findings(config: EndpointModel) -> list[Finding]:
    """What this machine lacks for `config`. Nothing is started or submitted.

    The only programs that run are `module is-avail`, for modules that `worker_init` loads, and Slurm's `sacctmgr`,
    where there are such.
    """
    found = list(_settings(config))
    engine = config.engine
    if engine is not None and engine.type in ("GlobusComputeEngine", "GlobusMPIEngine"):
        for part in (_scheduler, _launcher, _account, _blocks, _worker_init):
            found += part(engine.provider)
        for part_of_engine in (_container, _mpi_launcher, _address):
            found += part_of_engine(engine)
    return found


def _settings(config: EndpointModel) -> Iterator[Finding]:
    for key in sorted(config.model_fields_set & set(NO_EFFECT)):
        yield Finding("warning", "setting", key, f"This has no effect here: {NO_EFFECT[key]}")


def _scheduler(provider: ProviderBlock) -> Iterator[Finding]:
    missing = [name for name in _SCHEDULER_COMMANDS.get(provider.type, ()) if shutil.which(name) is None]
    if missing:
        yield Finding(
            "error",
            "command",
            "engine.provider.type",
            f"{provider.type} needs the command{'s' if len(missing) > 1 else ''} {', '.join(missing)}, which "
            "can't be found in PATH. Run the endpoint on a login node of the site.",
        )


def _launched(provider: ProviderBlock, key_path: str, who: str, command: str) -> Iterator[Finding]:
    """What to say of a `command` that `who` runs within blocks."""
    if shutil.which(command) is not None:
        return
    here = provider.type == "LocalProvider"
    sure = here and not provider.arguments.get("worker_init")
    yield Finding(
        "error" if sure else "warning",
        "command",
        key_path,
        f"{who} runs the command {command}, which can't be found in PATH here; "
        + ("blocks run here, too." if here else "compute nodes need it, or worker_init must bring it."),
    )


def _container(engine: EngineModel) -> Iterator[Finding]:
    container = engine.container
    if container is None or container.kind == "custom":
        return
    yield from _launched(engine.provider, "engine.container_type", "The container", container.kind)
    if container.image is not None and container.image.startswith("/") and not os.path.exists(container.image):
        yield Finding("warning", "file", "engine.container_uri", f"There is no file {container.image} on this machine.")


def _mpi_launcher(engine: EngineModel) -> Iterator[Finding]:
    if engine.type == "GlobusMPIEngine":
        command = str(engine.options.get("mpi_launcher", "mpiexec"))
        yield from _launched(engine.provider, "engine.mpi_launcher", "Each task", command)


def _launcher(provider: ProviderBlock) -> Iterator[Finding]:
    launcher = provider.launcher
    command = _LAUNCHER_COMMANDS.get(launcher.type) if launcher is not None else None
    if launcher is not None and launcher.type == "WrappedLauncher":
        command = next(iter(shlex.split(str(launcher.arguments["prepend"]))), None)
    if launcher is not None and command is not None:
        yield from _launched(provider, "engine.provider.launcher.type", launcher.type, command)


def _account(provider: ProviderBlock) -> Iterator[Finding]:
    for key, value in provider.arguments.items():
        path = f"engine.provider.{key}"
        if not isinstance(value, str):
            continue
        if "CHANGE_ME" in value or (key in _ACCOUNT_KEYS and _PLACEHOLDER.search(value)):
            yield Finding("error", "account", path, f"'{value}' is a placeholder; write your own {key} there.")
        elif provider.type == "SlurmProvider" and key == "account":
            known = _slurm_accounts()
            if known and value.lower() not in known:
                yield Finding(
                    "warning",
                    "account",
                    path,
                    f"Slurm doesn't list '{value}' among your accounts ({', '.join(sorted(known))}).",
                )


def _slurm_accounts() -> frozenset[str]:
    """The accounts that Slurm lists for this user; none where it keeps no accounts, or can't be asked."""
    if shutil.which("sacctmgr") is None:
        return frozenset()
    said = _ask(["sacctmgr", "-nP", "show", "associations", f"user={getpass.getuser()}", "format=account"])
    return frozenset(line.strip().lower() for line in (said or "").splitlines() if line.strip())


def _blocks(provider: ProviderBlock) -> Iterator[Finding]:
    first, most = provider.arguments.get("init_blocks"), provider.arguments.get("max_blocks")
    if first is not None and most is not None and first > most:
        yield Finding(
            "warning",
            "setting",
            "engine.provider.init_blocks",
            f"{first} blocks are asked for at the start, although at most {most} are wanted.",
        )


def _address(engine: EngineModel) -> Iterator[Finding]:
    missing = missing_interface(engine)
    if missing is not None:
        yield Finding("error", "interface", "engine.address.ifname", missing)
    elif engine.address is None and not stays_here(engine.provider):
        yield Finding(
            "warning",
            "address",
            "engine.address",
            "Without an address, workers try each one of this machine, and at the start a web site is asked for its "
            "public one. Name the interface that compute nodes see.",
        )


def _worker_init(provider: ProviderBlock) -> Iterator[Finding]:
    text = provider.arguments.get("worker_init")
    if not isinstance(text, str) or provider.type == "KubernetesProvider":
        return
    path = "engine.provider.worker_init"
    for module in modules_of(text):
        there = _module_there(module)
        if there is False:
            yield Finding("warning", "module", path, f"There is no environment module '{module}' on this machine.")
        elif there is None:
            yield Finding(
                "warning",
                "module",
                path,
                f"worker_init loads the environment module '{module}', but this machine has no command 'module'.",
            )
    for words in _statements(text):
        if words[0] in ("source", ".") and len(words) > 1 and words[1].startswith(("/", "~")):
            file = os.path.expanduser(words[1])
            if not os.path.exists(file):
                yield Finding("warning", "file", path, f"There is no file {file} on this machine.")


def modules_of(worker_init: str) -> list[str]:
    """The environment modules that these shell commands load."""
    found: list[str] = []
    for words in _statements(worker_init):
        if words[0] == "module" and len(words) > 2 and words[1] in ("load", "add"):
            names = words[2:]
        elif words[0] == "ml":
            names = words[1:]
        else:
            continue
        found += [name for name in names if not name.startswith("-") and not re.search(r"[$`{}]", name)]
    return list(dict.fromkeys(found))


def _statements(text: str) -> Iterator[list[str]]:
    for statement in re.split(r"[;\n]|&&|\|\|", text):
        try:
            words = shlex.split(statement, comments=True)
        except ValueError:
            continue  # a quotation that goes over several statements
        if words:
            yield words


def _module_there(name: str) -> bool | None:
    """Whether there is such a module; `None` where there are none at all."""
    script = (
        'command -v module >/dev/null || { echo none; exit; }; module is-avail "$1" 2>/dev/null && echo yes || echo no'
    )
    # A login shell, since that is where sites define the function.
    said = _ask(["bash", "-lc", script, "check", name])
    word = (said or "").strip().rpartition("\n")[2]
    return {"yes": True, "no": False}.get(word)


def _ask(command: list[str]) -> str | None:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_ASK_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
