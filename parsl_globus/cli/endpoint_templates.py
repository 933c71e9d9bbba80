"""Configurations that `parsl-globus endpoint configure` starts from."""

from __future__ import annotations

import json
from pathlib import Path

import click

from parsl_globus.cli.extras import needs_extra


def configuration_text(config_file: Path | None, template: str | None) -> str | None:
    """The text of a new endpoint's configuration: a file's, a template's, or `None` for the default one.

    Raises:
        ConfigError: The file is not in order, or there is no such template.
    """
    from parsl_globus.errors import ConfigError

    if config_file is not None and template is not None:
        raise ConfigError("Give either --config or --template: each is a whole configuration.")
    with needs_extra("endpoint"):
        from parsl_globus.endpoint.config.load import load_config
        from parsl_globus.endpoint.config.templates import template_text
    if template is not None:
        return template_text(template)
    if config_file is None:
        return None
    load_config(config_file)
    return config_file.read_text()


def list_templates(*, as_json: bool) -> None:
    """Print the names of all templates, and what each is for."""
    from parsl_globus.endpoint.config.templates import template_names, template_title

    rows = [{"name": name, "title": template_title(name)} for name in template_names()]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        click.echo(f"{row['name']:<{width}}  {row['title']}")
