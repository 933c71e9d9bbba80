"""What a task writes to its standard output and error: caught while it runs, so that a failure can tell the last of it.

It goes to a file of the worker process, and when the task has ended on to where the process's own output goes. When the
worker dies the file is left, with the task's id in its first line, for the agent to read. A task that writes for ever
does not fill the disk: of a file that has grown too long, only the end is kept.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import tempfile
import threading
import time
from pathlib import Path

#: So much of the end is told, and so much goes on to the process's own output.
TAIL_BYTES = 4096
PASSED_ON_BYTES = 1024 * 1024
#: So much is passed on by one worker process in its life, so that the block's own output doesn't fill the disk either.
PASSED_ON_IN_ALL_BYTES = 256 * 1024 * 1024
#: A file that is longer than this is cut down to what will be passed on. A thread looks so often, in seconds; while no
#: task runs, only each so many times, for what earlier ones have left running.
FILE_BYTES = 8 * 1024 * 1024
_LOOK_S = 1.0
_IDLE_LOOKS = 30
#: Folder of the files, beside the one of the marks.
FOLDER = "output"


class _Sink:
    """The file of this process. A task that writes nothing costs no call that a shared file system has to answer."""

    def __init__(self, mark: str | None, task_id: str) -> None:
        folder = Path(mark).parent.parent / FOLDER if mark is not None else Path(tempfile.gettempdir())
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / f"{platform.node()}-{os.getpid()}-{os.urandom(4).hex()}"
        self._own = (os.dup(1), os.dup(2))  # first: where there is nothing to catch, nothing is made
        self._head = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        # Both descriptors write at its end, wherever that is.
        self._end = os.open(path, os.O_WRONLY | os.O_APPEND)
        if mark is None:
            os.unlink(path)  # there is nobody who could read it
        self._head_bytes = len(task_id) + 1
        self._passed_on_bytes = self._left_out_bytes = 0
        self._renew_lock()
        os.register_at_fork(after_in_child=self._renew_lock)
        threading.Thread(target=self._keep_short, name="output", daemon=True).start()

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()  # for reading the file and making it shorter

    def begin(self, task_id: str) -> None:
        os.pwrite(self._head, f"{task_id}\n".encode(), 0)
        os.dup2(self._end, 1)
        os.dup2(self._end, 2)

    def end(self) -> str:
        _flush()
        os.dup2(self._own[0], 1)
        os.dup2(self._own[1], 2)
        with self._lock:
            written, _ = self._take_last()
            self._left_out_bytes = 0
        if not written:
            return ""
        try:
            self._pass_on(written)
        except OSError:
            pass  # nobody reads it any more, or the disk is full: it is no failure of the task
        return written[-TAIL_BYTES:].decode(errors="replace")

    def _take_last(self) -> tuple[bytes, int]:
        """Empty the file; returns the last of it, and how many bytes were before that."""
        size_bytes = os.fstat(self._head).st_size
        start = max(self._head_bytes, size_bytes - PASSED_ON_BYTES)
        if size_bytes <= start:
            return b"", 0
        last = os.pread(self._head, size_bytes - start, start)
        os.ftruncate(self._head, self._head_bytes)
        return last, start - self._head_bytes

    def _pass_on(self, written: bytes) -> None:
        left_bytes = PASSED_ON_IN_ALL_BYTES - self._passed_on_bytes
        if left_bytes <= 0:
            return
        self._passed_on_bytes += len(written)
        os.write(self._own[1], written)
        if self._passed_on_bytes >= PASSED_ON_IN_ALL_BYTES:
            os.write(self._own[1], b"[What later tasks of this worker write is not passed on; there was too much.]\n")

    def _keep_short(self) -> None:
        idle = 0
        while True:
            time.sleep(_LOOK_S)
            idle = 0 if _catching else idle + 1
            if idle % _IDLE_LOOKS:
                continue
            try:
                self._shorten()
            except OSError:
                continue  # the file system is away or full: no failure of the task, and the next look may do

    def _shorten(self) -> None:
        with self._lock:
            if os.fstat(self._head).st_size <= FILE_BYTES:
                return
            # What is written right now, between the two, is lost with what is left out.
            last, before_bytes = self._take_last()
            self._left_out_bytes += before_bytes
            note = f"[{self._left_out_bytes} bytes or more of the output before this were left out]\n"
            os.write(self._end, note.encode() + last)


def _c_stdout() -> ctypes.c_void_p | None:
    for name in ("stdout", "__stdoutp"):  # the second on macOS
        try:
            return ctypes.c_void_p.in_dll(ctypes.CDLL(None), name)
        except ValueError:
            continue
    return None


_flush_c = ctypes.CDLL(None).fflush
_stdout_c = _c_stdout()
_sink: _Sink | None = None
_catching = False
_excuse = ""


def begin(mark: str | None, task_id: str) -> None:
    """Catch what this process writes, if it runs one task at a time: in its main thread."""
    global _sink, _catching, _excuse
    if threading.current_thread() is not threading.main_thread():
        return
    try:
        if _sink is None:
            _sink = _Sink(mark, task_id)
        _sink.begin(task_id)
        _catching = True
    except OSError as exc:
        _excuse = f"(It was not caught: {exc})"  # no reason for the task not to run


def end() -> str:
    """Stop catching.

    Returns:
        The last of what was written, stdout and stderr together; nothing if `begin` wasn't called.
    """
    global _catching, _excuse
    if threading.current_thread() is not threading.main_thread():
        return ""
    if not _catching or _sink is None:
        excuse, _excuse = _excuse, ""
        return excuse
    _catching = False
    try:
        return _sink.end()
    except OSError as exc:
        return f"(It can't be told: {exc})"  # as at the beginning


def told(tail: str) -> str:
    """`tail` as it follows a traceback."""
    return f"\n\nThe last output of the task was:\n{tail.rstrip()}\n" if tail.strip() else ""


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError, OSError):
            continue  # the task has closed it, or put something else there
    if _stdout_c is not None:
        # What compiled code has written. Not of all its streams: that would wait for a thread that reads from one.
        _flush_c(_stdout_c)
