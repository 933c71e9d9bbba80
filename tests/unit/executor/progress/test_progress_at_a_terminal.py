"""The view at a real terminal: programs that a user may write, run at a pseudo-terminal of their own."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from terminal import Terminal

#: A workflow whose tasks wait for files, and what a person would write around it.
PROGRAM = """
import logging, os, sys, time
import parsl
from parsl import Config, python_app
from parsl.executors import ThreadPoolExecutor
from parsl_globus import progress

@python_app(executors=["near"])
def hold(name):
    import os, time
    while not os.path.exists(name):
        time.sleep(0.02)

@python_app(executors=["far"])
def after(_before, number):
    if number == 3:
        raise LookupError(number)

def hold_here(name):
    while not os.path.exists(name):
        time.sleep(0.02)

logging.getLogger("users").addHandler(logging.StreamHandler())
executors = [ThreadPoolExecutor(label=label, max_threads=1) for label in ("near", "far")]
with parsl.load(Config(executors=executors, run_dir="runinfo", initialize_logging=False, strategy="none")):
    with progress():
        held = hold("go")
        futures = [after(held, number) for number in range(4)]
BODY
    print("behind the view")
parsl.clear()
"""
WAIT = "[future.exception() for future in futures]"


@contextmanager
def running(folder: Path, *body: str, first: str = "", **terminal: Any) -> Iterator[Terminal]:
    script = folder / "workflow.py"
    text = PROGRAM.replace("BODY", "\n".join(" " * 8 + line for line in body))
    script.write_text(first + text)
    command = [sys.executable, str(script)]
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    with Terminal(["sh", "-c", f'cd "{folder}" && exec "$@"', "sh", *command], env=env, **terminal) as shown:
        yield shown


def go(folder: Path) -> None:
    (folder / "go").touch()


def test_what_the_program_writes_stands_above_it_unchanged(tmp_path: Path) -> None:
    long = "sentence " * 24 + "end"
    body = (
        "print('first', flush=True)",
        "print('beg', end='', flush=True)",
        "time.sleep(0.6)",
        "print('un', end='', flush=True)",
        "print(' and ended')",
        f"print({long!r})",
        "print('\\x1b[31mred\\x1b[0m')",
        "print('to the error stream', file=sys.stderr)",
        "logging.getLogger('users').warning('logged')",
        "sys.stdout.writelines(['one\\n', 'two\\n'])",
        "assert sys.stdout.isatty() and sys.stdout.fileno() == 1",
        "if os.fork() == 0:",
        "    print('from a child')",
        "    sys.stdout.flush()",
        "    os._exit(0)",
        "os.wait()",
        "hold_here('written')",
        "for percent in range(100): print(f'\\r{percent} %', end='')",
        "time.sleep(0.6)",
        WAIT,
    )
    with running(tmp_path, *body, columns=60) as terminal:
        # A line that is not complete stands above the table, too.
        terminal.wait_for(lambda: re.search(r"\nbeg\n\d+ s +wait ", terminal.shown()) is not None)
        terminal.wait_for(lambda: "from a child" in terminal.raw)
        (tmp_path / "written").touch()
        terminal.wait_for(lambda: "\n99 %\n" in terminal.shown())
        go(tmp_path)
        assert terminal.end() == 0, terminal.shown()
        lines = terminal.lines()
    assert "\x1b[31mred" in terminal.raw
    assert lines[:2] == ["first", "begun and ended"]
    of_long = lines[2:6]
    assert [len(text) for text in of_long[:2]] == [60, 60]  # broken by the terminal, in the middle of words
    assert "".join(text.ljust(60) for text in of_long).rstrip() == long
    assert lines[6:11] == ["red", "to the error stream", "logged", "one", "two"]
    assert lines[-6:-5] == ["99 %"]
    assert re.match(r"far +0 +0 +3 +1", lines[-3])
    assert lines[-2:] == ["behind the view", ""]


def test_ctrl_c_leaves_the_terminal_as_it_was(tmp_path: Path) -> None:
    body = ("try:", f"    {WAIT}", "except KeyboardInterrupt:", "    open('go', 'w')", "    raise")
    with running(tmp_path, *body) as terminal:
        terminal.wait_for(lambda: re.search(r"near +0 +1", terminal.shown()) is not None)
        terminal.type(b"\x03")
        assert terminal.end() != 0
        lines = terminal.lines()
    assert lines[-2] == "KeyboardInterrupt"
    start = next(number for number, text in enumerate(lines) if "waiting" in text)
    assert [text.split()[0] for text in lines[start + 1 : start + 3]] == ["near", "far"]
    assert lines[start + 3].startswith("Traceback")
    assert "?25l" not in terminal.raw  # the cursor was never hidden


BROKEN = """
import parsl_globus.executor.progress.terminal as terminal
real, tables = terminal.table_of, 0
def table_of(*args, **kwargs):
    global tables
    tables += 1
    if tables == 3:
        raise LookupError("in the view")
    return real(*args, **kwargs)
terminal.table_of = table_of
"""


def test_a_view_that_breaks_gives_the_terminal_back_and_leaves_other_outputs_alone(tmp_path: Path) -> None:
    body = (
        "print('a result')",
        "while type(sys.stderr).__name__ == 'Proxy': time.sleep(0.02)",
        "print('as without it', file=sys.stderr)",
        WAIT,
    )
    with (tmp_path / "out").open("wb") as out:
        with running(tmp_path, *body, first=BROKEN, stdout=out) as terminal:
            terminal.wait_for(lambda: "as without it" in terminal.shown())
            go(tmp_path)
            assert terminal.end() == 0, terminal.shown()
    assert "waiting" in terminal.raw
    assert terminal.lines() == [
        "The progress is not shown any more: LookupError: in the view",
        "as without it",
        "",
    ]
    assert (tmp_path / "out").read_text() == "a result\nbehind the view\n"
