"""Sphinx configuration; build with `sphinx-build -W docs docs/_build`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from parsl_globus.version import __version__

project = "parsl-globus"
release = version = __version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_use_ivar = True
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"parsl-globus {__version__}"
nitpicky = True
# Names of other projects: their inventories are on the network, and the documentation builds without one.
nitpick_ignore_regex = [(r"py:.*", r"(?!parsl_globus\b).*")]


def _write_help() -> None:
    """What the commands say of themselves, so that no page repeats it by hand."""
    from click import Command, Context, Group
    from click.testing import CliRunner

    from parsl_globus.cli.main import cli

    folder = Path(__file__).parent / "_generated"
    folder.mkdir(exist_ok=True)

    def said(words: list[str]) -> str:
        run = CliRunner().invoke(cli, [*words, "--help"], prog_name="parsl-globus", terminal_width=100)
        return run.output

    def sections(command: Command, words: list[str]) -> list[str]:
        if isinstance(command, Group):
            context = Context(command)
            inner = [(name, command.get_command(context, name)) for name in command.list_commands(context)]
            return [text for name, found in inner for text in sections(found, [*words, name])]
        title = " ".join(["parsl-globus", *words])
        body = "".join(f"   {line}\n" if line else "\n" for line in said(words).splitlines())
        return [f"{title}\n{'-' * len(title)}\n\n.. code-block:: none\n\n{body}\n"]

    for command in ("service run", "endpoint check"):
        (folder / f"{command.replace(' ', '-')}.txt").write_text(said(command.split()))
    (folder / "commands.txt").write_text("\n".join(sections(cli, [])))


def _write_configuration() -> None:
    """The keys of an endpoint's configuration, and the files to start from."""
    from parsl_globus.endpoint.config.reference import reference
    from parsl_globus.endpoint.config.templates import template_names, template_title

    folder = Path(__file__).parent / "_generated"
    (folder / "endpoint-configuration.txt").write_text(reference())
    rows = [f"{name:<12}{template_title(name)}\n" for name in template_names()]
    (folder / "endpoint-templates.txt").write_text("".join(rows))


def _write_performance() -> None:
    """What the last kept run of the benchmark measured; the page says so when none is kept."""
    from bench.docs import write

    write(Path(__file__).parent / "_generated")


_write_help()
_write_configuration()
_write_performance()
