"""In processes of their own, as a task that can't be ended otherwise ends its process."""

from __future__ import annotations

import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from once import DEADLINE_S, wait_until

from parsl_globus.endpoint.marks import Marks

WORKER = """
import sys, time, threading
from parsl_globus.worker import watch

mark, how = sys.argv[1:]
open(mark, "x").close()
if how == "thread":
    watch.begin(mark)
    watch.over()
    thread = threading.Thread(target=lambda: (watch.begin(mark), time.sleep(3), print("slept", flush=True)))
    thread.start()
    thread.join()
    sys.exit()
try:
    try:
        watch.begin(mark)
        print("began", flush=True)
        while True:
            try:
                time.sleep(600)
            except BaseException:
                print("caught", flush=True)
                if how == "ends":
                    raise
    finally:
        watch.over()
except watch.TaskCancelledError:
    print("cancelled", flush=True)
watch.begin(mark + "-next")
time.sleep(3)
watch.over()
print("next done", flush=True)
"""


@pytest.mark.parametrize(
    ("how", "code", "words"),
    [
        ("ends", 0, ["began", "caught", "cancelled", "next done"]),
        ("goes on", -9, ["began", "caught", "caught"]),
        ("thread", 0, ["slept"]),
    ],
)
def test_a_task_is_ended_by_a_word_in_its_mark(tmp_path, how, code, words):
    marks, task_id = Marks(tmp_path / "begun"), uuid.uuid4()
    mark = tmp_path / "begun" / str(task_id)
    assert not marks.ask_to_end(task_id, 1)
    with subprocess.Popen([sys.executable, "-c", WORKER, str(mark), how], stdout=subprocess.PIPE, text=True) as process:
        wait_until(mark.exists, "it did not begin")
        assert not marks.asked_to_end(task_id, 1)
        assert marks.ask_to_end(task_id, 1)
        assert marks.asked_to_end(task_id, 1)
        told, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == code
    assert told.split("\n")[:-1] == words
    assert not Path(f"{mark}-next").exists()
