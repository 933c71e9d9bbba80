"""Commands that start a process in the background and return when it is ready, and end it again."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

#: A process that is told to stop has this long, in seconds, before it is killed.
STOP_TIMEOUT_S = 30.0


def teller(descriptor: int | None) -> Callable[[dict[str, Any]], None]:
    """A function that tells whoever started this process how the start went; it can be called once."""
    if descriptor is None:
        return lambda _news: None
    os.set_inheritable(descriptor, False)  # what this process starts must not hold it open
    stream = os.fdopen(descriptor, "w")

    def tell(news: dict[str, Any]) -> None:
        if not stream.closed:
            try:
                json.dump(news, stream)
                stream.close()
            except OSError:
                pass  # whoever started this has not waited

    return tell


def start_process(
    arguments: Sequence[str], log: Path, timeout_s: float, end: Callable[[subprocess.Popen[bytes]], None]
) -> tuple[subprocess.Popen[bytes], dict[str, Any] | None]:
    """Start `parsl-globus ARGUMENTS --ready-fd N` in a session of its own, and wait for what it tells.

    Args:
        arguments: The command; it has the option `--ready-fd`.
        log: Where its output goes.
        timeout_s: How long it may take.
        end: Ends it when the wait is interrupted.

    Returns:
        The process, and what it told; `None` when it has ended, or taken too long, without a word.
    """
    reader, writer = os.pipe()
    with os.fdopen(reader) as news, _private(log) as output:
        command = [sys.executable, "-m", "parsl_globus.cli", "-v", *arguments, "--ready-fd", str(writer)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(writer,),
            start_new_session=True,
        )
        os.close(writer)
        try:
            told = _wait_told(news.fileno(), timeout_s)
        except BaseException:  # Ctrl-C: what was asked for is not wanted any more
            end(process)
            raise
    return process, told


def _private(log: Path) -> Any:
    return os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab")


def _wait_told(descriptor: int, timeout_s: float) -> dict[str, Any] | None:
    deadline = time.monotonic() + timeout_s
    text = b""
    while True:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN | select.POLLHUP)
        if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return None
        part = os.read(descriptor, 65536)
        text += part
        if not part:
            break
    try:
        told = json.loads(text)
    except ValueError:
        return None
    return told if isinstance(told, dict) else None


def leave_running(process: subprocess.Popen[bytes]) -> None:
    """The process lives on after this one; Python would warn of one that nobody waited for."""
    process.returncode = 0


def end_process(process: subprocess.Popen[bytes]) -> None:
    """End a process that this one has started: in order, or after `STOP_TIMEOUT_S` by force."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def why_silent(log: Path, code: int, timeout_s: float, ready: str) -> str:
    """Why a process that was started has told nothing.

    Args:
        log: Its log.
        code: Its exit code.
        timeout_s: How long it had.
        ready: What it should have become.
    """
    lines = log.read_text(errors="replace").strip().splitlines()
    last = lines[-1] if lines else "it said nothing"
    if code in (0, -signal.SIGTERM):
        return f"it was not {ready} within {timeout_s:.0f} s. The last line of {log} is: {last}"
    return f"its process ended with exit code {code}. The last line of {log} is: {last}"


def stop_process(pid: int) -> bool:
    """End a process that another one has started: in order, or after `STOP_TIMEOUT_S` by force.

    Returns:
        Whether it ended in order.
    """
    if not hasattr(os, "pidfd_open"):  # not Linux
        return _stop_polling(pid)
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        for number, timeout_s in ((signal.SIGTERM, STOP_TIMEOUT_S), (signal.SIGKILL, 5.0)):
            try:
                signal.pidfd_send_signal(descriptor, number)
            except ProcessLookupError:
                return number == signal.SIGTERM
            if select.select([descriptor], [], [], timeout_s)[0]:
                return number == signal.SIGTERM
    finally:
        os.close(descriptor)
    return False


def _stop_polling(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return True
    return False
