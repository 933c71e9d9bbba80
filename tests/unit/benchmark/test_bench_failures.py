"""Contenders that end, hang or can't start: noted, and no reason for the others to stop."""

from __future__ import annotations

import os
import sys
import textwrap
import uuid
from typing import Any

import psutil
import pytest

from bench.pace import Pace
from bench.process import ContenderFailedError, Program, marked
from bench.progress import Progress
from bench.rounds import Plan, Rounds
from bench.rows import BY_NAME

#: Answers each line, unless it is told to end or to hang with a child of its own.
ANSWERS = """
    import json, subprocess, sys, time
    for line in sys.stdin:
        request = json.loads(line)
        if request["row"] == "end":
            sys.exit("out of luck")
        if request["row"] == "hang":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
            print(json.dumps({"child": child.pid}), flush=True)
            time.sleep(600)
        print(json.dumps({"value": 7.0, "failed": 0}), flush=True)
"""
#: Ends with the first row, but not when it is warmed up.
ENDS = """
    import json, sys
    for line in sys.stdin:
        if json.loads(line)["row"] != "warm":
            sys.exit("out of luck")
        print(json.dumps({"value": 0.0}), flush=True)
"""


def program(folder, script, kind="ours") -> Program:
    command = [sys.executable, "-c", textwrap.dedent(script)]
    return Program(command, os.environ, folder, folder / "log", kind=kind, mark=f"test {uuid.uuid4()}")


def test_an_answer_and_an_orderly_end(tmp_path):
    running = program(tmp_path, ANSWERS)
    assert running.ask(60, row="noops") == {"value": 7.0, "failed": 0}
    running.close()
    assert not psutil.pid_exists(running.pid)


def test_a_program_that_ends_tells_its_last_words(tmp_path):
    (tmp_path / "log").write_text("of another\n")
    running = program(tmp_path, ANSWERS)
    try:
        with pytest.raises(ContenderFailedError, match="out of luck"):
            running.ask(60, row="end")
        with pytest.raises(ContenderFailedError, match="out of luck"):
            running.ask(60, row="noops")
    finally:
        running.close()


def test_a_program_that_hangs_is_ended_with_all_that_it_started(tmp_path):
    running = program(tmp_path, ANSWERS)
    try:
        child = psutil.Process(running.ask(60, row="hang")["child"])
        with pytest.raises(ContenderFailedError, match="within 0 s"):
            running.answer(0.2)
    finally:
        running.close(limit_s=0.2)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert marked(running.mark) == []


class FakeStage:
    """Contenders are the scripts above; the public one's endpoint does not start."""

    def __init__(self, folder):
        self._folder = folder
        self.running = []
        self.endpoints = []

    def start_endpoint(self, kind):
        if kind == "public":
            raise ContenderFailedError("its endpoint did not start: no luck")
        self.endpoints.append(kind)

    def stop_endpoint(self, kind):
        if kind in self.endpoints:
            self.endpoints.remove(kind)

    def workflow(self, kind, endpoint_id, *, monitoring=False):
        self.running.append(program(self._folder, ENDS if kind == "ours" else ANSWERS, kind))
        return self.running[-1]

    def chain(self, workflow):
        return marked(workflow.mark)


def test_who_fails_is_noted_and_the_others_go_on(tmp_path):
    stage: Any = FakeStage(tmp_path)
    plan = Plan(["local", "public", "ours"], [BY_NAME["noops"], BY_NAME["latency"]], repeats=2, count=3)
    loops_ms = iter(range(1, 1_000))
    measured = Rounds("embedded", stage, plan, Progress(), pace := Pace(lambda: next(loops_ms))).run()
    found = {(one.row, one.kind): one for one in measured}
    assert found["noops", "local"].values == found["latency", "local"].values == [7.0, 7.0]
    assert found["noops", "local"].memory_mb[0]["client"] > 1
    assert found["noops", "ours"].values == found["latency", "ours"].values == [None, None]
    assert found["noops", "ours"].why == ["it ended: out of luck"]
    assert found["noops", "ours"].failed == [3, 3]
    assert "its endpoint did not start: no luck" in found["noops", "public"].why
    # Before each of 2 rows, 3 contenders and 2 rounds, the least of three.
    assert pace.summary() == {"least": 1, "median": 17.5, "most": 34}
    assert stage.endpoints == []
    assert [running.pid for running in stage.running if psutil.pid_exists(running.pid)] == []


def test_when_time_is_up_one_round_remains(tmp_path):
    plan = Plan(["local"], [BY_NAME["noops"]], repeats=5, count=3)
    stage: Any = FakeStage(tmp_path)
    (one,) = Rounds("embedded", stage, plan, Progress(limit_s=0.0), Pace(lambda: 1.0)).run()
    assert one.values == [7.0]
