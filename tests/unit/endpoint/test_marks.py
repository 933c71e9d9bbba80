from __future__ import annotations

import os
import time
import uuid

from parsl_globus.endpoint import marks as marks_module
from parsl_globus.endpoint.marks import Marks, mark_name

TASK_ID = uuid.uuid4()


def test_whoever_comes_first_has_the_task(tmp_path):
    marks = Marks(tmp_path / "begun")
    assert marks.take_back(TASK_ID, 1)
    assert not marks.take_back(TASK_ID, 1)
    assert marks.take_back(TASK_ID, 2)
    (tmp_path / "begun" / mark_name(TASK_ID, 3)).touch()
    assert not marks.take_back(TASK_ID, 3)


def test_what_can_t_be_told_counts_as_begun(tmp_path):
    marks = Marks(tmp_path / "begun")
    (tmp_path / "begun").rmdir()
    assert not marks.take_back(TASK_ID, 1)


def test_only_the_mark_of_the_last_hand_over_is_forgotten(tmp_path):
    marks = Marks(tmp_path / "begun")
    marks.take_back(TASK_ID, 1)
    marks.take_back(TASK_ID, 2)
    marks.forget(TASK_ID, 2)
    marks.forget(TASK_ID, 3)
    assert os.listdir(tmp_path / "begun") == [str(TASK_ID)]


def test_old_marks_and_files_of_workers_are_removed(tmp_path, monkeypatch):
    marks = Marks(tmp_path / "begun")
    marks.take_back(TASK_ID, 1)
    marks.take_back(TASK_ID, 2)
    (tmp_path / "workers").mkdir()
    for name in ("old", "young"):
        (tmp_path / "workers" / name).touch()
    marks.prune()
    assert len(os.listdir(tmp_path / "begun")) == len(os.listdir(tmp_path / "workers")) == 2
    later_s = time.time() + 15 * 24 * 3600
    for path in (tmp_path / "begun" / mark_name(TASK_ID, 2), tmp_path / "workers" / "young"):
        os.utime(path, (later_s, later_s))
    monkeypatch.setattr(marks_module.time, "time", lambda: later_s)
    marks.prune()
    assert os.listdir(tmp_path / "begun") == [mark_name(TASK_ID, 2)]
    assert os.listdir(tmp_path / "workers") == ["young"]
