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


def test_without_a_file_of_its_own_a_process_makes_each_mark_anew(mark, tmp_path):
    (tmp_path / claims.FOLDER).write_text("in the way")
    first, second = mark(), mark()
    assert claim(first)
    assert claim(second)
    assert not os.path.samefile(first, second)
    assert not claim(first)


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


def test_what_was_asked_first_is_not_forgotten_for_what_is_asked_next(mark, marks):
    ended, runs = uuid.uuid4(), uuid.uuid4()
    for task_id in (ended, runs):
        assert claim(mark(task_id))
    assert marks.ask_to_end(runs, 1)
    assert marks.ask_to_end(ended, 1)  # its result is on its way, which the agent doesn't know
    assert (is_asked(mark(runs)), marks.asked_to_end(runs, 1)) == (True, True)


def test_a_task_that_has_ended_can_t_be_asked(mark, marks):
    task_id = uuid.uuid4()
    assert claim(mark(task_id))
    marks.forget(task_id, 1)
    assert not marks.ask_to_end(task_id, 1)
    assert not os.path.exists(mark(task_id))


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_a_later_hand_over_is_another_task_to_end(mark, marks, order):
    task_id = uuid.uuid4()
    paths = {1: mark(task_id), 2: f"{mark(task_id)}.2"}
    for path in paths.values():
        assert claim(path)
    assert marks.ask_to_end(task_id, order[0])
    assert is_asked(paths[order[0]])
    assert not is_asked(paths[order[1]])
    assert marks.ask_to_end(task_id, order[1])
    assert is_asked(paths[order[1]])
