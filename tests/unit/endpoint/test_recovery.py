"""What becomes of an earlier agent's tasks, by what is on disk of them; nothing runs here."""

from __future__ import annotations

import uuid
from types import SimpleNamespace
from typing import cast

import pytest

from parsl_globus.endpoint.intake import Intake
from parsl_globus.endpoint.marks import Marks
from parsl_globus.endpoint.outbox import Outbox
from parsl_globus.endpoint.recovery import Recovery
from parsl_globus.endpoint.spool import SpooledTask
from parsl_globus.endpoint.spool_files import LONG_BYTES
from parsl_globus.endpoint.trips import NOTES_FOLDER, LeftNotes
from parsl_globus.errors import EndpointError
from parsl_globus.wire.codec import unpack
from parsl_globus.wire.fused import FusedResult, pack_result
from parsl_globus.wire.messages import Result


@pytest.fixture
def marks(tmp_path):
    return Marks(tmp_path / "begun")


@pytest.fixture
def outbox(spool, broker):
    """Not started, as one that has not come to it yet."""
    outbox = Outbox(spool, broker.publish, on_spooled=lambda ids: None, on_failure=lambda why: None)
    yield outbox
    outbox.stop()


@pytest.fixture
def again():
    """Tasks that shall run."""
    return []


@pytest.fixture
def recovery(tmp_path, spool, outbox, marks, again):
    def make(retries=0):
        intake = cast(Intake, SimpleNamespace(run_again=again.append))
        notes = LeftNotes(tmp_path / NOTES_FOLDER)
        return Recovery(spool, intake, outbox, marks=marks, notes=notes, retries=retries)

    return make


@pytest.fixture
def handed_over(spool):
    """Tasks that the engine had."""
    tasks = [SpooledTask(uuid.uuid4(), b"", {"function": "f"}, attempt=1) for _ in range(4)]
    spool.accept(tasks, handed_over=True)
    return tasks


def note(tmp_path, *task_ids):
    folder = tmp_path / NOTES_FOLDER
    folder.mkdir(exist_ok=True)
    packed = [pack_result(FusedResult(task_id, 1, b"noted")) for task_id in task_ids]
    (folder / uuid.uuid4().hex).write_bytes(b"".join(packed))


def test_each_task_is_answered_by_what_is_known_of_it(
    tmp_path, spool, outbox, broker, marks, again, recovery, handed_over
):
    noted, begun, cancelled, waited = handed_over
    for task in (noted, begun, cancelled):
        assert marks.take_back(task.task_id, 1)  # the worker makes the same file
    assert marks.ask_to_end(cancelled.task_id, 1)
    note(tmp_path, noted.task_id)
    accepted = SpooledTask(uuid.uuid4(), b"", {"function": "f"})
    spool.accept([accepted])
    recovery().answer_for(spool.recover())
    assert [task.task_id for task in again] == [accepted.task_id, waited.task_id]
    outbox.start()
    broker.wait_for(lambda seen: len(seen.published) == 3)
    assert broker.published[0] == b"noted"
    told = {result.task_id: result.error_details.code for result in (unpack(b, Result) for b in broker.published[1:])}
    assert told == {begun.task_id: "TaskLost", cancelled.task_id: "TaskCancelled"}
    assert outbox.wait_empty(60)
    left = spool.recover()
    assert left.handed_over == []
    assert {task.task_id for task in left.accepted} == {accepted.task_id, waited.task_id}


def test_a_message_that_is_not_whole_is_told(tmp_path, spool, outbox, broker, again, recovery):
    task = SpooledTask(uuid.uuid4(), b"x" * (LONG_BYTES + 1), {"function": "f"})
    (accepted,) = spool.accept([task])
    accepted.file.write_bytes(b"x" * LONG_BYTES)
    recovery(retries=1).answer_for(spool.recover())
    outbox.start()
    broker.wait_for(lambda seen: seen.published)
    result = unpack(broker.published[0], Result)
    assert (result.task_id, result.error_details.code) == (task.task_id, "TaskLost")
    assert again == []
    assert outbox.wait_empty(60)
    assert not accepted.file.exists()


def test_a_task_that_has_ended_needs_no_message(tmp_path, spool, outbox, broker, recovery):
    (task,) = spool.accept([SpooledTask(uuid.uuid4(), b"x" * (LONG_BYTES + 1), {}, attempt=1)], handed_over=True)
    task.file.unlink()
    note(tmp_path, task.task_id)
    recovery().answer_for(spool.recover())
    outbox.start()
    assert outbox.wait_empty(60)
    assert broker.published == [b"noted"]


def test_what_had_begun_runs_again_where_that_is_allowed(spool, marks, again, recovery, handed_over):
    for task in handed_over:
        assert marks.take_back(task.task_id, 1)
    recovery(retries=1).answer_for(spool.recover())
    assert {(task.task_id, task.failures) for task in again} == {(task.task_id, 1) for task in handed_over}
    assert [task.failures for task in spool.recover().accepted] == [1] * 4


def test_notes_go_when_their_results_are_on_disk_elsewhere(tmp_path, spool, marks, recovery, handed_over):
    ended = handed_over[0].task_id
    assert marks.take_back(ended, 1)
    note(tmp_path, ended, uuid.uuid4())
    recovery().answer_for(spool.recover())
    # Killed now, the outbox has written nothing: the next agent has the result from one place or the other.
    assert spool.recover().results == [(ended, b"noted")]
    assert list((tmp_path / NOTES_FOLDER).iterdir()) == []


def test_notes_stay_when_their_results_can_not_be_written(tmp_path, spool, marks, recovery, handed_over):
    note(tmp_path, handed_over[0].task_id)
    left = spool.recover()
    spool.close()
    with pytest.raises(EndpointError):
        recovery().answer_for(left)
    assert len(list((tmp_path / NOTES_FOLDER).iterdir())) == 1


def test_no_note_answers_for_a_later_hand_over(tmp_path, spool, marks, again, recovery, handed_over):
    task_id = handed_over[0].task_id
    spool.handed_over([task_id])
    assert marks.take_back(task_id, 2)
    note(tmp_path, task_id)
    recovery(retries=1).answer_for(spool.recover())
    assert task_id in {task.task_id for task in again}
