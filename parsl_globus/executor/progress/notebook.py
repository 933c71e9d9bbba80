"""The view for a notebook: a table in the cell's output that is replaced."""

from __future__ import annotations

import io
from typing import Any

import IPython.display
from rich.console import Console

from parsl_globus.executor.progress.rows import Frame
from parsl_globus.executor.progress.table import table_of

#: Columns; a notebook scrolls what is wider.
WIDTH = 110
_PRE = '<pre style="white-space: pre; overflow-x: auto; line-height: normal">{code}</pre>'


class NotebookView:
    """Shows a table in the output of the cell that made this, and leaves the last one there.

    Args:
        frame: The first; the display has to be made by the thread that runs the cell.
    """

    period_s = 0.5

    def __init__(self, frame: Frame) -> None:
        self._shown = frame.rows
        display: Any = IPython.display.display
        self._display = display(_bundle(frame), raw=True, display_id=True)

    def show(self, frame: Frame) -> None:
        """Replace the table; one in which only the seconds are new is not worth a message."""
        if frame.rows != self._shown:
            self.finish(frame)

    def finish(self, frame: Frame) -> None:
        """Replace the table."""
        self._shown = frame.rows
        self._display.update(_bundle(frame), raw=True)

    def close(self) -> None:
        """Nothing is to be put back."""


def _bundle(frame: Frame) -> dict[str, str]:
    # In a kernel, a console of rich would display by itself what it is to record only.
    console = Console(file=io.StringIO(), record=True, width=WIDTH, color_system="truecolor", force_jupyter=False)
    console.print(table_of(frame, WIDTH))
    return {
        "text/html": console.export_html(inline_styles=True, code_format=_PRE, clear=False),
        "text/plain": console.export_text(),
    }
