"""A worker that is killed while it waits takes the lock of its pool's queue along; the pool goes on nevertheless."""

from __future__ import annotations

import os
import signal
import uuid
from pathlib import Path

import psutil
import pytest
from once import wait_until

from parsl_globus.endpoint.engine import EngineTask

DEADLINE_S = 120


@pytest.fixture(scope="module")
def engine(started):
    return started("htex")


def submit(engine, body):
    return engine.submit(EngineTask(uuid.uuid4(), body))


@pytest.fixture
def pool(engine):
    return psutil.Process(psutil.Process(int(submit(engine, b"pid").result(DEADLINE_S))).ppid())


def children(pool):
    """The process that keeps what the workers share, and the workers."""
    found = [child for child in pool.children() if "spawn_main" in _command(child)]
    first, *workers = (child.pid for child in sorted(found, key=lambda child: child.create_time()))
    return first, set(workers)


def kill(pool, pids):
    # A result may be here a moment before the one who sent it has let go of the lock of the results, with which it
    # would take the whole pool along.
    wait_until(lambda: all(map(_sleeps, pids)), "they are not idle", timeout_s=DEADLINE_S)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not pids & children(pool)[1], "they live", timeout_s=DEADLINE_S)


def test_a_pool_whose_idle_workers_are_killed_goes_on(engine, pool):
    before = children(pool)[1]
    kill(pool, before)
    tasks = [submit(engine, b"pid") for _ in range(4)]
    assert not {int(task.result(DEADLINE_S)) for task in tasks} & before
    assert pool.is_running()


def test_a_busy_worker_is_left_alone_when_an_idle_one_is_killed(engine, pool, tmp_path):
    wait_until(lambda: len(children(pool)[1]) == 2, "there are not two workers", timeout_s=DEADLINE_S)
    began, gate = tmp_path / "began", tmp_path / "gate"
    busy = submit(engine, b"hold:%b:%b" % (os.fsencode(began), os.fsencode(gate)))
    wait_until(lambda: began.exists() and began.read_text() != "", "it did not begin", timeout_s=DEADLINE_S)
    kill(pool, children(pool)[1] - {int(began.read_text())})
    assert submit(engine, b"echo:x").result(DEADLINE_S) == b"x"
    assert not busy.done()
    gate.touch()
    assert busy.result(DEADLINE_S) == b"held"
    assert pool.is_running()


def test_a_pool_that_can_not_be_mended_ends_and_another_comes(engine, pool):
    os.kill(children(pool)[0], signal.SIGKILL)
    wait_until(lambda: not pool.is_running(), "the pool lives", timeout_s=DEADLINE_S)
    # What the pool was given before its end was noticed is lost, and told as such.
    wait_until(lambda: not submit(engine, b"echo:x").exception(DEADLINE_S), "there is no other", timeout_s=DEADLINE_S)
    assert engine.failed() is None


def test_the_pool_s_logs_are_where_parsl_puts_them(engine, pool):
    folder = Path(engine.folder)
    assert list(folder.rglob("interchange.log"))
    assert [path for path in folder.rglob("manager.log") if f"-{pool.pid} " in path.read_text()]
    assert list(folder.rglob("worker_*.log"))


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return ""


def _sleeps(pid: int) -> bool:
    """Whether all threads of a process wait for something."""
    states = [path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return set(states) == {"S"}
