"""The progress view over a real DataFlowKernel."""

from __future__ import annotations

import io
import re
import sys
import threading
from typing import Any

import parsl
import pytest
from parsl import Config, join_app, python_app
from parsl.executors import ThreadPoolExecutor

from parsl_globus import progress
from parsl_globus.executor.endpoint_status import EndpointStatus
from parsl_globus.executor.progress import asking, view
from parsl_globus.executor.progress.asking import Answer


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


class InMemoryTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def wait_for_end(name: str) -> None:
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(60)
            assert not thread.is_alive()


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
        wait_for_end("parsl-globus-progress")  # it does not fail again and again
        assert after(None).result() == 1
    warnings = [record.getMessage() for record in caplog.records if record.name == view.__name__]
    assert warnings == ["The progress is not shown any more: KeyError: 'status'"]


@pytest.mark.parametrize("lacking", ["second-progress-asks", "parsl-globus-progress"])
def test_a_workflow_goes_on_where_no_thread_can_be_started(
    dfk: Any, caplog: Any, monkeypatch: Any, lacking: Any
) -> None:
    real = threading.Thread.start

    def start(self: Any) -> None:
        if self.name == lacking:
            raise RuntimeError("can't start new thread")
        real(self)

    monkeypatch.setattr(threading.Thread, "start", start)
    monkeypatch.setattr(asking, "_to_be_asked", lambda _executors: [("first", Answer), ("second", Answer)])
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, InMemoryTerminal())
    monkeypatch.setenv("TERM", "xterm")
    before = sys.stdout, sys.stderr
    with progress():
        assert (sys.stdout, sys.stderr) == before
        assert after(None).result() == 1
    assert "The progress is not shown any more: RuntimeError: can't start new thread" in caplog.text
    wait_for_end("first-progress-asks")


def test_who_gives_no_answer_is_asked_ever_more_rarely() -> None:
    unknown = Answer(endpoint=EndpointStatus("unknown"))
    periods = [asking.PERIOD_S]
    for _ask in range(5):
        periods.append(asking._next_period_s(unknown, periods[-1]))
    assert periods == [1, 2, 4, 8, 15, 15]
    assert asking._next_period_s(Answer(endpoint=EndpointStatus("online")), 1.0) == asking.HOSTED_PERIOD_S
    assert asking._next_period_s(Answer(3, EndpointStatus("online")), 15.0) == asking.PERIOD_S


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
