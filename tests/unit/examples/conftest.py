"""Loads the example scripts as a user's machine would, but with thread pools where the two sites would be."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

import parsl_globus

EXAMPLES = Path(__file__).parents[3] / "examples"


class AllOnline:
    """In place of the SDK's client."""

    def get_endpoint_status(self, _endpoint_id):
        return {"status": "online"}


@pytest.fixture
def examples() -> Path:
    return EXAMPLES


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Imports a module of examples/, which is no package; the import is undone after the test."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(parsl_globus, "GlobusComputeExecutor", None, raising=False)
    monkeypatch.setattr(parsl_globus, "connect", lambda _url: AllOnline(), raising=False)
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if name.startswith("co2_"):
            del sys.modules[name]


@pytest.fixture
def raw() -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted((EXAMPLES / "experiments").glob("*.txt"))}
