"""Makes what only travels as source between different Pythons: shipped as text along with what is sent so."""

from __future__ import annotations

import ast
import dataclasses
import typing
from collections.abc import Sequence
from types import CodeType, MemberDescriptorType
from typing import Any


def code(
    text: str, name: str, headers: Sequence[str], imported: Sequence[str], file: str, line: int, flags: int
) -> CodeType:
    """The code of a function, compiled by this Python; its module is not run.

    Args:
        text: A `def`, or an assignment of a lambda.
        name: As code objects have it, `<lambda>` for one.
        headers: What it stands in, from the outside, without colons: `def make(free, variables)`, `class C`.
        imported: Names that are modules': Python compiles their calls in another way.
        file: For tracebacks.
        line: Where `text` begins in the file.
        flags: Of `from __future__`.

    Raises:
        SyntaxError: This Python doesn't know what the sender's does.
        LookupError: There is no such function in `text`.
    """
    tree = ast.parse(text, file)
    ast.increment_lineno(tree, line - 1)
    body = tree.body
    for header in reversed(headers):
        outer: Any = ast.parse(f"{header}:\n pass")
        outer.body[0].body = body
        body = outer.body
    if imported:
        body = ast.parse(f"import {', '.join(imported)}").body + body
    found: CodeType = compile(ast.Module(body=body, type_ignores=[]), file, "exec", flags, dont_inherit=True)
    for label in (*(header.split()[1].partition("(")[0] for header in headers), name):
        found = _inner(found, label)
    return found


def _inner(outer: CodeType, name: str) -> CodeType:
    parts = [part for part in outer.co_consts if isinstance(part, CodeType)]
    for part in reversed(parts):  # those of default arguments come first
        if part.co_name == name:
            return part
    for part in parts:
        if part.co_name.startswith("<generic parameters"):
            return _inner(part, name)
    raise LookupError(f"There is no '{name}' in the source of '{outer.co_name}'.")


def fill_dataclass(cls: Any, parts: tuple[list[tuple[Any, str, Any]], dict[str, bool], list[tuple[Any, ...]]]) -> None:
    """Set a class's attributes, and make it the dataclass that it is: those methods have no source.

    Args:
        cls: The class; one that came before is a dataclass already.
        parts: Attributes, options of `dataclasses.dataclass`, and of each field its name, kind, type and options.
    """
    entries, options, fields = parts
    for target, name, value in entries:
        setattr(target, name, value)
    if "__dataclass_fields__" in vars(cls):
        return
    own = vars(cls)
    slots = {name: own[name] for name, *_ in fields if isinstance(own.get(name), MemberDescriptorType)}
    told = own.get("__annotations__", {})
    # Its own annotations may be texts, which would be looked up in a module that is not here.
    stand_ins = {"_FIELD": Any, "_FIELD_CLASSVAR": typing.ClassVar, "_FIELD_INITVAR": dataclasses.InitVar[Any]}
    cls.__annotations__ = {name: stand_ins[kind] for name, kind, _, _ in fields}
    for name, kind, _, field in fields:
        if kind != "_FIELD_CLASSVAR":
            setattr(cls, name, dataclasses.field(**field))
    known = set(dataclasses.dataclass.__kwdefaults__ or ())
    dataclasses.dataclass(**{name: value for name, value in options.items() if name in known})(cls)
    cls.__annotations__ = told
    for name, _, kind_of_value, _ in fields:
        cls.__dataclass_fields__[name].type = kind_of_value
    for name, descriptor in slots.items():
        setattr(cls, name, descriptor)
