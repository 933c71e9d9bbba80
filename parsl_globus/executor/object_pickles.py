"""Values as pickles in files: what is large is neither written nor read as a whole in memory."""

from __future__ import annotations

import io
import pickle
import sys
import tempfile
import threading
from types import TracebackType
from typing import Any, BinaryIO, cast

from parsl_globus.executor import by_value
from parsl_globus.executor.class_parts import local_class

#: The first that has buffers of arrays as they are; every supported Python reads it.
_PROTOCOL = 5
#: So many pickles have files of their own at once; of more, each stays in memory: a process can open so many only.
_MOST_FILES = 200


class Pickled:
    """A pickle, in memory or in a file without a name; a context manager.

    Attributes:
        size_bytes: Its size.
        python: Version of Python that can read it, as `"3.11"`; `None` if every one can, and quickly.
    """

    _files = threading.BoundedSemaphore(_MOST_FILES)

    def __init__(self, keep_bytes: int) -> None:
        """Empty.

        Args:
            keep_bytes: So much stays in memory.
        """
        self.size_bytes = 0
        self.python: str | None = None
        self._keep_bytes = keep_bytes
        self._lock = threading.Lock()
        self._in_file = False
        self._file: BinaryIO = io.BytesIO()

    def __enter__(self) -> Pickled:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _exc: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Forget it; calling it twice is harmless, also from two threads."""
        self._file.close()
        with self._lock:
            held, self._in_file = self._in_file, False
        if held:
            self._files.release()

    def write(self, data: Any) -> int:
        """For a pickler."""
        count = memoryview(data).nbytes
        if self.size_bytes <= self._keep_bytes < self.size_bytes + count and self._files.acquire(blocking=False):
            before = cast(io.BytesIO, self._file)
            self._in_file = True
            self._file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 - `close` does
            self._file.write(before.getbuffer())
        self.size_bytes += count
        self._file.write(data)
        return count

    def file(self) -> BinaryIO:
        """The pickle, from its beginning."""
        self._file.seek(0)
        return self._file


def pickled(value: Any, keep_bytes: int) -> Pickled:
    """Pickle a value; the caller closes what is returned.

    Args:
        value: What to pickle.
        keep_bytes: More than so much goes into a file.

    Raises:
        Exception: Whatever pickling raises.
    """
    quick = Pickled(keep_bytes)
    try:
        _Pickler(quick, protocol=_PROTOCOL).dump(value)
        return quick
    except Exception:  # noqa: BLE001 - an object's own reduction may raise anything; the thorough one tells it
        quick.close()
    thorough = Pickled(keep_bytes)
    try:
        thorough.write(by_value.dumps(value))
    except BaseException:
        thorough.close()
        raise
    thorough.python = this_python()
    return thorough


class _Pickler(by_value._QuickPickler):
    """Refuses what must travel by value."""


def this_python() -> str:
    """The minor version that runs here."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def unpickled(file: BinaryIO, *, quick: bool) -> Any:
    """What a worker has pickled; reads the file to its end, where some tell that it was not whole.

    Args:
        file: Read once, in order.
        quick: Whether the worker's quick pickler made it.

    Raises:
        Exception: Whatever unpickling or reading raises.
    """
    value = _Unpickler(file).load() if quick else by_value.loads(file.read())
    while file.read(1 << 20):
        pass
    return value


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == by_value.WORKER_MODULE:
            return local_class
        # Python 3.13 says so of its paths, and no other does.
        return super().find_class("pathlib" if module == "pathlib._local" else module, name)
