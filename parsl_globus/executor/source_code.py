"""The source of functions, for workers of another Python: code objects can't travel between minor versions.

What is found is compiled here as the worker will, and compared with what runs here: an edited file, or one of several
lambdas in a line, is not mistaken for it.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import linecache
from collections.abc import Iterator
from importlib.resources import files
from types import CodeType, FunctionType, ModuleType
from typing import Any

#: What `worker/from_source.code` takes.
CodeParts = tuple[str, str, tuple[str, ...], tuple[str, ...], str, int, int]

_Outer = tuple[ast.AST, ...]
_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

#: All flags of `from __future__` imports.
_FUTURE_FLAGS = 0x1FE0000
#: Whether a function stands in another one; some of ours do only when compiled alone.
_NESTED_FLAG = 0x10
_COMPARED = (
    "co_code",
    "co_names",
    "co_varnames",
    "co_freevars",
    "co_cellvars",
    "co_argcount",
    "co_posonlyargcount",
    "co_kwonlyargcount",
)


class NoSource(Exception):
    """There is no source of a function, or none that is surely its."""


class NotForThisPython(Exception):
    """What came from a worker of another Python holds code, which only that one can run."""


@functools.cache
def worker_source() -> str:
    """The text of the worker's side."""
    return files("parsl_globus.worker").joinpath("from_source.py").read_text()


def parts_of_code(code: CodeType) -> CodeParts:
    """What makes this code anew.

    Raises:
        NoSource: It can't be made from source.
    """
    return _parts_of_code(code, code.co_filename)


@functools.lru_cache(maxsize=1024)
def _parts_of_code(code: CodeType, file: str) -> CodeParts:  # code of several files may be equal
    for fresh in (False, True):  # the text as it was when it was last looked at, then as it is now
        if fresh:
            linecache.checkcache(file)
        text = "".join(linecache.getlines(file))
        for parts in _candidates(code, text):
            if _is_same(code, parts):
                return parts
    where = f"'{code.co_name}', line {code.co_firstlineno} of {file}"
    raise NoSource(f"{where}, has no source that can be read" if not text else f"{where}, is not what its source says")


def _candidates(code: CodeType, text: str) -> Iterator[CodeParts]:
    flags = code.co_flags & _FUTURE_FLAGS
    functions, all_imported = _look_through(text)
    for node, outer in functions.get((code.co_name, code.co_firstlineno), ()):
        segment = ast.get_source_segment(text, node)
        if segment is None:
            continue
        if isinstance(node, ast.Lambda):
            segment = f"_ = ({segment})"
        headers = _headers(outer, code.co_freevars)
        imported = tuple(sorted(all_imported.intersection(_all_names(code))))
        yield segment, code.co_name, headers, imported, code.co_filename, node.lineno, flags


def _all_names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield from _all_names(part)


@functools.lru_cache(maxsize=64)
def _look_through(text: str) -> tuple[dict[tuple[str, int], list[tuple[_Function, _Outer]]], frozenset[str]]:
    """All functions in a file by name and first line, each with what it stands in; and what the file imports."""
    imported: set[str] = set()
    found: dict[tuple[str, int], list[tuple[_Function, _Outer]]] = {}

    def walk(node: ast.AST, outer: _Outer) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                decorators = getattr(child, "decorator_list", ())
                first_line = min((child.lineno, *(decorator.lineno for decorator in decorators)))
                name = "<lambda>" if isinstance(child, ast.Lambda) else child.name
                found.setdefault((name, first_line), []).append((child, outer))
            elif isinstance(child, (ast.Import, ast.ImportFrom)) and not outer:
                imported.update(alias.asname or alias.name.partition(".")[0] for alias in child.names)
            scope = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef))
            walk(child, (*outer, child) if scope else outer)

    try:
        walk(ast.parse(text), ())
    except (SyntaxError, ValueError, RecursionError):
        pass  # a notebook's cell with magic, or no Python at all: there is nothing to be found in it
    return found, frozenset(imported - {"*"})


