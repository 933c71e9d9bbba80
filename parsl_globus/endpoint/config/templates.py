"""Commented configurations to start from, one for each kind of site; `endpoint configure --template` writes them."""

from __future__ import annotations

from importlib.resources import files

from parsl_globus.errors import ConfigError

_FOLDER = "templates"


def template_names() -> list[str]:
    """The names of all templates."""
    folder = files(__package__) / _FOLDER
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def template_text(name: str) -> str:
    """The text of the template `name`.

    Raises:
        ConfigError: There is none.
    """
    if name not in template_names():
        raise ConfigError(f"There is no template '{name}'; there are: {', '.join(template_names())}.")
    return (files(__package__) / _FOLDER / f"{name}.yaml").read_text()


def template_title(name: str) -> str:
    """What the template `name` is for: its first line.

    Raises:
        ConfigError: There is none.
    """
    return template_text(name).partition("\n")[0].removeprefix("# ")
