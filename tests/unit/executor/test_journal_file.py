"""The file of a journal: private, for one at a time, and whole after any end."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
import uuid

import pytest

from parsl_globus.errors import JournalError, JournalInUse
from parsl_globus.executor.journal_file import TASK_LIFE_S, Batch, JournalFile

ENDPOINT_ID = uuid.uuid4()
GROUP = ("", '{"queue": "debug"}')
KEYS = [bytes([number]) * 36 for number in range(3)]

HOLDER = """
import sys, uuid
from pathlib import Path
from parsl_globus.executor.journal_file import Batch, JournalFile

file = JournalFile(Path(sys.argv[1]))
file.sending(uuid.UUID(sys.argv[2]), Batch(uuid.UUID(int=7), ("", ""), ["payload"]), [(b"k" * 36, 0)])
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.journal"


@pytest.fixture
def file(path):
    file = JournalFile(path)
    yield file
    file.close()


def test_what_was_written_is_there_again(file, path):
    key = uuid.uuid4()
    number = file.sending(ENDPOINT_ID, Batch(key, GROUP, ["a", "b", "c"]), zip(KEYS, range(3), strict=True))
    assert file.batch(number) == Batch(key, GROUP, ["a", "b", "c"])
    ids, group_id = [uuid.uuid4() for _ in KEYS], uuid.uuid4()
    file.submitted(group_id, list(zip(KEYS, ids, strict=True))[:2], [number])
    file.keep([(KEYS[0], "result")])
    file.close()
    again = JournalFile(path)
    rows = again.rows(ENDPOINT_ID)
    assert [(row.key, row.task_id, row.answered) for row in rows] == [
        (KEYS[0], ids[0], True),
        (KEYS[1], ids[1], False),
        (KEYS[2], None, False),
    ]
    assert rows[0].group_id == group_id
    assert again.result(KEYS[0]) == "result"
    assert again.result(KEYS[1]) is None
    assert again.rows(uuid.uuid4()) == []
    assert again.batch(number) is None
    again.forget(KEYS[:2])
    assert [row.key for row in again.rows(ENDPOINT_ID)] == KEYS[2:]
    again.close()


def test_without_a_key_no_payload_is_kept(file):
    number = file.sending(ENDPOINT_ID, Batch(None, GROUP, ["secret"]), [(KEYS[0], 0)])
    assert file.batch(number) == Batch(None, GROUP, [])


def test_numbers_of_submissions_are_not_used_again(file):
    first = file.sending(ENDPOINT_ID, Batch(None, GROUP, []), [(KEYS[0], 0)])
    file.submitted(uuid.uuid4(), [(KEYS[0], uuid.uuid4())], [first])
    assert file.sending(ENDPOINT_ID, Batch(None, GROUP, []), [(KEYS[1], 0)]) > first


def test_it_is_its_owner_s_only(file, path):
    file.sending(ENDPOINT_ID, Batch(None, GROUP, []), [(KEYS[0], 0)])
    assert {os.stat(path.parent / name).st_mode & 0o777 for name in os.listdir(path.parent)} == {0o600}


def test_one_that_others_may_read_is_so_no_more(path):
    path.touch()
    path.chmod(0o644)
    JournalFile(path).close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_one_that_others_can_write_is_refused(path):
    path.touch()
    path.chmod(0o620)
    with pytest.raises(JournalError, match="others can write to it"):
        JournalFile(path)


def test_what_is_no_journal_is_refused_and_left_alone(path):
    path.write_text("precious " * 200)
    path.chmod(0o600)
    with pytest.raises(JournalError, match="not a database"):
        JournalFile(path)
    assert path.read_text() == "precious " * 200


def test_another_program_s_database_is_refused(path):
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE precious (x)")
    db.close()
    path.chmod(0o600)
    with pytest.raises(JournalError, match="of another program"):
        JournalFile(path)


def test_a_folder_that_is_missing_is_told(tmp_path):
    with pytest.raises(JournalError, match="No such file"):
        JournalFile(tmp_path / "missing" / "run.journal")


def test_two_executors_of_one_process(file, path):
    for _ in range(2):  # the first refusal must not open it
        with pytest.raises(JournalInUse, match="another executor"):
            JournalFile(path)
    other = [sys.executable, "-c", HOLDER, str(path), str(ENDPOINT_ID)]
    refused = subprocess.run(other, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert "JournalInUse" in refused.stderr


def test_another_process_has_it_until_it_is_killed(path):
    command = [sys.executable, "-c", HOLDER, str(path), str(ENDPOINT_ID)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            with pytest.raises(JournalInUse, match=r"run\.journal"):
                JournalFile(path)
        finally:
            process.send_signal(signal.SIGKILL)
    file = JournalFile(path)
    (row,) = file.rows(ENDPOINT_ID)
    assert row.task_id is None
    assert file.batch(row.batch) == Batch(uuid.UUID(int=7), ("", ""), ["payload"])
    file.close()


def test_the_oldest_results_are_found(file):
    file.sending(ENDPOINT_ID, Batch(None, GROUP, []), zip(KEYS, range(3), strict=True))
    file.keep([(key, "x" * 1000) for key in KEYS[:2]])
    assert file.size_bytes() == 2600
    assert file.oldest_results(1) == KEYS[:1]
    assert file.oldest_results(5000) == KEYS[:2]


def test_what_nobody_can_know_of_any_more_goes(file, path, monkeypatch):
    with monkeypatch.context() as patched:
        long_ago_s = time.time() - TASK_LIFE_S - 60
        patched.setattr("time.time", lambda: long_ago_s)
        number = file.sending(ENDPOINT_ID, Batch(uuid.uuid4(), GROUP, ["a"]), [(KEYS[0], 0), (KEYS[1], 1)])
    file.keep([(KEYS[1], "result")])
    file.close()
    again = JournalFile(path)
    assert [row.key for row in again.rows(ENDPOINT_ID)] == KEYS[1:2]
    again.close()
    assert number