def _headers(outer: _Outer, free: tuple[str, ...]) -> tuple[str, ...]:
    """What a function stands in; the outermost function gets all free variables."""
    given = f"({', '.join(free)})"
    headers = []
    for node in outer:
        if isinstance(node, ast.ClassDef):
            headers.append(f"class {node.name}")
            continue
        headers.append(f"def {getattr(node, 'name', '_')}{given}")
        given = "()"
    if given != "()" and free != ("__class__",):  # variables of a generic class
        headers.insert(0, f"def _{given}")
    return tuple(headers)


def _is_same(code: CodeType, parts: CodeParts) -> bool:
    try:
        made = _worker_side().code(*parts)
    except (SyntaxError, LookupError, ValueError, RecursionError):
        return False
    return _is_same_code(code, made)


@functools.cache
def _worker_side() -> Any:
    module = ModuleType("_parsl_globus_from_source")
    exec(compile(worker_source(), "<from_source>", "exec"), vars(module))
    return module


def _is_same_code(one: CodeType, other: CodeType) -> bool:
    return (
        all(getattr(one, name) == getattr(other, name) for name in _COMPARED)
        and one.co_flags | _NESTED_FLAG == other.co_flags | _NESTED_FLAG
        and len(one.co_consts) == len(other.co_consts)
        and all(map(_is_same_constant, one.co_consts, other.co_consts))
    )


def _is_same_constant(one: Any, other: Any) -> bool:
    if isinstance(one, CodeType) and isinstance(other, CodeType):
        return _is_same_code(one, other)
    if type(one) is not type(other):
        return False
    if isinstance(one, str) and "<locals>" in one:  # Python 3.10: the qualified name of an inner function
        return one.rpartition("<locals>")[2] == str(other).rpartition("<locals>")[2]
    return repr(one) == repr(other) or (isinstance(one, frozenset) and one == other)


# ---- dataclasses -------------------------------------------------------------------------------------------------

#: What `dataclasses.dataclass` makes of the fields.
_MADE_OF_FIELDS = frozenset({"__dataclass_fields__", "__dataclass_params__", "__match_args__"})


def dataclass_parts(cls: Any, attributes: list[tuple[str, Any]]) -> tuple[Any, ...] | None:
    """Attributes, options and fields of a dataclass, as `worker/from_source.fill_dataclass` takes them.

    Returns:
        `None` if it is none.
    """
    if "__dataclass_fields__" not in vars(cls):
        return None
    own = [(name, value) for name, value in attributes if name not in _MADE_OF_FIELDS and not _is_generated(value)]
    params = cls.__dataclass_params__
    options = {
        name: bool(getattr(params, name)) for name in ("init", "repr", "eq", "order", "unsafe_hash", "frozen")
    } | {"match_args": "__match_args__" in vars(cls)}
    annotations = vars(cls).get("__annotations__", {})
    fields = [cls.__dataclass_fields__[name] for name in annotations if name in cls.__dataclass_fields__]
    return own, options, [(field.name, field._field_type.name, field.type, _options_of(field)) for field in fields]


def _options_of(field: dataclasses.Field[Any]) -> dict[str, Any]:
    names = ("init", "repr", "hash", "compare", "kw_only")
    options = {name: getattr(field, name) for name in names} | {"metadata": dict(field.metadata)}
    for name in ("default", "default_factory"):
        if getattr(field, name) is not dataclasses.MISSING:
            options[name] = getattr(field, name)
    return options


def _is_generated(value: Any) -> bool:
    """Whether a method was made by `dataclasses`, in a text that is nowhere any more, or around one that was."""
    if not isinstance(value, FunctionType):
        return False
    inner = getattr(value, "__wrapped__", value)
    code = value.__code__
    if value.__module__ == "dataclasses" and value.__name__ == "_replace":  # Python 3.13's
        return True
    return code.co_filename == "<string>" or (code.co_name == "wrapper" and inner.__code__.co_filename == "<string>")
