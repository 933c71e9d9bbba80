"""The page on errors names each one."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from parsl_globus import errors

PAGE = Path(__file__).parents[2] / "docs" / "troubleshooting.rst"
#: Nobody meets these: each is the root of those that are met.
ROOTS = {"ParslGlobusError", "WireError", "LinkError", "ServiceError", "EndpointError", "TaskError"}


def test_each_error_is_explained_and_nothing_else_is():
    explained = set(re.findall(r"^(``\w+``(?:, ``\w+``)*)$", PAGE.read_text(), re.MULTILINE))
    names = {name for line in explained for name in re.findall(r"\w+", line)}
    classes = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    assert names == classes - ROOTS
