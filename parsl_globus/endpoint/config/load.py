"""YAML text to the typed model; an error names file, line and key path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from parsl_globus.endpoint.config.model import EndpointModel, build_model
from parsl_globus.errors import ConfigError

_TEXT = "tag:yaml.org,2002:str"
_NULL = "tag:yaml.org,2002:null"
#: Keys whose value is taken as it is written: YAML 1.1 reads `1:00:00` as the number 3600, but `01:00:00` as a text,
#: an account `0123` as 83, and a queue `on` as true.
_KEYS_AS_WRITTEN = frozenset(
    {"walltime", "account", "project", "allocation", "queue", "partition", "qos", "constraint"}
)


def load_config(path: Path) -> EndpointModel:
    """Read and check the configuration file at `path`.

    Raises:
        ConfigError: It can't be read, is no YAML, or holds something wrong.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"The configuration can't be read: {exc}", file=str(path)) from exc
    return parse_config(text, file=str(path))


def parse_config(text: str, *, file: str | None = None) -> EndpointModel:
    """Check configuration `text`; `file` is only told in errors.

    Raises:
        ConfigError: It is no YAML, or holds something wrong.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark is not None else None
        raise ConfigError(f"This is not valid YAML: {exc.problem}.", file=file, line=line) from exc
    except yaml.YAMLError as exc:
        raise ConfigError(f"This is not valid YAML: {exc}", file=file) from exc
    if root is None:
        return build_model({})
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError("The file should hold keys and values, like 'engine:'.", file=file, line=1)
    try:
        _prepare(root, file)
    except RecursionError:
        raise ConfigError("A value is nested too deeply, or contains itself by an alias.", file=file) from None
    try:
        document: dict[str, Any] = yaml.constructor.SafeConstructor().construct_document(root)
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark is not None else None
        raise ConfigError(f"This is not valid YAML: {exc.problem}.", file=file, line=line) from exc
    try:
        return build_model(document)
    except ConfigError as exc:
        raise located(exc, text, file) from None


def located(error: ConfigError, text: str, file: str | None) -> ConfigError:
    """`error` with file and line, found from its key path in `text`."""
    prefix = f"{error.key_path}: "
    message = str(error)
    message = message[len(prefix) :] if error.key_path and message.startswith(prefix) else message
    line = line_of(text, error.key_path or "")
    return ConfigError(message, file=file, line=line, key_path=error.key_path)


def _prepare(node: yaml.Node, file: str | None) -> None:
    """Refuse duplicate keys, of which YAML would silently take the last, and keep walltimes as written."""
    if isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _prepare(child, file)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError(
                "A key should be a plain word; a placeholder such as {{ ACCOUNT }} is to be replaced by a value.",
                file=file,
                line=key.start_mark.line + 1,
            )
        if key.value in seen:
            raise ConfigError(f"The key '{key.value}' is there twice.", file=file, line=key.start_mark.line + 1)
        seen.add(key.value)
        if key.value in _KEYS_AS_WRITTEN and isinstance(value, yaml.ScalarNode) and value.tag != _NULL:
            value.tag = _TEXT
        _prepare(value, file)


def line_of(text: str, key_path: str) -> int | None:
    """The line of `key_path` in YAML `text`, or of its nearest parent that is there; `None` if it has neither."""
    node: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    line: int | None = None
    for part in key_path.split("."):
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == part), None)
            if found is None:
                break  # the key is missing: its parent's line is the nearest there is
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
            node = node.value[int(part)]
            line = node.start_mark.line + 1
        else:
            break
    return line
