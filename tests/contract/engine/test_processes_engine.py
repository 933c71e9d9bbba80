"""What only ProcessPoolEngine can do wrong."""

from __future__ import annotations

import gc
import os
import re
import signal
import uuid
from concurrent.futures import wait

import pytest

from parsl_globus.endpoint import pool_process
from parsl_globus.endpoint.engine import EngineFailure, EngineTask, WorkerSettings
from parsl_globus.endpoint.processes import wait_ended
from parsl_globus.endpoint.processes_engine import ProcessPoolEngine
from parsl_globus.worker import pool

SETTINGS = WorkerSettings(endpoint_id=str(uuid.uuid4()), run_dir="/nowhere")


@pytest.fixture(scope="module")
def engine(started):
    return started("processes")


@pytest.fixture
def make():
    engines = []

    def made(**settings):
        engine = ProcessPoolEngine(worker=SETTINGS, **{"run_task": "engine_worker.answer", **settings})
        engines.append(engine)
        engine.start()
        return engine

    yield made
    for engine in engines:
        engine.shutdown()


def _task(body):
    return EngineTask(uuid.uuid4(), body)


def test_both_sides_agree_on_their_frames():
    for name in ("READY", "RESULT", "ERROR"):
        assert getattr(pool, name) == getattr(pool_process, name)
    assert pool.TASK_HEAD.format == pool_process.TASK_HEAD.format
    assert pool.ANSWER_HEAD.format == pool_process.ANSWER_HEAD.format
    assert pool.__name__ == pool_process.MODULE


def test_deaths_take_their_own_tasks_only_and_the_pool_goes_on(engine, tmp_path):
    go = tmp_path / "go"
    neighbour = engine.submit(_task(b"wait:" + bytes(go)))
    deaths = [engine.submit(_task(b"die")) for _ in range(4)]
    queued = [engine.submit(_task(b"echo:x")) for _ in range(20)]
    errors = [death.exception(60) for death in deaths]
    assert {(error.code, error.lost) for error in errors} == {("WorkerLost", True)}
    assert "exit code 1" in str(errors[0])
    assert [future.result(60) for future in queued] == [b"x"] * 20
    assert not neighbour.done()
    go.touch()
    assert neighbour.result(60) == b"waited"
    assert engine.failed() is None


def test_a_death_is_seen_although_an_orphan_has_the_socket_and_the_orphan_ends(engine, tmp_path):
    note = tmp_path / "orphan"
    error = engine.submit(_task(b"orphan:" + bytes(note))).exception(60)
    assert error.code == "WorkerLost"
    assert wait_ended([int(note.read_text())], 30)


def test_a_big_task_for_a_process_that_died_meanwhile_is_lost_and_not_stuck(make, started):
    engine = make(max_workers=1)
    pid = int(engine.submit(_task(b"fork")).result(60))
    os.kill(pid, signal.SIGKILL)
    error = engine.submit(_task(b"echo:" + bytes(20_000_000))).exception(30)
    assert error.code == "WorkerLost"
    assert engine.submit(_task(b"echo:x")).result(60) == b"x"


@pytest.mark.filterwarnings("error")
def test_a_process_that_can_t_be_started_leaves_nothing_open(monkeypatch):
    before = set(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(pool_process.sys, "executable", "/nonexistent/python")
    with pytest.raises(FileNotFoundError):
        pool_process.PoolProcess("engine_worker.answer")
    gc.collect()  # an unclosed socket is told by a warning
    assert set(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize(("number", "name"), [(9, "SIGKILL"), (signal.SIGRTMIN + 5, f"signal {signal.SIGRTMIN + 5}")])
def test_a_killed_worker_is_told_by_the_signal(make, started, number, name):
    engine = make(max_workers=1)
    pid = int(engine.submit(_task(b"pid")).result(60))
    running = engine.submit(_task(b"wait:/nonexistent/go"))
    os.kill(pid, number)
    assert name in str(running.exception(60))
    assert int(engine.submit(_task(b"pid")).result(60)) != pid


def test_a_process_is_replaced_after_its_number_of_tasks(make, started):
    engine = make(max_workers=1, max_tasks_per_child=2)
    pids = [engine.submit(_task(b"pid")).result(60) for _ in range(6)]
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4] == pids[5]


def test_a_big_task_and_a_big_answer(engine):
    assert len(engine.submit(_task(b"echo:" + bytes(20_000_000))).result(60)) == 20_000_000


def test_processes_start_as_they_are_needed(make, started):
    engine = make(max_workers=8)
    pids = {engine.submit(_task(b"pid")).result(60) for _ in range(20)}
    assert len(pids) == 1


def test_workers_that_never_get_ready_are_the_engine_s_failure(make, started):
    engine = make(max_workers=2, run_task="no_such_module.answer")
    futures = [engine.submit(_task(b"echo:x")) for _ in range(3)]
    assert not wait(futures, timeout=0).done
    with engine._changed:
        assert engine._changed.wait_for(lambda: engine.failed() is not None, timeout=60)
    # Another one may have ended meanwhile.
    assert re.search(r"before it was ready, [3-9] times in a row", engine.failed())
    engine.shutdown()
    assert all(isinstance(future.exception(10), EngineFailure) for future in futures)
