"""Processes of one folder know which of them were killed."""

from __future__ import annotations

import subprocess
import sys

from parsl_globus.service.datadir import DataDir

LIVE_UNTIL_KILLED = """
import sys
from pathlib import Path
from parsl_globus.service.datadir import DataDir

with DataDir(Path(sys.argv[1]), shared=True) as data:
    with data.making():
        print(data.live_as(sys.argv[2]), flush=True)
    sys.stdin.read()
"""


def other(folder, name):
    process = subprocess.Popen(
        [sys.executable, "-c", LIVE_UNTIL_KILLED, str(folder), name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    return process, process.stdout.readline().strip()


def names(folder):
    return sorted(path.stem for path in folder.glob("*.alive"))


def test_a_killed_process_is_told_once_and_a_living_one_never(tmp_path):
    living, _ = other(tmp_path, "living")
    killed, said = other(tmp_path, "killed")
    try:
        assert said == "[]"
    finally:
        killed.kill()
        killed.communicate()
    with DataDir(tmp_path, shared=True) as data, data.making():
        assert data.live_as("here") == ["killed"]
        assert names(tmp_path) == ["here", "living"]
    living.communicate("")
    assert living.returncode == 0
    with DataDir(tmp_path, shared=True) as data, data.making():
        assert data.live_as("next") == []
    assert names(tmp_path) == []
