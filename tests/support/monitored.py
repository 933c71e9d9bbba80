"""A monitored workflow's database, as Parsl writes it."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any


def rows(database: Path, table: str, where: str = "1", *values: Any) -> list[dict[str, Any]]:
    """Rows of a table, in the order of their times."""
    order = {"task": "task_id", "try": "task_id, try_id", "workflow": "time_began"}.get(table, "timestamp")
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        found = connection.execute(f"SELECT * FROM {table} WHERE {where} ORDER BY {order}", values)
        return [dict(row) for row in found]


def states(database: Path, task_id: int) -> list[str]:
    """What became of a task, one after another."""
    return [row["task_status_name"] for row in rows(database, "status", "task_id = ?", task_id)]
