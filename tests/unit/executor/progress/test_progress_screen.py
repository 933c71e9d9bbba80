"""The foot of a terminal where something goes wrong, or comes in between."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from parsl_globus.executor.progress import screen
from parsl_globus.executor.progress.screen import Foot, Proxy


class Written:
    """What a program may have for a terminal; it has no descriptor."""

    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


def for_both_streams(monkeypatch: Any) -> Any:
    """Not a fixture: between setting up and the test, pytest sets the streams anew."""
    stream = Written()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


class Handler(logging.StreamHandler):  # type: ignore[type-arg]
    """Tells when it has its lock and is about to write."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self.emits = threading.Event()

    def emit(self, record: Any) -> None:
        self.emits.set()
        super().emit(record)


@pytest.fixture
def handler() -> Iterator[Handler]:
    handler, logger = Handler(None), logging.getLogger("of the screen")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def test_a_thread_may_log_while_it_ends(monkeypatch: Any, handler: Handler) -> None:
    """It has the handler's lock, and waits for the foot's; the end has the foot's, and needs the handler's."""
    terminal = for_both_streams(monkeypatch)
    handler.setStream(terminal)
    logs = threading.Thread(target=logging.getLogger("of the screen").warning, args=["logged"], daemon=True)

    class Last(str):
        """Is written while the foot is locked."""

        def __format__(self, spec: str) -> str:
            logs.start()
            assert handler.emits.wait(60)
            return "last"

    foot = Foot(terminal)
    foot.open()
    ends = threading.Thread(target=foot.close, args=[[Last()]], daemon=True)
    ends.start()
    for thread in (ends, logs):
        thread.join(60)
        assert not thread.is_alive()
    assert terminal.text == "last\nlogged\n"
    assert handler.stream is terminal


def test_lines_that_fail_end_and_the_program_writes_on(monkeypatch: Any, handler: Handler) -> None:
    terminal = for_both_streams(monkeypatch)
    handler.setStream(terminal)
    foot = Foot(terminal)
    foot.open()
    foot.show(["waiting 1"])
    print("beg", end="")  # to be drawn above the lines, of a width that such a stream can't tell
    assert terminal.text == "waiting 1\n\x1b[1A\r\x1b[Jbeg"
    print("un")
    logging.getLogger("of the screen").warning("logged")
    print("more", file=sys.stderr)
    written = "begun\nlogged\nmore\n"
    assert terminal.text == "waiting 1\n\x1b[1A\r\x1b[J" + written
    with pytest.raises(AttributeError, match="fileno"):
        foot.show(["waiting 2"])
    foot.close(["done 1"])
    assert terminal.text.endswith(written + "done 1\n")
    assert sys.stdout is sys.stderr is handler.stream is terminal


def test_a_terminal_that_fails_takes_no_output_with_it(monkeypatch: Any) -> None:
    terminal = for_both_streams(monkeypatch)
    gone = Written()
    foot = Foot(gone)  # type: ignore[arg-type]
    foot.open()
    foot.show(["waiting 1"])
    del gone.text
    print("one\ntwo", end="")
    print(" words")
    assert terminal.text == "one\ntwo words\n"
    with pytest.raises(AttributeError):
        foot.close(["done 1"])
    assert sys.stdout is sys.stderr is terminal


def test_a_handler_that_looks_its_stream_up_is_left_alone(monkeypatch: Any) -> None:
    terminal = for_both_streams(monkeypatch)
    logger = logging.getLogger("of the screen")
    assert logging.lastResort is not None
    logger.addHandler(logging.lastResort)
    try:
        foot = Foot(terminal)
        foot.open()
        logger.warning("logged")
        foot.close(["done 1"])
    finally:
        logger.removeHandler(logging.lastResort)
    assert terminal.text == "logged\ndone 1\n"


def test_streams_that_are_no_terminals_are_left_alone(monkeypatch: Any) -> None:
    terminal = for_both_streams(monkeypatch)
    stderr: Any = SimpleNamespace(write=len)
    monkeypatch.setattr(sys, "stderr", stderr)
    foot = Foot(terminal)
    foot.open()
    assert isinstance(sys.stdout, Proxy)
    assert sys.stderr is stderr
    foot.close()


def test_what_can_not_begin_leaves_nothing(monkeypatch: Any) -> None:
    terminal = for_both_streams(monkeypatch)

    def isatty() -> bool:
        raise ValueError("closed")

    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=isatty))
    with pytest.raises(ValueError, match="closed"):
        Foot(terminal).open()
    assert sys.stdout is terminal


def test_of_a_long_line_only_the_end_is_looked_at(monkeypatch: Any) -> None:
    looked_at: list[str] = []
    monkeypatch.setattr(screen, "_ESCAPES", SimpleNamespace(sub=lambda _by, text: looked_at.append(text) or text))
    assert screen._on_one_line("." * 10_000 + "the end", 10) == "..the end"
    assert [len(text) for text in looked_at] == [4096]
