"""Every engine, started for real."""

from __future__ import annotations

import os
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from parsl_globus.endpoint.config.build import build_executor
from parsl_globus.endpoint.config.load import parse_config
from parsl_globus.endpoint.engine import WorkerSettings
from parsl_globus.endpoint.htex_engine import HtexEngine
from parsl_globus.endpoint.processes import end_marked, marked, tree_environment, tree_mark
from parsl_globus.endpoint.processes_engine import ProcessPoolEngine
from parsl_globus.endpoint.threads_engine import ThreadPoolEngine

HTEX = """
engine:
  type: GlobusComputeEngine
  max_workers_per_node: 2
  heartbeat_period: 1
  heartbeat_threshold: 5
  provider: {type: LocalProvider, init_blocks: 1, min_blocks: 1, max_blocks: 1}
"""


def _worker_settings(folder: Path) -> WorkerSettings:
    marks = folder / "begun"
    marks.mkdir()
    return WorkerSettings(
        endpoint_id=str(uuid.uuid4()), run_dir=str(folder / "tasks"), marks_dir=str(marks), run_in_sandbox=True
    )


#: A command of the site's own around the worker pool; the pool's is found in PATH, as it is in an image.
IN_CONTAINER = (
    HTEX
    + f"""
  address: 127.0.0.1
  container_type: custom
  container_cmd_options: >-
    env -i HOME={{EXECUTOR_RUNDIR}} CONTAINER=custom PYTHONPATH={Path(__file__).parent}
    PATH={Path(sys.executable).parent}:/usr/bin:/bin {{EXECUTOR_LAUNCH_CMD}}
"""
)


def _htex(folder: Path, run_task: str, text: str = HTEX) -> HtexEngine:
    config = parse_config(text).engine
    return HtexEngine(
        build_executor(config, run_dir=folder),
        run_dir=folder,
        worker=_worker_settings(folder),
        poller=config.poller.model_dump(),
        run_task=run_task,
    )


def _threads(folder: Path, run_task: str) -> ThreadPoolEngine:
    return ThreadPoolEngine(worker=_worker_settings(folder), max_workers=2, run_task=run_task)


def _processes(folder: Path, run_task: str) -> ProcessPoolEngine:
    return ProcessPoolEngine(worker=_worker_settings(folder), max_workers=2, run_task=run_task)


def _in_container(folder: Path, run_task: str) -> HtexEngine:
    return _htex(folder, run_task, IN_CONTAINER)


KINDS = {"htex": _htex, "threads": _threads, "processes": _processes}
#: Not for the whole contract.
OTHERS = {"container": _in_container}


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """Starts an engine by its kind; all that it leaves behind is an error."""
    engines = []
    folder = tmp_path_factory.mktemp("engines")
    mark = tree_mark(folder, "test")
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", *tree_environment(mark))}
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), before["PYTHONPATH"]]))
    os.environ.update(tree_environment(mark))

    def start(kind, run_task="engine_worker.answer"):
        own = folder / f"engine{len(engines)}"
        own.mkdir()
        make: Any = KINDS.get(kind) or OTHERS[kind]
        engine = make(own, run_task)
        engine.folder = own
        engines.append(engine)
        engine.start()
        return engine

    try:
        yield start
        for engine in engines:
            engine.shutdown()
    finally:
        left = marked(mark)
        end_marked(mark, grace_s=3)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    assert len(left) <= 8, left


@pytest.fixture(scope="module", params=sorted(KINDS))
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def engine(kind, started):
    """A running engine, shared by the tests that don't end it."""
    return started(kind)
