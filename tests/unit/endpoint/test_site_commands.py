"""`endpoint_setup` and `endpoint_teardown`: run to their end, or are ended with all that they started."""

from __future__ import annotations

import os
import threading
import time
import uuid

import psutil
import pytest

from parsl_globus.endpoint import site_commands
from parsl_globus.endpoint.site_commands import run_commands
from parsl_globus.errors import EndpointStartFailed

ID = uuid.uuid4()


def run(commands, **settings):
    return run_commands("endpoint_setup", commands, ID, **settings)


def test_none_and_several_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(None)
    assert run("echo one > said\necho two >> said\n")
    assert (tmp_path / "said").read_text() == "one\ntwo\n"


def test_the_first_that_fails_ends_them_and_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EndpointStartFailed, match="endpoint_setup .* exit code 3: no such module"):
        run("sh -c 'echo no such module >&2; exit 3'\ntouch later")
    assert not (tmp_path / "later").exists()


def test_the_end_of_a_long_output_is_told():
    with pytest.raises(EndpointStartFailed) as caught:
        run("i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i + 1)); done; false")
    assert caught.value.detail.endswith("line 1999")
    assert len(caught.value.detail) < 1000


def test_what_goes_on_in_the_background_holds_nothing_up(tmp_path):
    began_s = time.monotonic()
    assert run(f"sleep 300 & echo $! > {tmp_path}/pid")
    assert time.monotonic() - began_s < 60
    process = psutil.Process(int((tmp_path / "pid").read_text()))
    assert process.is_running()
    process.kill()
    process.wait(10)


@pytest.mark.parametrize("trap", ["", "trap '' TERM; "])
def test_they_end_with_all_that_they_started_when_the_endpoint_is_told_to(tmp_path, trap, monkeypatch):
    monkeypatch.setattr(site_commands, "_GRACE_S", 0.3)
    stopping = threading.Event()
    pids = tmp_path / "pids"
    os.mkfifo(pids)
    found = []

    def stop():
        found.extend(psutil.Process(int(pid)) for pid in pids.read_text().split())
        stopping.set()

    stopper = threading.Thread(target=stop)
    stopper.start()
    assert not run(f"{trap}sleep 300 & echo $$ $! > {pids}; wait; wait; sleep 300", stopping=stopping)
    stopper.join(60)
    gone, alive = psutil.wait_procs(found, timeout=30)
    assert (len(gone), alive) == (2, [])


def test_a_limit_is_told():
    with pytest.raises(EndpointStartFailed, match="did not end within 0 s"):
        run("sleep 300", limit_s=0.2)
