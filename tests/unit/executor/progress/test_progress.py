"""The progress view over a real DataFlowKernel."""

from __future__ import annotations

import io
import re
import threading
from typing import Any

import parsl
import pytest
from parsl import Config, join_app, python_app
from parsl.executors import ThreadPoolExecutor

from parsl_globus import progress
from parsl_globus.executor.progress import view


@pytest.fixture(params=[True, False], ids=["forgets", "keeps"])
def dfk(request: Any, tmp_path: Any) -> Any:
    """With Parsl's default, which forgets ended tasks, and with one that keeps them."""
    config = Config(
        executors=[ThreadPoolExecutor(label=label, max_threads=1) for label in ("near", "far")],
        run_dir=str(tmp_path),
        strategy="none",
        initialize_logging=False,
        garbage_collect=request.param,
    )
    with parsl.load(config) as kernel:
        yield kernel


@python_app(executors=["near"])
def hold(event: Any) -> None:
    event.wait(30)


@python_app(executors=["far"])
def after(_before: Any) -> Any:
    return 1


@python_app(executors=["far"])
def fail(_before: Any) -> None:
    raise LookupError


@join_app
def joined(event: Any) -> Any:
    return hold(event)


class Lines(io.StringIO):
    """A stream that tells when a line says something."""

    def __init__(self) -> None:
        super().__init__()
        self._said = threading.Condition()

    def write(self, text: Any) -> Any:
        with self._said:
            written = super().write(text)
            self._said.notify_all()
            return written

    def wait(self, condition: Any) -> None:
        with self._said:
            assert self._said.wait_for(condition, timeout=60), self.getvalue()

    def wait_for(self, text: Any) -> None:
        self.wait(lambda: text in self.getvalue())


def test_every_state_is_told_by_executor(dfk: Any) -> None:
    event, stream = threading.Event(), Lines()
    with progress(interval_s=0.05, stream=stream):
        held = hold(event)
        futures = [after(held), after(held), fail(held)]
        stream.wait_for(
            "near: 0 waiting, 1 running, 0 done, 0 failed; 1 thread | "
            "far: 3 waiting, 0 running, 0 done, 0 failed; 1 thread\n"
        )
        event.set()
        for future in futures:
            future.exception()
    last = stream.getvalue().splitlines()[-1]
    numbers = (
        r"near: 0 waiting, 0 running, 1 done, 0 failed, \S+/s; 1 thread \| far: 0 waiting, 0 running, 2 done, 1 failed"
    )
    assert re.match(rf" +\d+ s  {numbers}", last)


def test_a_join_app_has_its_own_name(dfk: Any) -> None:
    event, stream = threading.Event(), Lines()
    with progress(interval_s=0.05, stream=stream, dfk=dfk):
        future = joined(event)
        stream.wait_for("near: 0 waiting, 1 running, 0 done, 0 failed")
        stream.wait_for("joined: 0 waiting, 1 running, 0 done, 0 failed")
        event.set()
        future.result()
    assert "joined: 0 waiting, 0 running, 1 done, 0 failed" in stream.getvalue().splitlines()[-1]


def test_thread_ends_and_error_of_the_body_passes(dfk: Any) -> None:
    with pytest.raises(LookupError):
        with progress(stream=io.StringIO()):
            raise LookupError
    assert "parsl-globus-progress" not in {thread.name for thread in threading.enumerate()}


def test_a_closed_stream_ends_the_view_only(dfk: Any, caplog: Any) -> None:
    stream = io.StringIO()
    with progress(interval_s=0.01, stream=stream):
        stream.close()
        assert after(None).result() == 1
    assert "The progress is not shown any more: ValueError" in caplog.text


@pytest.mark.parametrize("part", ["look", "counts"])
def test_a_view_that_fails_harms_nothing(dfk: Any, caplog: Any, monkeypatch: Any, part: Any) -> None:
    """As when Parsl's tables are not what they were any more."""

    def broken(_self: Any) -> None:
        raise KeyError("status")

    monkeypatch.setattr(view.Tally, part, broken)
    with progress(interval_s=0.01, stream=io.StringIO()):
        assert after(None).result() == 1
    assert "The progress is not shown any more: KeyError: 'status'" in caplog.text


def test_a_line_comes_only_when_something_has_changed(dfk: Any) -> None:
    event, stream = threading.Event(), Lines()
    frames = 0

    class Counted(view.PlainView):
        def show(self, frame: Any) -> None:
            nonlocal frames
            super().show(frame)
            frames += 1
            stream.write("")  # wakes who waits

    plain, view.PlainView = view.PlainView, Counted  # type: ignore[misc]
    try:
        with progress(interval_s=0.01, stream=stream):
            held = hold(event)
            stream.wait_for("1 running")
            stream.wait(lambda: frames > 10)
            event.set()
            held.result()
    finally:
        view.PlainView = plain  # type: ignore[misc]
    assert len(stream.getvalue().splitlines()) <= 4  # none, one running, one done, the last
