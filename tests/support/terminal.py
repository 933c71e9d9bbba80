"""A program at a pseudo-terminal of any size, and what a person would see there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO

from typing_extensions import Self

#: A demo starts a service and two endpoints meanwhile, and the machine may be busy with other things.
DEADLINE_S = 240
_PIECES = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n]+)")


class Screen:
    """A pseudo-terminal, and what a person would see there.

    Args:
        columns: Its width.
        rows: Its height.

    Attributes:
        raw: All that was written, as it was written.
        slave: The descriptor that a program has of it.
    """

    def __init__(self, *, columns: int = 100, rows: int = 24) -> None:
        self.columns, self.rows = columns, rows
        self.raw = ""
        self._undecoded = b""
        self._master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        os.close(self._master)
        with contextlib.suppress(OSError):  # it may have been given away
            os.close(self.slave)

    def type(self, keys: bytes) -> None:
        """As by a person."""
        os.write(self._master, keys)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Read until there is what `condition` asks for."""
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, self.shown()
            assert self._read(1.0), f"it ended without it:\n{self.shown()}"

    def read_rest(self) -> None:
        """Read what has been written."""
        while select.select([self._master], [], [], 0)[0] and self._read(0):
            pass

    def _read(self, timeout_s: float) -> bool:
        """False at the end."""
        if not select.select([self._master], [], [], timeout_s)[0]:
            return True
        try:
            part = os.read(self._master, 65536)
        except OSError as exc:
            if exc.errno != errno.EIO:  # this is how Linux tells that nobody has the terminal open any more
                raise
            return False
        whole = self._undecoded + part
        text = whole.decode(errors="ignore")
        self._undecoded = whole[len(text.encode()) :]
        self.raw += text
        return bool(part)

    def lines(self, until: int | None = None) -> list[str]:
        """What a person sees, what has scrolled out at the top included.

        Args:
            until: Only from so much of `raw`.
        """
        lines = [""]
        row = column = 0
        for numbers, command, to_start, newline, text in _PIECES.findall(self.raw[:until]):
            if to_start:
                column = 0
            elif newline:
                row += 1
                lines += [""] * (row + 1 - len(lines))
            elif command == "A":
                row = max(row - int(numbers or 1), len(lines) - self.rows, 0)
            elif command == "J":
                lines[row] = lines[row][:column]
                del lines[row + 1 :]
            elif command:
                assert command == "m", f"an unexpected control sequence {command!r}"
            for character in text:
                if column == self.columns:
                    row, column = row + 1, 0
                    lines += [""] * (row + 1 - len(lines))
                lines[row] = lines[row][:column].ljust(column) + character + lines[row][column + 1 :]
                column += 1
        return [line.rstrip() for line in lines]

    def shown(self) -> str:
        """The same as one text."""
        return "\n".join(self.lines())


class Terminal(Screen):
    """Runs a program with its three streams at a new terminal.

    Args:
        command: What to run.
        env: Its environment.
        columns: Width of the terminal.
        rows: Height of the terminal.
        stdout: Where its standard output goes instead.

    Attributes:
        process: The program.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        columns: int = 100,
        rows: int = 24,
        stdout: IO[bytes] | None = None,
    ) -> None:
        super().__init__(columns=columns, rows=rows)
        self.process = subprocess.Popen(
            command,
            stdin=self.slave,
            stdout=self.slave if stdout is None else stdout,
            stderr=self.slave,
            env={**env, "TERM": "xterm-256color"},
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            start_new_session=True,
        )
        os.close(self.slave)  # so that the program's end is the terminal's

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)

    def end(self) -> int:
        """Read all that comes, and give the exit code."""
        deadline = time.monotonic() + DEADLINE_S
        while self._read(1.0):
            assert time.monotonic() < deadline, self.shown()
        return self.process.wait(DEADLINE_S)
