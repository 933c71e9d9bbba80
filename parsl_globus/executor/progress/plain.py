"""The view for logs, pipes and terminals that can only write on: a line when something has changed."""

from __future__ import annotations

from typing import TextIO

from parsl_globus.executor.progress.rows import Frame, Row, rate_text


class PlainView:
    """Writes lines.

    Args:
        stream: Where to.
    """

    period_s = 1.0

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown: tuple[Row, ...] | None = None

    def show(self, frame: Frame) -> None:
        """A line, unless it would say what the last one said."""
        if frame.rows != self._shown:
            self._write(frame)

    def finish(self, frame: Frame) -> None:
        """The last line."""
        self._write(frame)

    def close(self) -> None:
        """Nothing is to be put back."""

    def _write(self, frame: Frame) -> None:
        self._shown = frame.rows
        self._stream.write(line(frame) + "\n")
        self._stream.flush()


def line(frame: Frame) -> str:
    """One line, as `  12 s  perlmutter: 0 waiting, 1 running, 41 done, 0 failed, 3.4/s; online, 1 block | ...`."""
    return f"{frame.elapsed_s:4.0f} s  " + " | ".join(_row(row) for row in frame.rows)


def _row(row: Row) -> str:
    at_most = "" if row.exact else "<="
    text = f"{row.label}: {row.waiting} waiting, {at_most}{row.running} running, {row.done} done, {row.failed} failed"
    rate, state = rate_text(row.rate), str(row.endpoint or "")
    return text + (f", {rate}/s" if rate else "") + (f"; {state}" if state else "")
