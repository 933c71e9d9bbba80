"""What is on disk outlives the process."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import uuid
from dataclasses import replace

import pytest

from parsl_globus.endpoint import spool as spool_module
from parsl_globus.endpoint.spool import Spool, SpooledTask
from parsl_globus.endpoint.spool_files import FOLDER, LONG_BYTES
from parsl_globus.errors import EndpointError


def _task(**fields):
    return SpooledTask(uuid.uuid4(), b"body", {"function": "f"}, **fields)


def test_a_task_goes_its_way(spool):
    tasks = [_task() for _ in range(3)]
    assert spool.accept(tasks) == tasks
    left = spool.recover()
    assert sorted(task.task_id for task in left.accepted) == sorted(task.task_id for task in tasks)
    assert left.accepted[0].body == b"body"
    assert left.accepted[0].headers == {"function": "f"}
    spool.handed_over([tasks[0].task_id])
    assert [task.task_id for task in spool.recover().handed_over] == [tasks[0].task_id]
    spool.finish([(tasks[0].task_id, b"result")])
    left = spool.recover()
    assert left.results == [(tasks[0].task_id, b"result")]
    assert left.handed_over == []
    spool.confirmed([tasks[0].task_id])
    assert spool.recover().results == []


def test_a_delivery_that_comes_again_is_not_new_at_any_stage(spool):
    task = _task()
    assert spool.accept([task, task]) == [task]
    assert spool.accept([task]) == []
    spool.handed_over([task.task_id])
    assert spool.accept([task]) == []
    spool.finish([(task.task_id, b"result")])
    assert spool.accept([task]) == []
    spool.confirmed([task.task_id])
    assert spool.accept([task]) == []


def test_failures_are_counted(spool):
    task = _task()
    spool.accept([task], handed_over=True)
    spool.failed(task.task_id)
    (again,) = spool.recover().accepted
    assert again.failures == 1


def test_tombstones_are_bounded(spool, monkeypatch):
    monkeypatch.setattr(spool_module, "MAX_TOMBSTONES", 5)
    old = _task()
    spool.accept([old])
    spool.finish([(old.task_id, b"r")])
    spool.confirmed([old.task_id])
    for _ in range(10):
        task = _task()
        spool.accept([task])
        spool.finish([(task.task_id, b"r")])
        spool.confirmed([task.task_id])
    spool.recover()
    assert spool.accept([old]) == [old]
    assert spool.accept([task]) == []


def test_it_survives_a_kill(tmp_path):
    program = """
import os, sys, uuid
from pathlib import Path
from parsl_globus.endpoint.spool import Spool, SpooledTask
spool = Spool(Path(sys.argv[1]))
spool.accept([SpooledTask(uuid.UUID(int=n), b"b" * 1000, {}) for n in range(100)])
spool.finish([(uuid.UUID(int=n), b"r") for n in range(40)])
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "spool.db"], check=False)
    assert done.returncode == -9
    spool = Spool(tmp_path / "spool.db")
    left = spool.recover()
    spool.close()
    assert len(left.accepted) == 60
    assert len(left.results) == 40


def test_discarded_tasks_never_run_and_results_stay(spool):
    task, ended = _task(), _task()
    spool.accept([task, ended])
    spool.finish([(ended.task_id, b"r")])
    assert spool.discard_tasks() == 1
    left = spool.recover()
    assert (left.accepted, left.handed_over, left.results) == ([], [], [(ended.task_id, b"r")])
    assert spool.accept([task]) == []


def test_hand_overs_are_counted(spool):
    task = _task()
    spool.accept([task])
    for attempt in (1, 2):
        spool.handed_over([task.task_id])
        assert [one.attempt for one in spool.recover().handed_over] == [attempt]
        spool.taken_back(task.task_id)
        assert [one.attempt for one in spool.recover().accepted] == [attempt]


def test_only_the_owner_can_read_it(spool, tmp_path):
    assert (tmp_path / "spool.db").stat().st_mode & 0o077 == 0


