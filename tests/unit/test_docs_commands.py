"""The commands and configurations in the documentation and the README are ones that there are."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
import yaml
from docs_blocks import blocks, commands

from parsl_globus.cli.main import cli
from parsl_globus.endpoint.config.load import parse_config
from parsl_globus.endpoint.multiuser.identity import IdentityMap
from parsl_globus.endpoint.multiuser.template import render

COMMANDS = commands()
#: What users give to the templates in the documentation.
OPTIONS = {"account": "lab", "workers": 3}


def check(words: list[str], *, mentioned: bool = False) -> None:
    """Parse a command line as click does, short of calling anything.

    Args:
        words: What follows `parsl-globus`.
        mentioned: It may be a command's name alone, as in "`endpoint start` returns when...".

    Raises:
        click.UsageError: There is no such command or option, or an argument is missing or too much.
    """
    command: click.Command = cli
    context = click.Context(cli, info_name="parsl-globus")
    while isinstance(command, click.Group):
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        command, context = found, click.Context(found, info_name=name, parent=context)
        if not words and isinstance(command, click.Group):
            raise click.UsageError(f"'{name}' needs a command", context)
    given, left, _ = command.make_parser(context).parse_args(list(words))
    if left:
        raise click.UsageError(f"too much: {left}", context)
    if given.get("help") or (mentioned and not words):
        return
    for parameter in command.get_params(context):
        value = given.get(parameter.name)
        if value in (None, ()) or type(value).__name__ == "Sentinel":
            if parameter.required:
                raise click.MissingParameter(ctx=context, param=parameter)
        elif isinstance(parameter.type, click.Choice):
            parameter.type_cast_value(context, value)


@pytest.mark.parametrize("line", COMMANDS, ids=str)
def test_a_command_line_is_one(line):
    check(line.words, mentioned=line.mentioned)


def test_command_lines_are_found_where_they_are():
    pages = {line.page for line in COMMANDS}
    assert {"README.md", "getting_started.rst", "security.rst", "service.rst", "several_users.rst"} <= pages
    assert len(COMMANDS) > 70


@pytest.mark.parametrize(
    "line",
    [
        "endpoints list",
        "endpoint begin x",
        "endpoint start",
        "endpoint start x y",
        "endpoint start x --quickly",
        "service",
        "service run --oidc-allow everybody",
    ],
)
def test_what_is_no_command_line_is_told(line):
    with pytest.raises(click.UsageError):
        check(line.split())


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: block.place)
def test_a_configuration_loads(block):
    if block.page == "page.rst":  # of Prometheus
        assert yaml.safe_load(block.text)["scrape_configs"][0]["job_name"] == "parsl-globus"
        return
    model = parse_config(block.text, file=block.place)
    assert (model.engine is None) == (block.page == "several_users.rst")  # there users' template has the engine


@pytest.mark.parametrize("block", blocks("jinja"), ids=lambda block: block.place)
def test_a_template_makes_a_configuration(block, tmp_path):
    text = render(block.text, file=Path(tmp_path / "template.yaml.j2"), user_options=OPTIONS, user_runtime={})
    assert parse_config(text).engine.options["max_workers_per_node"] == OPTIONS["workers"]


def test_the_identity_mapping(tmp_path):
    (block,) = blocks("json")
    file = tmp_path / "identity_mapping.json"
    file.write_text(block.text.replace("/opt/site/map-identity", "/bin/true"))
    file.chmod(0o600)
    IdentityMap(file)
