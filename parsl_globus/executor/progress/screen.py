"""Some lines at the foot of a terminal that change in place, below whatever else the program writes.

Not rich's `Live`: it breaks the lines that users print at words, makes a line of each part of one that is flushed, and
renders its table for every `print`; here a text is written again that has been rendered before.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO

#: So much of a line that was begun is looked at to draw it, in characters; what the same line drew over is forgotten
#: when there is more.
_LONGEST_PARTIAL = 4096
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[@-Z\\-_])")


class Foot:
    """Keeps lines at the end of what a terminal shows. Thread-safe.

    While it is open, `sys.stdout` and `sys.stderr` write above them, if they are terminals, and so does the logging
    that was set up for these.

    Args:
        stream: The terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.RLock()  # a signal's handler may print while its thread prints
        self._lines: list[str] = []
        self._shown = 0
        self._proxies: list[Proxy] = []
        self._handlers: list[tuple[Any, TextIO]] = []
        self._open = False
        self._failure: Exception | None = None
        _feet.add(self)

    def open(self) -> None:
        """Begin."""
        self._open = True
        try:
            for name in ("stdout", "stderr"):
                file = getattr(sys, name)
                if getattr(file, "isatty", bool)():
                    proxy = Proxy(self, file)
                    self._proxies.append(proxy)
                    setattr(sys, name, proxy)
                    self._redirect_logging(proxy)
        except BaseException:
            self.close()
            raise

    def show(self, lines: Iterable[str]) -> None:
        """Show these instead; none may be wider than the terminal, nor may they be more than it has.

        Raises:
            Exception: What went wrong with the lines when the program wrote something; this ended them.
        """
        with self._lock:
            if self._failure is not None:
                raise self._failure
            self._lines = list(lines)
            self._erase()
            self._paint()

    def close(self, lines: Iterable[str] = ()) -> None:
        """Leave these lines, and put everything back; without lines, harmless when it is done."""
        try:
            with self._lock:
                self._open = False
                self._erase()
                for proxy in self._proxies:
                    if proxy.partial:  # the lines that stay begin on one of their own
                        proxy.partial += "\n"
                    proxy.write_rest()
                self._write("".join(f"{line}\n" for line in lines))
        finally:
            self._put_back()

    def write(self, proxy: Proxy, text: str) -> None:
        """Write what the program has for one of its streams, above the lines."""
        with self._lock:
            if not self._open:
                proxy.write_rest()  # the lines may have failed while another proxy was written to
                proxy.file.write(text)
                return
            before, newline, partial = (proxy.partial + text).rpartition("\n")
            if len(partial) > _LONGEST_PARTIAL and "\r" in partial:  # a bar that is drawn again and again
                partial = "\r" + partial.rstrip("\r").rpartition("\r")[2]
            proxy.partial = partial
            if not self._try(self._erase):
                proxy.write_rest(before + newline)
                return
            if newline:
                proxy.file.write(before + newline)
                proxy.file.flush()
            if not self._try(self._paint):
                proxy.write_rest()

    def _try(self, change: Callable[[], None]) -> bool:
        """The program's output doesn't fail with the lines, which end then; `show` tells why."""
        try:
            change()
        except Exception as exc:  # noqa: BLE001 - the terminal may be gone, or its stream be no real one
            self._open, self._failure = False, exc
        return self._open

    def _erase(self) -> None:
        shown, self._shown = self._shown, 0  # not again if this fails: other text may stand there then
        if shown:
            self._write(f"\x1b[{shown}A\r\x1b[J")

    def _paint(self) -> None:
        begun = [_on_one_line(proxy.partial, os.get_terminal_size(self._stream.fileno()).columns)
                 for proxy in self._proxies if proxy.partial]  # fmt: skip
        lines = begun + self._lines
        self._write("".join(f"{line}\n" for line in lines))
        self._shown = len(lines)

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

    def _redirect_logging(self, proxy: Proxy) -> None:
        for handler in _stream_handlers():
            # Of its own: logging's last resort takes what sys.stderr is, and can't be set.
            if vars(handler).get("stream") is proxy.file:
                handler.setStream(proxy)
                self._handlers.append((handler, proxy.file))

    def _put_back(self) -> None:
        """Not while this thread has the lock: a thread that logs has the handler's when it comes for this one."""
        for name in ("stdout", "stderr"):
            for proxy in self._proxies:
                if getattr(sys, name) is proxy:  # otherwise others have put something in its place, which stays
                    setattr(sys, name, proxy.file)
        handlers, self._handlers = self._handlers, []
        for handler, file in handlers:
            if isinstance(handler.stream, Proxy):
                handler.setStream(file)

    def forget(self) -> None:
        """In a child that was forked: it writes as it would without, and another thread may have had the lock."""
        self._lock = threading.RLock()
        self._open = False
        for proxy in self._proxies:
            proxy.partial = ""  # the parent writes it
        self._put_back()


class Proxy:
    """Stands for `sys.stdout` or `sys.stderr` while there is a foot.

    Attributes:
        file: What it stands for; all but writing is done by this.
        partial: A line that was begun and is shown, but not written yet.
    """

    def __init__(self, foot: Foot, file: TextIO) -> None:
        self._foot = foot
        self.file = file
        self.partial = ""

    def write(self, text: str) -> int:
        """Write above the foot."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self._foot.write(self, text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each."""
        self.write("".join(lines))

    def flush(self) -> None:
        """Nothing is held back but a line that was begun, and this is shown."""
        self.file.flush()

    def write_rest(self, before: str = "") -> None:
        """Write all, and what was begun as far as it has come."""
        rest, self.partial = self.partial, ""
        if before or rest:
            self.file.write(before + rest)
            self.file.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.file)


def _on_one_line(text: str, columns: int) -> str:
    """The end of a line that was begun, as a terminal would show it: after the last return to its start."""
    from rich.cells import cell_len

    shown = _ESCAPES.sub("", text[-_LONGEST_PARTIAL:]).rstrip("\r").rpartition("\r")[2].expandtabs()
    while cell_len(shown) >= columns:
        shown = shown[max(1, len(shown) - columns + 1) :] if len(shown) >= columns else shown[1:]
    return shown


def _stream_handlers() -> Iterator[Any]:
    for logger in [logging.root, *logging.root.manager.loggerDict.values()]:
        for handler in getattr(logger, "handlers", ()):
            if isinstance(handler, logging.StreamHandler):
                yield handler


#: Closed ones, too: who has kept a proxy writes through it, and takes the lock.
_feet: weakref.WeakSet[Foot] = weakref.WeakSet()


def _in_child() -> None:
    for foot in list(_feet):
        foot.forget()


os.register_at_fork(after_in_child=_in_child)
