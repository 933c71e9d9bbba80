"""The import table of the house plan: which room may import which, and what of the outside."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import parsl_globus

ROOT = Path(parsl_globus.__file__).parent
PACKAGE = "parsl_globus"

#: What each room may import of ours; `errors`, `jitter` and `version` are everybody's.
ROOMS = {
    "wire": {"wire"},
    "amqp": {"amqp", "pika_private", "pika_reason"},
    "client": {"client", "wire"},
    "worker": {"worker", "wire"},
    "monitoring": {"monitoring", "wire", "amqp"},
    "executor": {"executor", "client", "amqp", "wire", "monitoring"},
    "endpoint": {"endpoint", "client", "amqp", "wire", "monitoring"},
    "service": {"service", "wire", "pika_private", "pika_reason"},
}
EVERYBODYS = {"errors", "jitter", "version"}
#: These may use every room, but inside functions only: the command must start quickly and without extras.
LAZY = {"cli", "testing"}

#: What each room may import from outside besides the standard library; rooms that are not here may import anything
#: that `NEVER` doesn't exclude.
OUTSIDE = {
    # pydantic: the messages of globus_compute_common are its models, and so are our documents; its core reads JSON.
    # pybase64: large arguments and results are read and written many times as fast.
    "wire": {"globus_compute_common", "globus_compute_sdk", "dill", "pybase64", "pydantic", "pydantic_core"},
    "amqp": {"pika"},
    "worker": {"dill", "globus_compute_sdk", "psutil"},  # psutil: Parsl's own monitoring needs it there
}
NEVER = {
    "client": {"parsl", "pika"},
    "service": {"parsl", "dill", "globus_compute_sdk", "globus_sdk", "pickle"},
    "endpoint": {"dill", "pickle"},  # never unpickle what came over the wire
}

MODULES = sorted(ROOT.rglob("*.py"))


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return parts[0] if len(parts) > 1 else parts[0].removesuffix(".py")


def imports(path: Path):
    """Every import in the file: dotted name, and whether it is at the top level."""
    tree = ast.parse(path.read_text())
    top = {id(node) for node in tree.body}
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in top
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module, id(node) in top
            if node.module == PACKAGE:
                for alias in node.names:
                    yield f"{PACKAGE}.{alias.name}", id(node) in top


def violations(path: Path):
    room = room_of(path)
    for name, top in imports(path):
        first, *rest = name.split(".")
        if first == PACKAGE:
            target = rest[0] if rest else ""
            if not target or target in EVERYBODYS | {"__version__"} or target == room:
                continue
            if room in LAZY:
                if top:
                    yield f"{name} at the top level"
            elif target not in ROOMS.get(room, set()):
                yield name
        elif first in sys.stdlib_module_names and first not in NEVER.get(room, set()):
            continue
        elif first in NEVER.get(room, set()) or (room in OUTSIDE and first not in OUTSIDE[room]):
            yield name


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_what_it_may(path):
    assert list(violations(path)) == []


def test_the_runner_imports_nothing_of_ours():
    assert [name for name, _ in imports(ROOT / "worker" / "runner.py") if name.startswith(PACKAGE)] == []


def test_the_sdk_is_used_in_wire_by_payload_only():
    users = [p.name for p in (ROOT / "wire").glob("*.py") if any("globus_compute_sdk" in n for n, _ in imports(p))]
    assert set(users) <= {"payload.py"}


def test_the_service_opens_no_payload():
    users = [
        p for p in (ROOT / "service").rglob("*.py") if any(n == "parsl_globus.wire.payload" for n, _ in imports(p))
    ]
    assert users == []


def test_the_agent_names_the_worker_but_does_not_import_it():
    users = [
        p for p in (ROOT / "endpoint").rglob("*.py") if any(n.startswith("parsl_globus.worker") for n, _ in imports(p))
    ]
    assert users == []


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("parsl_globus", {"parsl", "globus_compute_sdk", "pika", "click", "rich"}),
        ("parsl_globus.executor.progress.view", {"rich", "IPython"}),
        ("parsl_globus.worker.run", {"parsl", "globus_compute_sdk", "globus_sdk", "pika", "click", "requests"}),
        ("parsl_globus.cli.main", {"parsl", "globus_compute_sdk", "fastapi", "sqlalchemy", "pika"}),
        ("parsl_globus.amqp", {"parsl", "globus_compute_sdk", "globus_compute_common"}),
    ],
)
def test_a_module_loads_no_more_than_it_needs(module, unwanted):
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert unwanted & set(loaded) == set()


def test_test_files_have_names_of_their_own():
    """pytest imports them by their bare names."""
    names = [path.name for path in (ROOT.parent / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_nothing_takes_from_the_random_numbers_of_the_workflow():
    users = [p for p in MODULES if room_of(p) not in LAZY and any(name == "random" for name, _ in imports(p))]
    assert [p.name for p in users] == ["jitter.py"]
