"""What a site's files say about its user endpoints: the template or plain configuration, schema, environment."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from parsl_globus.endpoint.config.load import load_config
from parsl_globus.endpoint.config.model import EndpointModel
from parsl_globus.endpoint.folder import EndpointFolder
from parsl_globus.endpoint.multiuser.identity import IdentityMap, Mapped
from parsl_globus.endpoint.multiuser.template import render
from parsl_globus.errors import ConfigError
from parsl_globus.wire.documents import StartArguments

TEMPLATE = "user_config_template.yaml.j2"
SCHEMA = "user_config_schema.json"
ENVIRONMENT = "user_environment.yaml"


@dataclass(frozen=True)
class Site:
    """An endpoint's files, read once when its manager starts.

    Attributes:
        config: The checked `config.yaml`.
        config_text: Its text.
        template: Text from which the user endpoints' configurations are made.
        template_file: Where that text is from.
        plain: Whether it is a `config.yaml` with an engine, which is taken as it is.
        schema: JSON schema of user options, or `None`.
        environment: Environment variables for user endpoints.
        identities: Who gets which account, or `None` where all user endpoints run as this one.
    """

    config: EndpointModel
    config_text: str = field(repr=False)
    template: str = field(repr=False)
    template_file: Path
    plain: bool
    schema: Mapping[str, Any] | None
    environment: Mapping[str, str] = field(repr=False)
    identities: IdentityMap | None = None

    def unrendered(self, start: StartArguments, mapped: Mapped) -> dict[str, Any]:
        """What makes up the configuration of a mapped user endpoint.

        It is put together in that account: whatever users' values do to a template or a schema, they do to themselves.
        """
        if self.plain:
            return {"config": self.template}
        return {
            "template": {
                "template": self.template,
                "neighbours": _neighbours(self.template_file),
                "user_options": start.user_opts,
                "user_runtime": start.user_runtime,
                "schema": self.schema,
                "identity": mapped.account.document(mapped.identity_id),
            }
        }

    def user_config(self, start: StartArguments) -> str:
        """The configuration text of a user endpoint.

        Raises:
            ConfigError: The user's options don't fit.
        """
        if self.plain:
            return self.template
        return render(
            self.template,
            file=self.template_file,
            user_options=start.user_opts,
            user_runtime=start.user_runtime,
            schema=self.schema,
        )


def load_site(folder: EndpointFolder) -> Site:
    """Read and check an endpoint's files.

    Raises:
        ConfigError: One of them can't be used.
    """
    config = load_config(folder.config)
    config_text = folder.config.read_text()
    plain = config.engine is not None
    template_file = folder.config if plain else _path(folder, config.user_config_template_path, TEMPLATE)
    if not plain and not template_file.exists():
        raise ConfigError(
            f"The configuration has no 'engine', and there is no template {template_file} to make one from.",
            file=str(folder.config),
        )
    schema_file = _path(folder, config.user_config_schema_path, SCHEMA)
    return Site(
        config=config,
        config_text=config_text,
        template=config_text if plain else _read(template_file),
        template_file=template_file,
        plain=plain,
        schema=None if plain else _schema(schema_file),
        environment=_environment(folder.path / ENVIRONMENT),
        identities=_identities(folder, config),
    )


def _identities(folder: EndpointFolder, config: EndpointModel) -> IdentityMap | None:
    is_root = os.geteuid() == 0
    if config.identity_mapping_config_path is None:
        if config.multi_user and is_root:
            raise ConfigError(
                "Without identity_mapping_config_path, everybody's tasks would run as root; name the mapping, or start "
                "the endpoint in another account.",
                file=str(folder.config),
                key_path="multi_user",
            )
        return None
    if not is_root:
        raise ConfigError(
            "Only root can run tasks in other accounts. Start the endpoint as root; or remove the key, and all whom "
            "the endpoint is shared with run tasks in yours.",
            file=str(folder.config),
            key_path="identity_mapping_config_path",
        )
    return IdentityMap(_path(folder, config.identity_mapping_config_path, ""))


def _neighbours(template_file: Path) -> dict[str, str]:
    """The templates next to this one, for accounts that can't read the folder."""
    others = sorted(path for path in template_file.parent.glob("*.j2") if path != template_file)
    return {path.name: _read(path) for path in others}


def _path(folder: EndpointFolder, configured: str | None, default: str) -> Path:
    return folder.path / (configured or default)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"The file can't be read: {exc}", file=str(path)) from exc


def _schema(path: Path) -> Mapping[str, Any] | None:
    if not path.exists():
        return None
    try:
        schema = json.loads(_read(path))
    except ValueError as exc:
        raise ConfigError(f"This is not valid JSON: {exc}.", file=str(path)) from exc
    if not isinstance(schema, dict):
        raise ConfigError("A JSON schema is an object.", file=str(path))
    return schema


def _environment(path: Path) -> Mapping[str, str]:
    if not path.exists():
        return {}
    try:
        variables = yaml.safe_load(_read(path)) or {}
    except yaml.YAMLError as exc:
        raise ConfigError(f"This is not valid YAML: {exc}", file=str(path)) from exc
    if not isinstance(variables, dict):
        raise ConfigError("The file should hold names and values of environment variables.", file=str(path))
    return {str(name): str(value) for name, value in variables.items() if value is not None}
