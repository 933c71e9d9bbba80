"""Which view there is, and the thread that keeps it up to date.

The parts: `tally` counts tasks, `asking` knows what runs them, `rows` makes a frame of both, and one of `terminal`
(with `screen`), `notebook` and `plain` shows it. The first two use rich, by way of `table`, and load it only then.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TextIO

import parsl

from parsl_globus.executor.progress.asking import Asking
from parsl_globus.executor.progress.plain import PlainView
from parsl_globus.executor.progress.rows import Frame, Frames
from parsl_globus.executor.progress.tally import INTERNAL, LOOK_INTERVAL_S, Tally

logger = logging.getLogger(__name__)

#: A frame takes longer the more tasks there are, and no more than this share of the time may go into frames.
_LARGEST_SHARE = 0.05


class View(Protocol):
    """Shows frames.

    Attributes:
        period_s: How long a frame should stand, in seconds.
    """

    period_s: float

    def show(self, frame: Frame) -> None:
        """Show this one."""

    def finish(self, frame: Frame) -> None:
        """Leave this one, which is the last."""

    def close(self) -> None:
        """Put back what was changed, after `finish` or after a failure."""


@contextmanager
def progress(interval_s: float | None = None, dfk: Any = None, stream: TextIO | None = None) -> Iterator[Tally]:
    """Shows what goes on in the workflow while the body runs, and what has come of it after it.

    In a notebook and in a terminal this is a table that changes in place, elsewhere a line of text whenever something
    has changed. It has a row for each executor of the workflow, Parsl's own ones included, and for each join_app.
    Whatever is wrong with the view, the workflow goes on without it.

    Args:
        interval_s: How long a frame stands at least, in seconds; by default 0.25 in a terminal, 0.5 in a notebook, and
            1 for lines.
        dfk: The DataFlowKernel to watch; by default the one that `parsl.load` made.
        stream: Where to show it; by default the notebook's cell, otherwise standard error.

    Yields:
        The tally behind it, which counts as long as it is shown.
    """
    tally = Tally(dfk if dfk is not None else parsl.dfk())
    keeper = _Keeper(tally, interval_s, stream)
    try:
        yield tally
    finally:
        keeper.stop()


class _Keeper:
    """Looks for tasks and shows frames, in a thread of its own."""

    def __init__(self, tally: Tally, interval_s: float | None, stream: TextIO | None) -> None:
        self._tally = tally
        labels = tally.dfk.executors.items()
        self._asking = Asking({label: executor for label, executor in labels if label != INTERNAL})
        self._frames = Frames(tally, self._asking)
        self._view: View | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        with self._harmless():
            self._asking.start()
            self._view = view = _view_for(stream, self._frames)
            arguments = (view, interval_s or view.period_s)
            thread = threading.Thread(target=self._run, args=arguments, name="parsl-globus-progress", daemon=True)
            thread.start()
            self._thread = thread

    def stop(self) -> None:
        """Show the last frame and end; a second Ctrl-C does not keep the terminal from being put back."""
        self._stopping.set()
        interrupt: KeyboardInterrupt | None = None
        while self._thread is not None and self._thread.is_alive():
            try:
                self._thread.join()
            except KeyboardInterrupt as exc:
                interrupt = exc
        if interrupt is not None:
            raise interrupt

    def _run(self, view: View, period_s: float) -> None:
        with self._harmless():
            due_s = time.monotonic()
            while not self._stopping.wait(min(LOOK_INTERVAL_S, period_s)):
                self._tally.look()
                now_s = time.monotonic()
                if now_s >= due_s:
                    view.show(self._frames.now())
                    took_s = time.monotonic() - now_s
                    due_s = now_s + max(period_s, took_s / _LARGEST_SHARE)
            self._asking.stop()
            self._tally.look()
            self._tally.look()  # a second time for what was in doubt
            view.finish(self._frames.now(last=True))
            view.close()

    @contextmanager
    def _harmless(self) -> Iterator[None]:
        """The workflow goes on without a view that fails; what is wrong with it is in the log."""
        try:
            yield
        except Exception as exc:  # noqa: BLE001 - its stream may be closed, its terminal gone, or Parsl not as it was
            if self._view is not None:
                with contextlib.suppress(Exception):  # what failed may fail again here
                    self._view.close()
            self._asking.stop()
            logger.warning("The progress is not shown any more: %s: %s", type(exc).__name__, exc)


def _view_for(stream: TextIO | None, frames: Frames) -> View:
    target = stream if stream is not None else sys.stderr
    try:
        if stream is None and _in_notebook():
            from parsl_globus.executor.progress.notebook import NotebookView

            return NotebookView(frames.now())
        if _changes_in_place(target):
            from parsl_globus.executor.progress.screen import Proxy
            from parsl_globus.executor.progress.terminal import TerminalView

            if not isinstance(target, Proxy):  # there is a view already: the lines of this one go above it
                return TerminalView(target)
    except ImportError as exc:
        logger.info("The progress is shown as lines of text: %s", exc)
    return PlainView(target)


def _changes_in_place(stream: TextIO) -> bool:
    is_terminal = getattr(stream, "isatty", bool)
    return is_terminal() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


def _in_notebook() -> bool:
    """Whether this is a kernel of IPython's: its loaded shell has one."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None
