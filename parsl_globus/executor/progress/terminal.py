"""The view for a terminal: a table that changes in place."""

from __future__ import annotations

import os
import shutil
from typing import TextIO

from rich.console import Console

from parsl_globus.executor.progress.rows import Frame
from parsl_globus.executor.progress.screen import Foot
from parsl_globus.executor.progress.table import table_of


class TerminalView:
    """Shows a table below what the program prints, and leaves the last one.

    The cursor stays visible: a workflow may be killed, and nobody would bring it back.

    Args:
        stream: The terminal.
    """

    period_s = 0.25

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._console = Console(file=stream, force_terminal=True, highlight=False)
        self._foot = Foot(stream)
        self._foot.open()

    def show(self, frame: Frame) -> None:
        """Show the table in place of the last one, as much of it as the terminal is high."""
        columns, rows = self._size()
        lines = self._lines(frame, columns)
        most = max(1, rows - 2)  # one is for a line that the program has begun
        self._foot.show(lines if len(lines) <= most else [*lines[: most - 1], self._more(len(frame.rows) - most + 2)])

    def finish(self, frame: Frame) -> None:
        """Leave the whole table."""
        self._foot.close(self._lines(frame, self._size()[0]))

    def close(self) -> None:
        """Put the terminal and the streams back, whatever has happened."""
        self._foot.close()

    def _lines(self, frame: Frame, columns: int) -> list[str]:
        # In the last column some terminals go to the next line.
        width = max(2, columns - 1)
        self._console.width = width
        ascii_only = not self._console.encoding.lower().startswith("utf")
        with self._console.capture() as captured:
            self._console.print(table_of(frame, width, ascii_only=ascii_only))
        return captured.get().splitlines()

    def _more(self, number: int) -> str:
        return f"... {number} more"

    def _size(self) -> tuple[int, int]:
        try:
            size = os.get_terminal_size(self._stream.fileno())
        except OSError:
            size = os.terminal_size((0, 0))
        fallback = shutil.get_terminal_size() if not (size.columns and size.lines) else size
        return size.columns or fallback.columns, size.lines or fallback.lines
