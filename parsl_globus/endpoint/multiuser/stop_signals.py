"""Signals that end the manager in order, and cut its calls to a service that doesn't answer."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class StoppedError(BaseException):
    """A signal to stop came during a call. No `Exception`: what repeats a failed call must not catch it."""


class StopSignals:
    """SIGTERM, SIGINT and SIGHUP, once `install` was called in the main thread.

    Args:
        on_stop: Called for each, in the signal handler.
    """

    def __init__(self, on_stop: Callable[[], None]) -> None:
        self._on_stop = on_stop
        self._came = False
        self._cutting = False

    def install(self) -> None:
        """Handle them from here on."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: self._handle())

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Around a call of the main thread that may take long and needs no orderly end.

        Raises:
            StoppedError: One came, now or earlier.
        """
        self._cutting = True
        try:
            if self._came:
                raise StoppedError
            yield
        finally:
            self._cutting = False

    def _handle(self) -> None:
        self._came = True
        self._on_stop()
        if self._cutting:
            self._cutting = False  # what is tidied up on the way out is not cut again
            raise StoppedError
