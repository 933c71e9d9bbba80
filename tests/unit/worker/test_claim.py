"""A worker's claim to a task: by a further name of a file that it has."""

from __future__ import annotations

import errno
import os
import uuid

import pytest

from parsl_globus.endpoint import marks as agents
from parsl_globus.endpoint.marks import Marks
from parsl_globus.worker import claim as claims
from parsl_globus.worker.claim import claim, is_asked


@pytest.fixture
def marks(tmp_path):
    return Marks(tmp_path / "begun")


@pytest.fixture
def mark(tmp_path, marks):
    """Makes the path of a new task's mark."""

    def make(task_id: uuid.UUID | None = None) -> str:
        return str(tmp_path / "begun" / str(task_id or uuid.uuid4()))

    return make


def test_agent_and_worker_name_the_same_folder():
    assert claims.FOLDER == agents.WORKERS_FOLDER


def test_a_task_is_claimed_once(mark, marks):
    task_id = uuid.uuid4()
    assert claim(mark(task_id))
    assert not marks.take_back(task_id, 1)
    other = uuid.uuid4()
    assert marks.take_back(other, 1)
    assert not claim(mark(other))


def test_all_marks_of_a_process_are_one_file(mark, marks):
    first, second = mark(), mark()
    assert claim(first)
    assert claim(second)
    assert os.path.samefile(first, second)
    os.unlink(first)
    assert os.path.exists(second)


def test_a_claim_whose_answer_got_lost_is_one(mark):
    path = mark()
    assert claim(path)
    assert claim(path)  # as it is repeated by NFS


@pytest.mark.parametrize("number", [errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP])
def test_without_links_each_mark_is_a_file_of_its_own(mark, monkeypatch, number):
    def refuse(*_paths):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    first, second = mark(), mark()
    assert claim(first)
    assert claim(second)
    assert not os.path.samefile(first, second)
    assert not claim(first)


def test_a_process_whose_file_was_removed_makes_another(mark, tmp_path):
    assert claim(mark())
    (old,) = (tmp_path / claims.FOLDER).iterdir()
    old.unlink()
    assert claim(mark())
    (new,) = (tmp_path / claims.FOLDER).iterdir()
    assert new != old


def test_a_folder_that_is_gone_is_an_error(mark, tmp_path):
    os.rmdir(tmp_path / "begun")
    with pytest.raises(FileNotFoundError):
        claim(mark())


def test_only_the_task_that_is_meant_is_asked_to_end(mark, marks):
    ended, runs = uuid.uuid4(), uuid.uuid4()
    for task_id in (ended, runs):
        assert claim(mark(task_id))
    assert not is_asked(mark(runs))
    assert marks.ask_to_end(ended, 1)  # too late: the worker is at the next one
    assert (is_asked(mark(runs)), marks.asked_to_end(runs, 1)) == (False, False)
    assert (is_asked(mark(ended)), marks.asked_to_end(ended, 1)) == (True, True)
    assert marks.ask_to_end(runs, 1)
    assert (is_asked(mark(runs)), marks.asked_to_end(runs, 1)) == (True, True)
    assert not is_asked(mark(ended))


def test_a_later_hand_over_is_another_task_to_end(mark, marks):
    task_id = uuid.uuid4()
    second = f"{mark(task_id)}.2"
    assert claim(mark(task_id))
    assert claim(second)
    assert marks.ask_to_end(task_id, 1)
    assert is_asked(mark(task_id))
    assert not is_asked(second)
    assert marks.ask_to_end(task_id, 2)
    assert is_asked(second)
    assert not is_asked(mark(task_id))
