"""What workers left is removed while the endpoint runs."""

from __future__ import annotations

import os
import threading
import time

import pytest

from parsl_globus.endpoint import outputs, tidying
from parsl_globus.endpoint.marks import Marks
from parsl_globus.endpoint.tidying import Tidying

DAY_S = 24 * 3600.0


@pytest.fixture
def left(tmp_path):
    """Makes files of workers: so many days old, so long."""
    (tmp_path / "begun").mkdir()
    (tmp_path / outputs.FOLDER).mkdir()

    def make(name, days, size_bytes):
        path = tmp_path / outputs.FOLDER / name
        path.write_bytes(b"." * size_bytes)
        os.utime(path, times=(time.time() - days * DAY_S,) * 2)

    return make


def names(tmp_path):
    return {path.name for path in (tmp_path / outputs.FOLDER).iterdir()}


def test_what_is_old_goes_and_what_tells_nothing_goes_sooner(tmp_path, left):
    left("old", 15, 500)
    left("told", 13, 500)
    left("empty", 4, 37)
    left("idle", 2, 37)
    outputs.prune(str(tmp_path / "begun"))
    assert names(tmp_path) == {"told", "idle"}


def test_the_oldest_go_when_it_is_too_much(tmp_path, left, monkeypatch):
    monkeypatch.setattr(outputs, "FOLDER_BYTES", 1000)
    for days in range(4):
        left(str(days), days, 400)
    outputs.prune(str(tmp_path / "begun"))
    assert names(tmp_path) == {"0", "1"}


def test_where_there_is_nothing_nothing_is_done(tmp_path):
    outputs.prune(None)
    outputs.prune(str(tmp_path / "begun"))
    assert list(tmp_path.iterdir()) == []


def test_it_is_done_when_it_is_time_and_once_at_a_time(monkeypatch):
    began, gate = threading.Semaphore(0), threading.Event()

    def chore():
        began.release()
        assert gate.wait(60)
        raise OSError("as told")

    busy = Tidying([chore, began.release])
    busy.look()
    assert busy._thread is None  # it isn't time
    monkeypatch.setattr(tidying, "PERIOD_S", 0.0)
    busy = Tidying([chore, began.release])
    busy.look()
    assert began.acquire(timeout=60)
    first = busy._thread
    busy.look()
    assert busy._thread is first
    gate.set()
    assert began.acquire(timeout=60)  # one that fails keeps no other from being done
    first.join(60)
    busy.look()
    assert busy._thread is not first
    busy._thread.join(60)


def test_marks_that_are_removed_meanwhile_are_no_failure(tmp_path, monkeypatch):
    marks = Marks(tmp_path / "begun")
    for name in ("old", "gone"):
        (tmp_path / "begun" / name).touch()
    later_s = time.time() + 15 * 24 * 3600
    monkeypatch.setattr("parsl_globus.endpoint.marks.time.time", lambda: later_s)
    real = os.unlink

    def unlink(path):
        if str(path).endswith("gone"):
            real(path)
        real(path)

    monkeypatch.setattr(os, "unlink", unlink)
    marks.prune()
    assert list((tmp_path / "begun").iterdir()) == []
