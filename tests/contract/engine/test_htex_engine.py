"""What only HtexEngine can do wrong."""

from __future__ import annotations

import shutil
import uuid

import pytest

from parsl_globus.endpoint.engine import EngineFailure, EngineTask
from parsl_globus.endpoint.large_bodies import BODIES_FOLDER, LARGE_BODY_BYTES


@pytest.fixture(scope="module")
def engine(started):
    return started("htex")


def test_a_worker_that_dies_takes_its_own_task_only(engine):
    death = engine.submit(EngineTask(uuid.uuid4(), b"die"))
    others = [engine.submit(EngineTask(uuid.uuid4(), b"echo:x")) for _ in range(20)]
    error = death.exception(60)
    assert isinstance(error, EngineFailure)
    assert (error.code, error.lost) == ("WorkerLost", True)
    assert [future.result(60) for future in others] == [b"x"] * 20
    assert engine.failed() is None


def test_a_specification_that_htex_refuses_fails_its_task_only(engine):
    bad = engine.submit(EngineTask(uuid.uuid4(), b"echo:x", resource_specification={"num_nodes": 2}))
    error = bad.exception(30)
    assert isinstance(error, EngineFailure)
    assert error.code == "InvalidResourceSpecification"
    good = engine.submit(EngineTask(uuid.uuid4(), b"echo:x", resource_specification={"priority": 1}))
    assert good.result(30) == b"x"


def test_a_long_message_is_in_a_file_for_as_long_as_its_task(engine, tmp_path):
    folder, gate = engine.folder / BODIES_FOLDER, tmp_path / "gate"
    padding = b"x" * LARGE_BODY_BYTES
    task = EngineTask(uuid.uuid4(), b"wait:%b\0%b" % (bytes(gate), padding))
    future = engine.submit(task)
    assert [path.name for path in folder.iterdir()] == [str(task.task_id)]
    assert (folder / str(task.task_id)).stat().st_mode & 0o777 == 0o600
    gate.touch()
    assert future.result(60) == b"waited"
    assert list(folder.iterdir()) == []
    death = engine.submit(EngineTask(uuid.uuid4(), b"die:" + padding))
    assert death.exception(60).code == "WorkerLost"
    assert list(folder.iterdir()) == []


def test_without_its_folder_a_long_message_goes_the_usual_way(engine):
    folder = engine.folder / BODIES_FOLDER
    shutil.rmtree(folder)
    text = b"x" * LARGE_BODY_BYTES
    assert engine.submit(EngineTask(uuid.uuid4(), b"echo:" + text)).result(60) == text
    folder.mkdir()


def test_a_worker_pool_in_a_container_of_the_site_s_own_command(started):
    engine = started("container")
    assert engine.submit(EngineTask(uuid.uuid4(), b"container")).result(60) == f"custom {engine.folder}".encode()
