"""Brings the stdout and stderr files of bash_apps home: a path in a call names a file here, not on the worker."""

from __future__ import annotations

import functools
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from types import FunctionType
from typing import Any

from parsl.app.bash import remote_side_bash_executor
from parsl.app.errors import BadStdStreamFile
from parsl.data_provider.files import File

from parsl_globus.executor.task_log import TaskFuture

STREAMS = ("stdout", "stderr")
#: Wrappers around a bash_app: for errors, monitoring, and each staged file.
_DEPTH = 12
_MODE = re.compile(r"[wa][+bt]*")


@dataclass(frozen=True)
class Stream:
    """A file that a stream is to be written to, in this mode."""

    path: str
    mode: str


def streams_of(function: Callable[..., Any], kwargs: Mapping[str, Any]) -> dict[str, Stream]:
    """The files that must come home; none for what is no bash_app.

    What can't be written here is left to the worker, as with other executors: it is a path of the site's, or it is
    wrong and the app says so. Parsl's staging takes care of a `File`.
    """
    found: dict[str, Stream] = {}
    for name in STREAMS:
        spec = kwargs.get(name)
        if spec is None or isinstance(spec, File):
            continue
        path, mode = spec if isinstance(spec, tuple) and len(spec) == 2 else (spec, "a+")
        if not isinstance(path, (str, os.PathLike)) or not isinstance(mode, str) or not _MODE.fullmatch(mode):
            continue
        place = os.path.abspath(os.fsdecode(path))
        if _is_bash_app(function) and _can_be_written(place):
            found[name] = Stream(place, mode)
    return found


def names_for_worker(streams: Mapping[str, Stream]) -> dict[str, str]:
    """What the worker calls the file of each stream: after a stream into it, as paths differ from run to run."""
    of_path = {stream.path: name for name, stream in streams.items()}
    return {name: of_path[stream.path] for name, stream in streams.items()}


class StreamsFuture(TaskFuture):
    """A future whose result brings files along.

    Args:
        streams: Where they belong.
    """

    def __init__(self, streams: Mapping[str, Stream]) -> None:
        super().__init__()
        self._streams = streams

    def set_result(self, result: Any) -> None:
        """Write the files, then complete: who waits for the result finds them."""
        path = ""
        try:
            for name, content in result["streams"].items():
                path = self._streams[name].path
                mode = self._streams[name].mode.replace("t", "").replace("b", "") + "b"
                with open(path, mode) as file:
                    file.write(zlib.decompress(content))
        except OSError as exc:
            error = BadStdStreamFile(path)
            error.__cause__ = exc
            self.set_exception(error)
        else:
            super().set_result(result["value"])


def with_streams(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as it runs on the worker; the same one for an app's calls, so that it is encoded once."""
    if getattr(function, "__globals__", {}).get("__name__") == "parsl.app.errors":  # made once per app
        return _with_streams_known(function)
    return _worker_side()(function)


@functools.lru_cache(maxsize=256)
def _with_streams_known(function: Callable[..., Any]) -> Callable[..., Any]:
    return _worker_side()(function)


@functools.cache
def _worker_side() -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Made from its text in a module that nobody has, so that it travels by value."""
    space: dict[str, Any] = {"__name__": "_parsl_globus_streams"}
    source = files("parsl_globus.worker").joinpath("streams.py")
    exec(compile(source.read_text(), str(source), "exec"), space)  # its real name, as it may have to go as source
    made: Callable[[Callable[..., Any]], Callable[..., Any]] = space["with_streams"]
    return made


def _can_be_written(path: str) -> bool:
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "ab"):
            return True
    except OSError:
        return False


def _is_bash_app(function: Callable[..., Any]) -> bool:
    return any(part is remote_side_bash_executor for part in _inside(function, _DEPTH))


def _inside(function: Any, depth: int) -> Iterator[Any]:
    """The function and those that it wraps."""
    yield function
    if depth == 0:
        return
    inner = [getattr(function, "__wrapped__", None)]
    if isinstance(function, functools.partial):
        inner.append(function.func)
    elif inner[0] is None and isinstance(function, FunctionType):
        inner += [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
    for part in inner:
        if callable(part):
            yield from _inside(part, depth - 1)


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False
