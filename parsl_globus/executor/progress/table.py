"""The rows as a table of rich, for a terminal of any width and for a notebook."""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size
from rich.table import Table
from rich.text import Text

from parsl_globus.executor.progress.rows import Frame, Row, rate_text

#: From so many columns on there are whole words and whole states, and from so many on there is a rate and a state.
WIDE = 76
MEDIUM = 48
_LONGEST_LABEL = 28
_SHORTEST_LABEL = 5
_SHORTEST_STATE = 7  # offline
_GAP = 2


def table_of(frame: Frame, width: int, *, ascii_only: bool = False) -> Table:
    """The table, no wider than `width`: names and states are cut, numbers are whole or left out.

    Args:
        frame: What to show.
        width: In columns of the terminal.
        ascii_only: Whether the terminal can't show more.
    """
    columns = _number_columns(frame, width, ascii_only)
    left = width - sum(_width(column) + _GAP for column in columns)
    while left < _SHORTEST_LABEL and len(columns) > 1:
        left += _width(columns.pop(0)) + _GAP
    states = [_state(row, wide=width >= WIDE) for row in frame.rows] if width >= MEDIUM else []
    state_width = max(map(cell_len, states), default=0)
    elapsed = f"{frame.elapsed_s:.0f} s"
    label_width = min(_LONGEST_LABEL, max(cell_len(text) for text in (elapsed, *(row.label for row in frame.rows))))
    if state_width:
        label_width = min(label_width, max(_SHORTEST_LABEL, left - _GAP - max(_SHORTEST_STATE, left // 2)))
        state_width = min(state_width, left - label_width - _GAP)
    label_width = max(1, min(label_width, left))

    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="dim")
    table.add_column(elapsed, no_wrap=True, width=label_width)
    for head, *_ in columns:
        table.add_column(head.plain, justify="right", no_wrap=True)
    if state_width >= _SHORTEST_STATE:
        table.add_column("endpoint" if state_width >= 8 else "state", no_wrap=True, width=state_width)
    for number, row in enumerate(frame.rows):
        shown = [Text(_cut(row.label, label_width, ascii_only), style="bold")]
        shown += [column[number + 1] for column in columns]
        if state_width >= _SHORTEST_STATE:
            shown.append(Text(_cut(states[number], state_width, ascii_only), style=_state_style(row)))
        table.add_row(*shown)
    return table


def _number_columns(frame: Frame, width: int, ascii_only: bool) -> list[list[Text]]:
    """Each with its head, from the one that can be missed most easily on."""
    rows = frame.rows
    at_most = "<=" if ascii_only else "≤"
    wide = width >= WIDE
    columns = [
        [Text("waiting" if wide else "wait"), *(Text(str(row.waiting), "" if row.waiting else "dim") for row in rows)],
        [
            Text("running" if wide else "run"),
            *(Text(f"{'' if row.exact else at_most}{row.running}", "cyan" if row.running else "dim") for row in rows),
        ],
        [Text("done"), *(Text(str(row.done), "green" if row.done else "dim") for row in rows)],
        [
            Text("failed" if wide else "fail"),
            *(Text(str(row.failed), "bold red" if row.failed else "dim") for row in rows),
        ],
    ]
    if width >= MEDIUM:
        columns.append([Text("rate"), *(Text(f"{rate}/s" if (rate := rate_text(row.rate)) else "") for row in rows)])
    return columns


def _width(column: list[Text]) -> int:
    return max(text.cell_len for text in column)


def _state(row: Row, *, wide: bool) -> str:
    if row.endpoint is None:
        return ""
    return str(row.endpoint) if wide else row.endpoint.word or str(row.endpoint).partition(",")[0]


def _cut(text: str, width: int, ascii_only: bool) -> str:
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1).rstrip() + ("." if ascii_only else "…")


def _state_style(row: Row) -> str:
    word = row.endpoint.word if row.endpoint is not None else ""
    return {"offline": "red", "broken": "red", "unknown": "yellow", "starting": "yellow"}.get(word, "")
