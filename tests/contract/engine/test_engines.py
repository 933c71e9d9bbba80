"""What every engine promises."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import wait

import pytest

from parsl_globus.endpoint.engine import EngineFailure, EngineTask


def _task(body):
    return EngineTask(uuid.uuid4(), body)


def _failure(future):
    error = future.exception(30)
    assert isinstance(error, EngineFailure)
    return error


def test_every_task_ends_with_its_own_bytes(engine):
    futures = {b"%d" % n: engine.submit(_task(b"echo:%d" % n)) for n in range(200)}
    wait(futures.values(), timeout=60)
    assert {key: future.result(0) for key, future in futures.items()} == {key: key for key in futures}


def test_many_at_once_end_with_their_own_bytes(engine):
    futures = engine.submit_all([_task(b"echo:%d" % n) for n in range(200)])
    assert [future.result(60) for future in futures] == [b"%d" % n for n in range(200)]
    assert engine.submit_all([]) == []


def test_long_messages_come_and_go_whole(engine):
    bodies = [bytes([number]) * 1_000_000 for number in range(3)]
    futures = engine.submit_all([_task(b"echo:" + body) for body in bodies])
    assert [future.result(60) for future in futures] == bodies


def test_the_worker_is_told_what_it_needs(engine):
    task = EngineTask(uuid.uuid4(), b"who", result_serializers=["a.B"])
    task_id, endpoint_id, run_dir, rest = engine.submit(task).result(30).decode().split(" ", 3)
    assert task_id == str(task.task_id)
    assert uuid.UUID(endpoint_id)
    assert run_dir == str(engine.folder / "tasks")
    assert rest == "[('result_serializers', ['a.B']), ('run_in_sandbox', True)]"


def test_a_begun_task_leaves_a_mark(engine):
    task = _task(b"echo:x")
    engine.submit(task).result(30)
    assert (engine.folder / "begun" / str(task.task_id)).exists()


@pytest.mark.parametrize("body", [b"raise", b"number"])
def test_a_worker_function_that_breaks_its_promise(engine, body):
    failure = _failure(engine.submit(_task(body)))
    assert (failure.code, failure.lost) == ("EngineFailed", False)
    assert engine.submit(_task(b"echo:on")).result(30) == b"on"


def test_a_specification_that_the_engine_can_t_serve_fails_its_task_only(engine):
    task = EngineTask(uuid.uuid4(), b"echo:x", resource_specification={"num_nodes": 2})
    failure = _failure(engine.submit(task))
    assert (failure.code, failure.lost) == ("InvalidResourceSpecification", False)
    assert engine.submit(_task(b"echo:on")).result(30) == b"on"


def test_status_counts(engine, tmp_path):
    engine.submit(_task(b"echo:up")).result(30)
    before = engine.status()
    go = tmp_path / "go"
    futures = [engine.submit(_task(b"wait:" + bytes(go))) for _ in range(4)]
    status = engine.status()
    assert (before.outstanding_tasks, status.outstanding_tasks) == (0, 4)
    assert status.total_tasks == before.total_tasks + 4
    assert status.total_workers == 2
    go.touch()
    assert [future.result(30) for future in futures] == [b"waited"] * 4


def test_futures_end_off_the_submitting_thread_or_on_it_but_once(engine):
    ends = []
    done = threading.Event()

    def ended(_future):
        ends.append(1)
        done.set()

    engine.submit(_task(b"echo:x")).add_done_callback(ended)
    assert done.wait(30)
    assert ends == [1]


def test_a_shutdown_ends_every_future(kind, started, tmp_path):
    engine = started(kind)
    go = tmp_path / "go"
    futures = [engine.submit(_task(b"wait:" + bytes(go))) for _ in range(6)]
    engine.shutdown()
    go.touch()
    failures = [_failure(future) for future in futures]
    assert {(failure.code, failure.lost) for failure in failures} == {("TaskLost", True)}
    late = _failure(engine.submit(_task(b"echo:late")))
    assert late.lost
    engine.shutdown()
