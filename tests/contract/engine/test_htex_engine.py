"""What only HtexEngine can do wrong."""

from __future__ import annotations

import uuid

import pytest

from parsl_globus.endpoint.engine import EngineFailure, EngineTask


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


def test_workers_read_a_message_from_its_file(engine, tmp_path):
    path = tmp_path / "body"
    path.write_bytes(b"echo:as in the file")
    assert engine.submit(EngineTask(uuid.uuid4(), b"echo:x", body_file=path)).result(60) == b"as in the file"
    death = engine.submit(EngineTask(uuid.uuid4(), b"echo:x", body_file=tmp_path))
    assert "Is a directory" in str(death.exception(60))


def test_a_message_whose_file_is_gone_is_empty(engine, tmp_path):
    gone = engine.submit(EngineTask(uuid.uuid4(), b"echo:x", body_file=tmp_path / "gone"))
    assert "AssertionError: b''" in str(gone.exception(60))


def test_a_worker_pool_in_a_container_of_the_site_s_own_command(started):
    engine = started("container")
    assert engine.submit(EngineTask(uuid.uuid4(), b"container")).result(60) == f"custom {engine.folder}".encode()
