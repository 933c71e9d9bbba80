from __future__ import annotations

import os
import uuid

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


def test_old_marks_are_removed(tmp_path):
    marks = Marks(tmp_path / "begun")
    marks.take_back(TASK_ID, 1)
    marks.take_back(TASK_ID, 2)
    os.utime(tmp_path / "begun" / mark_name(TASK_ID, 1), (0, 0))
    marks.prune()
    assert os.listdir(tmp_path / "begun") == [mark_name(TASK_ID, 2)]
