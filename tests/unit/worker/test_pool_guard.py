"""Locks of which the holder is dead, in queues as Parsl's worker pool has them; the engines' contract has real ones."""

from __future__ import annotations

import multiprocessing
import threading
import time
from types import SimpleNamespace

import pytest

from parsl_globus.worker import pool_guard
from parsl_globus.worker.pool_guard import PoolGuard

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(scope="module")
def keeper():
    """Stands for the process that keeps what the workers share."""
    process = SPAWN.Process(target=time.sleep, args=(600,), name="SyncManager-1")
    process.start()
    yield process
    process.kill()
    process.join()
    process.close()


@pytest.fixture
def pool(monkeypatch, keeper):
    monkeypatch.setattr(pool_guard, "_HELD_S", 0.2)
    pool = SimpleNamespace(
        pending_task_queue=SPAWN.Queue(),
        pending_result_queue=SPAWN.Queue(),
        ready_worker_count=SPAWN.Value("i", 0),
        _tasks_in_progress={},
    )
    yield pool
    for queue in (pool.pending_task_queue, pool.pending_result_queue):
        queue.close()
        queue.join_thread()


@pytest.fixture
def guard(pool):
    """One that has seen a worker, which is dead now."""

    def make(name="HTEX-Worker-0"):
        guard = PoolGuard(pool)
        worker = SPAWN.Process(target=time.sleep, args=(600,), name=name)
        worker.start()
        assert guard.look() is None
        worker.kill()
        worker.join()
        worker.close()
        return guard

    return make


def test_a_lock_that_is_in_use_is_left_alone(pool, guard):
    guarding = guard()
    used = pool.pending_task_queue
    got = []
    waiting = threading.Thread(target=lambda: got.append(used.get(timeout=60)))
    waiting.start()  # holds it, as long as there is nothing
    while used._rlock.acquire(block=False):
        used._rlock.release()
    assert guarding.look() is None
    assert not used._rlock.acquire(block=False)
    used.put("task")
    waiting.join(60)
    assert got == ["task"]
    assert guarding.look() is None


def test_a_dead_worker_s_lock_of_the_tasks_is_freed_once_there_are_some(pool, guard):
    guarding = guard()
    pool.pending_task_queue._rlock.acquire()
    assert guarding.look() is None
    assert not pool.pending_task_queue._rlock.acquire(block=False)
    pool.pending_task_queue.put("task")
    assert guarding.look() is None
    assert pool.pending_task_queue.get(timeout=60) == "task"


def test_a_worker_that_died_before_it_was_seen_is_known_by_the_one_in_its_place(pool):
    guarding = PoolGuard(pool)
    pool.pending_task_queue._rlock.acquire()
    pool.pending_task_queue.put("task")
    worker = SPAWN.Process(target=time.sleep, args=(600,), name="HTEX-Worker-0")
    worker.start()
    try:
        assert guarding.look() is None
        assert pool.pending_task_queue.get(timeout=60) == "task"
    finally:
        worker.kill()
        worker.join()
        worker.close()


def test_a_keeper_that_died_before_it_was_seen_ends_the_pool(pool, monkeypatch):
    workers = [SimpleNamespace(pid=1, name="HTEX-Worker-0")]
    monkeypatch.setattr(multiprocessing, "active_children", lambda: workers)
    assert "keeps what the workers share" in PoolGuard(pool).look()


def test_without_a_death_no_lock_is_freed(pool):
    guarding = PoolGuard(pool)
    assert guarding.look() is None
    pool.pending_task_queue._rlock.acquire()
    pool.pending_task_queue.put("task")
    assert guarding.look() is None
    assert not pool.pending_task_queue._rlock.acquire(block=False)
    pool.pending_task_queue._rlock.release()
    assert pool.pending_task_queue.get(timeout=60) == "task"


def test_a_damaged_queue_ends_the_pool_when_nobody_works(pool, guard):
    guarding = guard()
    pool._tasks_in_progress[1] = "a task"
    pool.pending_task_queue.put("task")
    for _ in range(pool_guard._TIMES + 1):  # whoever gets it next waits for the rest of a message for ever
        pool.pending_task_queue._rlock.acquire()
        assert guarding.look() is None
    pool._tasks_in_progress.clear()
    assert "damaged" in guarding.look()
    pool.pending_task_queue._rlock.release()
    assert pool.pending_task_queue.get(timeout=60) == "task"


@pytest.mark.parametrize("which", ["ready", "results", "keeper"])
def test_what_can_not_be_mended_ends_the_pool(pool, guard, which):
    lock = {
        "ready": pool.ready_worker_count.get_lock(),
        "results": pool.pending_result_queue._wlock,
    }.get(which)
    if lock is None:
        assert "keeps what the workers share" in guard("SyncManager-2").look()
        return
    guarding = guard()
    holder = threading.Thread(target=lock.acquire)  # one of these locks may be had again by the thread that has it
    holder.start()
    holder.join()
    assert which in guarding.look().replace("that are ready", "ready")
    if which == "results":
        lock.release()