def test_what_is_no_spool_is_named(tmp_path):
    path = tmp_path / "spool.db"
    path.write_text("this is no database at all, but long enough to look at" * 100)
    with pytest.raises(EndpointError, match=r"spool\.db"):
        Spool(path)


def test_what_is_deleted_is_not_written_once_more(tmp_path):
    """Whatever the defaults of this machine's SQLite: with zeros over all that leaves, a large task costs twice."""
    path = tmp_path / "spool.db"
    spool = Spool(path)
    tasks = [SpooledTask(uuid.uuid4(), b"x" * LONG_BYTES, {}) for _ in range(4)]
    spool.accept(tasks)
    log = path.with_name(f"{path.name}-wal")
    written_bytes = log.stat().st_size
    spool.finish([(task.task_id, b"") for task in tasks])
    assert log.stat().st_size < 1.1 * written_bytes
    spool.close()


def long_task():
    return SpooledTask(uuid.uuid4(), b"x" * (LONG_BYTES + 1), {})


def test_a_long_message_is_in_a_file_until_its_task_is_answered(spool, tmp_path):
    task, short = long_task(), _task()
    accepted, other = spool.accept([task, short])
    assert (other, accepted) == (short, replace(task, file=tmp_path / FOLDER / task.task_id.hex))
    assert accepted.file.read_bytes() == task.body
    assert accepted.file.stat().st_mode & 0o777 == 0o600
    assert spool.accept([task]) == []
    spool.finish([(short.task_id, b"r")])
    assert accepted.file.exists()
    spool.finish([(task.task_id, b"r")])
    assert list((tmp_path / FOLDER).iterdir()) == []
    assert len(spool.recover().results) == 2


def test_long_messages_survive_a_kill_and_what_is_left_of_others_is_removed(tmp_path):
    program = f"""
import os, sys, uuid
from pathlib import Path
from parsl_globus.endpoint.spool import Spool, SpooledTask
spool = Spool(Path(sys.argv[1]))
spool.accept([SpooledTask(uuid.UUID(int=n), b"%d" % n * {LONG_BYTES + 1}, {{}}) for n in range(4)])
spool.finish([(uuid.UUID(int=0), b"r")])
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "spool.db"], check=False)
    assert done.returncode == -9
    (tmp_path / FOLDER / "half").touch()  # killed before its row was there
    # As after a loss of power: one has no file, one an empty one.
    (tmp_path / FOLDER / uuid.UUID(int=2).hex).unlink()
    os.truncate(tmp_path / FOLDER / uuid.UUID(int=3).hex, 0)
    spool = Spool(tmp_path / "spool.db")
    left = spool.recover()
    (whole,) = left.accepted
    assert (whole.task_id.int, whole.body) == (1, b"1" * (LONG_BYTES + 1))
    assert whole.file.read_bytes() == whole.body
    assert {task.task_id.int for task in left.unreadable} == {2, 3}
    assert sorted(os.listdir(tmp_path / FOLDER)) == [uuid.UUID(int=number).hex for number in (1, 3)]
    spool.finish([(task.task_id, b"lost") for task in left.unreadable])
    assert os.listdir(tmp_path / FOLDER) == [uuid.UUID(int=1).hex]
    assert spool.discard_tasks() == 1
    assert os.listdir(tmp_path / FOLDER) == []
    spool.close()


def test_a_spool_of_an_older_agent_is_taken_over(tmp_path):
    path = tmp_path / "spool.db"
    spool = Spool(path)
    long, short = long_task(), _task()
    spool.accept([long, short])
    spool.close()
    db = sqlite3.connect(path)
    db.execute("ALTER TABLE tasks DROP COLUMN file_bytes")
    db.close()
    spool = Spool(path)
    assert {task.task_id: task.body for task in spool.recover().accepted} == {
        long.task_id: long.body,
        short.task_id: short.body,
    }
    spool.close()


def test_a_file_that_can_not_be_written_is_told(spool, tmp_path):
    (tmp_path / FOLDER).touch()
    task = long_task()
    with pytest.raises(EndpointError, match=FOLDER):
        spool.accept([task])
    assert spool.known([task.task_id]) == set()
