"""User options, checked by a JSON schema, into a site's template: YAML text that users can't inject anything into."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from parsl_globus.errors import ConfigError

#: Names that templates get from the agent, so that users may not set them.
RESERVED = frozenset({"_GC", "parent_config", "user_runtime", "mapped_identity"})


class _QuotedMapping(dict[str, Any]):
    """A mapping that prints itself as YAML."""

    def __str__(self) -> str:
        return "{" + ", ".join(f"{quote(key)}: {value}" for key, value in self.items()) + "}"


class _QuotedList(list[Any]):
    """A list that prints itself as YAML."""

    def __str__(self) -> str:
        return "[" + ", ".join(str(value) for value in self) + "]"


def render(
    template: str,
    *,
    file: Path,
    user_options: Mapping[str, Any],
    user_runtime: Mapping[str, Any],
    schema: Mapping[str, Any] | None = None,
    neighbours: Mapping[str, str] | None = None,
    identity: Mapping[str, Any] | None = None,
) -> str:
    """Fill in `template`.

    Texts of users are put in as double-quoted YAML, so they stay one value whatever is in them; a name that they
    don't give is an error unless the template has a default. The template can't call anything of Python's.

    Args:
        template: The site's text.
        file: Its file; templates next to it can be included.
        user_options: What the user sent as `user_endpoint_config`.
        user_runtime: What the user's SDK said of itself.
        schema: JSON schema for `user_options`.
        neighbours: Texts of the templates next to it, where this account may not read them.
        identity: The account that the user endpoint runs as, if not the one that this process runs as.

    Raises:
        ConfigError: The options don't fit, or the template can't be filled in with them.
    """
    _check(user_options, schema)
    runtime = quoted(user_runtime)
    mapped = _plain_names(identity or _own_identity())
    reserved: dict[str, Any] = {"user_runtime": runtime, "mapped_identity": mapped, "env": dict(os.environ)}
    values = {**quoted(user_options), "_GC": reserved, "user_runtime": runtime, "mapped_identity": mapped}
    loader = jinja2.FileSystemLoader(file.parent) if neighbours is None else jinja2.DictLoader(neighbours)
    environment = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, loader=loader)
    environment.filters["shell_escape"] = _shell_escape
    try:
        return environment.from_string(template).render(values)
    except jinja2.UndefinedError as exc:
        raise ConfigError(
            f"The template needs an option that was not given ({exc.message}); pass it in user_endpoint_config.",
            file=str(file),
        ) from exc
    except jinja2.TemplateSyntaxError as exc:
        raise ConfigError(f"The template can't be read: {exc.message}.", file=str(file), line=exc.lineno) from exc
    except Exception as exc:
        # Any expression of the template may fail on any value of a user.
        raise ConfigError(f"The template can't be filled in: {type(exc).__name__}: {exc}", file=str(file)) from exc


def quoted(value: Any) -> Any:
    """`value` with each text in it as double-quoted YAML.

    Raises:
        ConfigError: It holds something else than JSON can.
    """
    if isinstance(value, Mapping):
        return _QuotedMapping({str(key): quoted(entry) for key, entry in value.items()})
    if isinstance(value, (list, tuple)):
        return _QuotedList([quoted(entry) for entry in value])
    if isinstance(value, str):
        return quote(value)
    if value is None:
        return "null"
    if isinstance(value, (bool, int, float)):
        return value
    raise ConfigError(f"A {type(value).__name__} can't be a user option.")


def quote(text: str, *, escaped: str = "'#$`") -> str:
    """`text` as double-quoted YAML, in ASCII: YAML breaks lines at more characters than JSON escapes.

    Args:
        text: A user's.
        escaped: Written as numbers, too. To YAML that is the same; but where a template has put the text between single
            quotes, or into a block of shell commands, which YAML takes as it is, nothing in it ends or expands.
    """

    def written(character: str) -> str:
        if ord(character) > 0xFFFF:
            return f"\\U{ord(character):08X}"
        return f"\\u{ord(character):04x}" if character in escaped else json.dumps(character)[1:-1]

    return f'"{"".join(map(written, text))}"'.replace("\x7f", "\\x7F")


def _shell_escape(value: Any) -> Any:
    """A filter: a user's text as one word of a shell command, still quoted for YAML."""
    if not (isinstance(value, str) and value.startswith('"')):
        return value
    import yaml

    return quote(shlex.quote(str(yaml.safe_load(value))), escaped="$`")


def _check(user_options: Mapping[str, Any], schema: Mapping[str, Any] | None) -> None:
    taken = RESERVED & set(user_options)
    if taken:
        raise ConfigError(f"The option '{min(taken)}' is set by the endpoint and can't be given by users.")
    if schema is None:
        return
    import jsonschema

    try:
        jsonschema.validate(instance=dict(user_options), schema=dict(schema))
    except jsonschema.ValidationError as exc:
        where = ".".join(str(part) for part in exc.absolute_path)
        raise ConfigError(f"user_endpoint_config{'.' + where if where else ''}: {exc.message}.") from exc
    except jsonschema.SchemaError as exc:
        raise ConfigError(f"The endpoint's schema for user options is invalid: {exc.message}.") from exc


def _plain_names(identity: Mapping[str, Any]) -> dict[str, Any]:
    """`identity` for templates: names and folders are the site's words, but what accounts say of themselves is not."""
    local = identity["local"]
    return {**identity, "local": {**local, "gecos": quote(str(local.get("gecos", "")))}}


def _own_identity() -> dict[str, Any]:
    """The account that this process runs as, and with it the user endpoints that are mapped to no other."""
    import pwd

    entry = pwd.getpwuid(os.getuid())
    local = {
        "uname": entry.pw_name,
        "uid": entry.pw_uid,
        "gid": entry.pw_gid,
        "gecos": entry.pw_gecos,
        "shell": entry.pw_shell,
        "dir": entry.pw_dir,
        "groups": os.getgroups(),
    }
    return {"local": local, "globus": {"id": None}}
