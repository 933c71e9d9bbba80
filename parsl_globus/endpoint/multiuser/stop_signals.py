"""Signals that end the manager in order, and cut its calls to a service that doesn't answer."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: A call that goes on although it was cut is cut again after so long, in seconds: what a signal raises is lost when it
#: comes while an object is being deleted, as connections are when they break.
AGAIN_S = 0.5


class StoppedError(BaseException):
    """A signal to stop came during a call. No `Exception`: what repeats a failed call must not catch it."""


class StopSignals:
    """SIGTERM, SIGINT and SIGHUP, once `install` was called in the main thread; SIGALRM is used for its own ends.

    Args:
        on_stop: Called for each, in the signal handler.
    """

    def __init__(self, on_stop: Callable[[], None]) -> None:
        self._on_stop = on_stop
        self._came = False
        self._inside = False
        self._cutting = False

    def install(self) -> None:
        """Handle them from here on."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: self._handle())
        signal.signal(signal.SIGALRM, lambda *_: self._cut_again())

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Around a call of the main thread that may take long and needs no orderly end.

        Raises:
            StoppedError: One came, now or earlier.
        """
        self._inside = self._cutting = True
        try:
            if self._came:
                raise StoppedError
            yield
        finally:
            self._inside = self._cutting = False
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _handle(self) -> None:
        self._came = True
        self._on_stop()
        if self._cutting:
            self._cutting = False  # what is tidied up on the way out is not cut again, at least not at once
            signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
            raise StoppedError

    def _cut_again(self) -> None:
        if self._inside:
            signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
            raise StoppedError
