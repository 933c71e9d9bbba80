"""Tasks that leave a file each, so that a test sees which have begun and whether any ran twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

DEADLINE_S = 90.0


def _double_once():
    """The task; made in here, since no worker could import this module."""

    def double_once(number, folder, gate=None, takes_s=0.0):
        """Twice the number, once the file `gate` is there; tells in `folder` that it ran, and if it ran before."""
        import os
        import time

        try:
            os.close(os.open(f"{folder}/{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            os.close(os.open(f"{folder}/again-{number}-{os.getpid()}", os.O_CREAT | os.O_WRONLY, 0o600))
        while gate is not None and not os.path.exists(gate):
            time.sleep(0.02)
        time.sleep(takes_s)
        return 2 * number

    return double_once


class Work:
    """Submits such tasks to an executor, and knows what became of them.

    Attributes:
        futures: By number.
    """

    def __init__(self, executor: Any, folder: Path) -> None:
        self._executor = executor
        self._folder = folder / "ran"
        self._folder.mkdir()
        self._gate = folder / "gate"
        self._task = _double_once()
        self.futures: dict[int, Future[Any]] = {}

    def submit(self, count: int, *, held: bool = False, takes_s: float = 0.0) -> list[int]:
        """Submit so many that take so long; when `held`, each occupies its worker until `open_gate`.

        Returns:
            Their numbers.
        """
        numbers = list(range(len(self.futures), len(self.futures) + count))
        gate = str(self._gate) if held else None
        for number in numbers:
            self.futures[number] = self._executor.submit(self._task, {}, number, str(self._folder), gate, takes_s)
        return numbers

    def open_gate(self) -> None:
        self._gate.touch()

    def done(self) -> int:
        return sum(1 for future in self.futures.values() if future.done())

    def begun(self) -> set[int]:
        return {int(path.name) for path in self._folder.iterdir() if path.name.isdigit()}

    def again(self) -> list[str]:
        """Marks of tasks that ran more than once."""
        return [path.name for path in self._folder.glob("again-*")]

    def wait_begun(self, numbers: Iterable[int]) -> None:
        wanted = set(numbers)
        wait_until(lambda: wanted <= self.begun(), f"tasks {min(wanted)} to {max(wanted)} did not begin")

    def wait_done(self, count: int) -> None:
        wait_until(lambda: self.done() >= count, f"{count} tasks did not end")

    def outcome(self, timeout_s: float = DEADLINE_S) -> dict[int, BaseException]:
        """Wait for all; the errors by number. Every value must be right, and no task have run twice."""
        deadline = time.monotonic() + timeout_s
        errors = {}
        for number, future in self.futures.items():
            error = future.exception(max(0.0, deadline - time.monotonic()))
            if error is not None:
                errors[number] = error
            else:
                assert future.result() == 2 * number
                assert (self._folder / str(number)).exists()
        assert self.again() == []
        return errors


def wait_until(condition: Callable[[], bool], complaint: str, timeout_s: float = DEADLINE_S) -> None:
    """Wait until `condition` holds; for what other processes do and nothing announces."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, complaint
        pause.wait(0.02)
