"""Modules of the worker's side that travel with each task: as compressed source, without what is for people."""

from __future__ import annotations

import ast
import functools
import zlib
from importlib.resources import files

#: Evaluated on a worker with the module's `name` and `source`: makes the module, once per process.
MAKE_MODULE = (
    "(__import__('sys').modules.get(name) or (lambda module:"
    " (exec(__import__('zlib').decompress(source), vars(module)),"
    " __import__('sys').modules.setdefault(name, module))[1])(__import__('types').ModuleType(name)))"
)


@functools.cache
def shipped_source(file: str) -> bytes:
    """The text of a module of `parsl_globus.worker`, for `MAKE_MODULE`."""
    tree = ast.parse(files("parsl_globus.worker").joinpath(file).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            del node.body[0]
            node.body = node.body or [ast.Pass()]
    return zlib.compress(ast.unparse(tree).encode(), 9)
