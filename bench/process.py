"""A program that is measured: it answers with a line of JSON, in time or not at all."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

#: In the environment of a program and of all that it starts.
MARK = "BENCH_PROGRAM"


class ContenderFailedError(Exception):
    """A contender ended or did not answer; the others go on."""


class Program:
    """A running program; it gets a session of its own, so that Ctrl-C meets the caller alone, which ends it.

    Args:
        command: Its command line.
        env: Its environment.
        folder: Where it runs.
        log: What it prints on stderr is added to this.
        kind: Which contender it is.
        mark: Its own word, unlike those of all others.

    Attributes:
        began_s: When it was started, by the monotonic clock.
    """

    def __init__(
        self, command: list[str], env: Mapping[str, str], folder: Path, log: Path, *, kind: str, mark: str
    ) -> None:
        self._log = log
        self._log_from = log.stat().st_size if log.exists() else 0
        self._read = b""
        self.kind = kind
        self.mark = mark
        self.began_s = time.monotonic()
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                command,
                env={**env, MARK: mark},
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def ask(self, limit_s: float, **request: Any) -> dict[str, Any]:
        """Send a line; what was answered.

        Raises:
            ContenderFailedError: It ended, or took too long.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ContenderFailedError(f"it ended: {self._last_words()}") from None
        return self.answer(limit_s)

    def answer(self, limit_s: float) -> dict[str, Any]:
        """The next line that it prints.

        Raises:
            ContenderFailedError: It ended, or took too long.
        """
        assert self._process.stdout is not None
        until_s = time.monotonic() + limit_s
        while b"\n" not in self._read:
            if not select.select([self._process.stdout], [], [], max(0.0, until_s - time.monotonic()))[0]:
                raise ContenderFailedError(f"it did not answer within {limit_s:.0f} s")
            part = os.read(self._process.stdout.fileno(), 1 << 20)
            if not part:
                raise ContenderFailedError(f"it ended: {self._last_words()}")
            self._read += part
        line, _, self._read = self._read.partition(b"\n")
        return dict(json.loads(line))

    def _last_words(self) -> str:
        with self._log.open("rb") as stream:
            stream.seek(self._log_from)
            lines = [line.strip() for line in stream.read().decode(errors="replace").splitlines() if line.strip()]
        return lines[-1][:300] if lines else "it said nothing"

    def close(self, limit_s: float = 30.0) -> None:
        """End it in order, or surely, with all that it started."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                pass  # it has ended, and takes no more
        try:
            self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            pass
        finally:  # also when the wait is interrupted
            left = marked(self.mark)
            for process in left:
                try:
                    process.kill()
                except psutil.Error:
                    continue
            psutil.wait_procs(left, timeout=10)
            self._process.wait()


def marked(mark: str) -> list[psutil.Process]:
    """What a program has started, itself included; what HTEX starts is nobody's child."""
    return [process for process in psutil.process_iter() if variable(process, MARK) == mark]


def variable(process: psutil.Process, name: str) -> str | None:
    """A variable of a process's environment, if it has one and can be looked at."""
    try:
        return process.environ().get(name)
    except (psutil.Error, OSError):
        return None  # it ended, or is another user's
