"""The link to the page: shown to whoever sits at the terminal, and written nowhere else."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

COMMAND = [sys.executable, "-m", "parsl_globus.cli", "service"]
RUN = [*COMMAND, "run", "--port", "0", "--amqp-port", "0"]


def test_a_terminal_is_shown_a_link():
    terminal, inside = pty.openpty()
    process = subprocess.Popen(RUN, stdin=subprocess.DEVNULL, stdout=inside, stderr=subprocess.DEVNULL)
    os.close(inside)
    try:
        with os.fdopen(terminal, "rb", buffering=0) as stream:
            said = b""
            while said.count(b"\n") < 2:
                said += stream.read(1000)
        assert b"/login#code=" in said
    finally:
        process.terminate()
        assert process.wait(20) == 0


def test_a_file_is_not():
    with subprocess.Popen(RUN, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("service ready")
            asked = subprocess.run([*COMMAND, "page"], capture_output=True, text=True, timeout=60, check=True)
            assert "/login#code=" in asked.stdout
            assert asked.stderr == ""
        finally:
            process.terminate()
            said, complained = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "code=" not in said + complained


def test_without_a_service_it_is_one_sentence():
    asked = subprocess.run([*COMMAND, "page"], capture_output=True, text=True, timeout=60, check=False)
    assert (asked.returncode, asked.stdout, len(asked.stderr.splitlines())) == (1, "", 1)
