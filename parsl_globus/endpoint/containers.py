"""Worker pools in containers: the command line that starts one, as the public agent writes it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from parsl_globus.errors import ConfigError

#: They share one command line; the image sees the endpoint's folder, where workers find marks, tasks and certificates.
DOCKER_LIKE = ("docker", "podman", "podman-hpc")
#: They show the image the user's home, the current folder and /tmp by themselves, if the site didn't forbid it.
APPTAINER_LIKE = ("apptainer", "singularity")
CONTAINER_TYPES = (*DOCKER_LIKE, *APPTAINER_LIKE, "custom")

RUNDIR_WORD = "{EXECUTOR_RUNDIR}"
COMMAND_WORD = "{EXECUTOR_LAUNCH_CMD}"


@dataclass(frozen=True)
class Container:
    """What starts a container around each worker pool.

    Attributes:
        kind: One of `CONTAINER_TYPES`.
        image: Its name or path; `None` for `custom`.
        options: Further options of the command; for `custom` the whole command, with two words to replace.
    """

    kind: str
    image: str | None = None
    options: str = ""

    def __post_init__(self) -> None:
        if self.kind not in CONTAINER_TYPES:
            raise ConfigError(
                f"There is no container type '{self.kind}'; valid are: {', '.join(CONTAINER_TYPES)}.",
                key_path="engine.container_type",
            )
        if self.kind != "custom":
            if not self.image:
                raise ConfigError(
                    f"A container of type {self.kind} needs an image: set container_uri.",
                    key_path="engine.container_uri",
                )
        elif COMMAND_WORD not in self.options:
            raise ConfigError(
                f"A container of type custom needs its whole command in container_cmd_options, with "
                f"{COMMAND_WORD} where the worker pool's command goes.",
                key_path="engine.container_cmd_options",
            )

    @property
    def has_own_network(self) -> bool:
        """Whether this machine's loopback address may be another one inside."""
        return self.kind not in APPTAINER_LIKE

    def wrap(self, command: str, run_dir: str) -> str:
        """The command line that runs `command`, for HTEX to fill in.

        Unlike the public agent's it keeps quotes: an option such as `-e NAME="two words"` stays one.

        Args:
            command: HTEX's own.
            run_dir: The endpoint's folder.

        Raises:
            ConfigError: HTEX couldn't fill it in.
        """
        options = " ".join(line.strip() for line in self.options.splitlines())
        folder = shlex.quote(run_dir)
        if self.kind == "custom":
            line = options.replace(RUNDIR_WORD, folder).replace(COMMAND_WORD, command)
        elif self.kind in DOCKER_LIKE:
            image = shlex.quote(str(self.image))
            line = " ".join(filter(None, [self.kind, "run", options, f"-v {folder}:{folder} -t", image, command]))
        else:
            line = " ".join(filter(None, [self.kind, "run", options, shlex.quote(str(self.image)), command]))
        _require_fillable(options.replace(RUNDIR_WORD, "").replace(COMMAND_WORD, ""))
        return line


def _require_fillable(text: str) -> None:
    try:
        text.format().format(block_id="0")
    except (KeyError, IndexError, ValueError) as exc:
        raise ConfigError(
            f"HTEX fills in words in braces, twice, and can't ({type(exc).__name__}: {exc}): write a brace that is "
            "meant as one four times.",
            key_path="engine.container_cmd_options",
        ) from exc
