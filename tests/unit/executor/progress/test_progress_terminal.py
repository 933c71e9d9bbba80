"""The table of a running workflow, at pseudo-terminals of several sizes."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import parsl
import pytest
from parsl import Config, python_app
from parsl.executors import ThreadPoolExecutor
from terminal import Screen

from parsl_globus import progress


@python_app(executors=["near"])
def hold(event: Any) -> None:
    event.wait(90)


@python_app(executors=["far"])
def after(_before: Any, number: int) -> None:
    if number == 3:
        raise LookupError(number)


@contextmanager
def workflow(
    folder: Path, event: Any, *more: str, columns: int = 90, rows: int = 24, interval_s: float = 0.05
) -> Iterator[Screen]:
    """A view of one task that waits for the event, and of four that wait for this one."""
    executors = [ThreadPoolExecutor(label=label, max_threads=1) for label in ("near", "far", *more)]
    config = Config(executors=executors, run_dir=str(folder), strategy="none", initialize_logging=False)
    with Screen(columns=columns, rows=rows) as screen, open(screen.slave, "w", encoding="utf-8") as stream:
        with parsl.load(config):
            with progress(stream=stream, interval_s=interval_s):
                held = hold(event)
                futures = [after(held, number) for number in range(4)]
                try:
                    yield screen
                finally:
                    event.set()
                for future in futures:
                    future.exception()
        screen.read_rest()


@pytest.fixture(autouse=True)
def _term(monkeypatch: Any) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("COLUMNS", raising=False)


def test_a_table_changes_in_place_and_stays(tmp_path: Path) -> None:
    event = threading.Event()
    with workflow(tmp_path, event) as screen:
        screen.wait_for(lambda: re.search(r"near +0 +1 .*\nfar +4 +0 +0 +0 +1 thread", screen.shown()) is not None)
        assert re.match(r"\d+ s +waiting +running +done +failed +rate +endpoint$", screen.lines()[0])
        frames = screen.raw.count("waiting")
        screen.wait_for(lambda: screen.raw.count("waiting") >= frames + 4)
        screen.wait_for(lambda: screen.shown().count("waiting") == 1)
        event.set()
        screen.wait_for(lambda: re.search(r"far +0 +0 +3 +1", screen.shown()) is not None)
    lines = screen.lines()
    assert len(lines) == 4
    assert re.fullmatch(r"near +0 +0 +1 +0 +\S+/s +1 thread", lines[1])
    assert re.fullmatch(r"far +0 +0 +3 +1 +\S+/s +1 thread", lines[2])
    assert lines[3] == ""
    assert "?25l" not in screen.raw  # the cursor stays visible: who is killed can't bring it back


@pytest.mark.parametrize("columns", [24, 40, 60])
def test_a_narrow_terminal(tmp_path: Path, columns: int) -> None:
    with workflow(tmp_path, threading.Event(), "an_executor_of_a_long_name", columns=columns) as screen:
        screen.wait_for(lambda: re.search(r"^near .* 1 +0 +0", screen.shown(), re.MULTILINE) is not None)
        frames = screen.raw.count("fail")
        screen.wait_for(lambda: screen.raw.count("fail") >= frames + 3)
        # No line was too long for it, and so broken. Part of a frame may be read at any moment.
        screen.wait_for(lambda: len(screen.lines()) == 5)
    lines = screen.lines()
    assert len(lines) == 5
    assert re.match(r"far +.*3 +1", lines[2])
    assert lines[3].startswith("an_")


def test_a_low_terminal_leaves_all_at_the_end(tmp_path: Path) -> None:
    more = [f"other{number}" for number in range(12)]
    with workflow(tmp_path, threading.Event(), *more, rows=8) as screen:
        screen.wait_for(lambda: "... 10 more" in screen.shown())
        frames = screen.raw.count("waiting")
        screen.wait_for(lambda: screen.raw.count("waiting") >= frames + 3)
        screen.wait_for(lambda: screen.shown().count("waiting") == 1)
    assert [line.partition(" ")[0] for line in screen.lines()[1:15]] == ["near", "far", *more]


@pytest.mark.parametrize("lacks", ["rich", "TERM"])
def test_lines_where_a_table_is_not_possible(tmp_path: Path, lacks: str, monkeypatch: Any) -> None:
    if lacks == "rich":
        for name in [*sys.modules]:
            if name.startswith("parsl_globus.executor.progress.t"):  # as before anything has used it
                monkeypatch.delitem(sys.modules, name)
        for name in ("rich.console", "rich.table"):
            monkeypatch.setitem(sys.modules, name, None)
    else:
        monkeypatch.setenv("TERM", "dumb")
    with workflow(tmp_path, threading.Event(), columns=200) as screen:
        screen.wait_for(lambda: "s  near: 0 waiting, 1 running" in screen.raw)
    assert "\x1b" not in screen.raw
    assert re.search(r"far: 0 waiting, 0 running, 3 done, 1 failed, \S+/s; 1 thread\r\n$", screen.raw)


def test_what_is_no_terminal_gets_lines(tmp_path: Path, capsys: Any) -> None:
    """As standard error here, which pytest reads."""
    event = threading.Event()
    config = Config(executors=[ThreadPoolExecutor(label="near")], run_dir=str(tmp_path), initialize_logging=False)
    with parsl.load(config), progress():
        event.set()
        hold(event).result()
    told = capsys.readouterr()
    assert told.out == ""
    assert re.search(
        r"^ +\d+ s  near: 0 waiting, 0 running, 1 done, 0 failed, \S+/s; 2 threads\n$", told.err, re.MULTILINE
    )
    assert "\x1b" not in told.err
