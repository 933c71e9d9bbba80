"""One worker process of ProcessPoolEngine, seen from the agent: start, a task and its answer, end."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from typing import Any

#: Both are told by the worker's module, which the agent names and doesn't import; a test compares them.
TASK_HEAD = struct.Struct(">IQ")
ANSWER_HEAD = struct.Struct(">cQ")
READY, RESULT, ERROR = b"+", b"r", b"e"
MODULE = "parsl_globus.worker.pool"

_END_S = 3.0


class ProcessDied(Exception):
    """The worker process has ended by itself, or was killed."""


class PoolProcess:
    """A started worker process. One thread at a time may use it; `kill` is for any thread.

    Args:
        run_task: Import path of the worker function.

    Raises:
        OSError: It can't be started.
    """

    def __init__(self, run_task: str) -> None:
        self._lock = threading.Lock()  # so that nobody signals a number that is another process's by now
        self._reaped = False
        self._link, theirs = socket.socketpair()
        try:
            with theirs:
                # A session of its own: Ctrl-C is the agent's, and what its tasks start can be ended along with it.
                self._process = subprocess.Popen(
                    [sys.executable, "-m", MODULE, str(theirs.fileno()), run_task],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
        except BaseException:
            self._link.close()
            raise
        try:
            self._ended = os.pidfd_open(self._process.pid)
        except OSError:
            self._link.close()
            self.kill()
            self._process.wait()
            raise
        # A process that a task forked may keep the socket open after the worker's death, hence both.
        self._poller = select.poll()
        self._poller.register(self._link, select.POLLIN)
        self._poller.register(self._ended, select.POLLIN)

    def wait_ready(self) -> None:
        """Wait until it has imported what it needs.

        Raises:
            ProcessDied: It ended before.
        """
        self._answer()

    def run(self, body: bytes, arguments: tuple[tuple[str, str], dict[str, Any]]) -> tuple[bytes, bytes]:
        """Have it run a task.

        Returns:
            `RESULT` or `ERROR`, and its bytes.

        Raises:
            ProcessDied: It ended before it answered.
        """
        text = json.dumps({"a": arguments[0], "k": arguments[1]}).encode()
        try:
            self._link.sendall(TASK_HEAD.pack(len(text), len(body)) + text)
            self._link.sendall(body)
        except OSError as exc:
            raise self._death() from exc
        return self._answer()

    def kill(self) -> None:
        """End it and what its tasks started in its session."""
        with self._lock:
            if not self._reaped:
                os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """End it, and forget it: not before its own thread is done with it."""
        self._link.close()
        self._reap()
        os.close(self._ended)

    def _reap(self) -> int:
        self.kill()
        ended = select.poll()
        ended.register(self._ended, select.POLLIN)
        if not ended.poll(_END_S * 1000):
            return -signal.SIGKILL  # it hangs in the kernel, for example on a file system that is gone
        with self._lock:
            code = self._process.wait()  # at once; from here on its number may be another's
            self._reaped = True
        return code

    def _answer(self) -> tuple[bytes, bytes]:
        kind, size_bytes = ANSWER_HEAD.unpack(self._receive(ANSWER_HEAD.size))
        return kind, self._receive(size_bytes)

    def _receive(self, size_bytes: int) -> bytes:
        received = bytearray(size_bytes)
        view = memoryview(received)
        while view:
            ready = {descriptor for descriptor, _ in self._poller.poll()}
            if self._link.fileno() not in ready:
                raise self._death()
            try:
                count = self._link.recv_into(view)
            except OSError as exc:
                raise self._death() from exc
            if count == 0:
                raise self._death()
            view = view[count:]
        return bytes(received)

    def _death(self) -> ProcessDied:
        code = self._reap()
        # Not every number has a name: real-time signals haven't.
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        how = f"was ended by {name}" if code < 0 else f"ended with exit code {code}"
        return ProcessDied(f"The worker process {self._process.pid} {how}")
