"""`parsl-globus endpoint logs`: the logs of a manager and its user endpoints, merged by time."""

from __future__ import annotations

import heapq
import os
import re
import stat
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from parsl_globus.cli.extras import needs_extra

if TYPE_CHECKING:
    from parsl_globus.endpoint.folder import EndpointFolder

#: How our log lines begin; what follows without it, such as a traceback, belongs to the line before.
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ")
_LOOK_PERIOD_S = 0.25
#: Longer lines, and longer entries of many lines, are cut into pieces.
_PIECE_BYTES = 1024 * 1024


@dataclass(frozen=True)
class _Record:
    time: str
    label: str
    text: str

    def show(self) -> None:
        for line in self.text.splitlines():
            # Users' words are in it, and another account may have written anything: nothing steers the terminal.
            click.echo(f"{self.label}: {''.join(c if c.isprintable() or c == chr(9) else chr(0xFFFD) for c in line)}")


class _Log:
    """A log file, read from where it was left last time.

    Args:
        path: The file.
        label: What its lines are shown with.
        owner: The user id of the account in whose home it is, if that isn't the caller's own: then it may be anything,
            and is read only if it is a plain file of that account.
    """

    def __init__(self, path: Path, label: str, owner: int | None = None) -> None:
        self.path = path
        self._label = label
        self._owner = owner
        self._position = 0
        self._time = ""
        self._told = False

    def records(self) -> Iterator[_Record]:
        """What is new; a line counts once it has ended. A log that can't be read is told once, on stderr."""
        try:
            stream = self._open()
        except FileNotFoundError:
            return
        except OSError as exc:
            if not self._told:
                self._told = True
                click.echo(f"{self._label}: its log {self.path} can't be read: {exc.strerror or exc}", err=True)
            return
        with stream:
            if os.fstat(stream.fileno()).st_size < self._position:  # it was begun anew
                self._position = 0
            stream.seek(self._position)
            text = ""
            while raw := stream.readline(_PIECE_BYTES):
                if not raw.endswith(b"\n") and len(raw) < _PIECE_BYTES:
                    break
                self._position += len(raw)
                line = raw.decode(errors="replace")
                if (begins := _TIME.match(line)) is None and len(text) < _PIECE_BYTES:
                    text += line
                    continue
                if text:
                    yield _Record(self._time, self._label, text)
                self._time, text = begins.group() if begins is not None else self._time, line
            if text:
                yield _Record(self._time, self._label, text)

    def _open(self) -> BinaryIO:
        if self._owner is None:
            return self.path.open("rb")
        handle = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != self._owner:
                raise PermissionError(None, "it is no file of that account's own")
            return os.fdopen(handle, "rb")
        except BaseException:
            os.close(handle)
            raise


@click.command("logs")
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is logged from now on, until Ctrl-C.")
@click.option("-n", "--lines", "last", type=click.IntRange(min=0), help="Begin with so many of the last entries only.")
@click.option("--user-endpoint", help="Only the log of this user endpoint: its id, or its folder's name.")
@click.option("--task", type=click.UUID, help="Only what is told of this task.")
def logs(name: str, follow: bool, last: int | None, user_endpoint: str | None, task: uuid.UUID | None) -> None:
    """Show the logs of the endpoint NAME and its user endpoints, merged by time."""
    with needs_extra("endpoint"):
        from parsl_globus.endpoint.folder import find

    folder = find(name)
    found: dict[Path, _Log] = {}
    if user_endpoint is not None and not follow and not _wanted(folder, user_endpoint):
        known = ", ".join(path.name for path in folder.user_endpoints()) or "none"
        raise click.BadParameter(f"'{user_endpoint}' has no log here; there are: {known}", param_hint="--user-endpoint")
    try:
        entries: Iterable[_Record] = _new(folder, found, user_endpoint, task)
        for record in entries if last is None else deque(entries, maxlen=last):
            record.show()
        while follow:
            time.sleep(_LOOK_PERIOD_S)
            for record in _new(folder, found, user_endpoint, task):
                record.show()
    except KeyboardInterrupt:
        return


def _new(
    folder: EndpointFolder, found: dict[Path, _Log], user_endpoint: str | None, task: uuid.UUID | None
) -> Iterator[_Record]:
    """What is new in all logs, those that came since included."""
    if user_endpoint is None:
        found.setdefault(folder.log, _Log(folder.log, "manager"))
    for directory in _wanted(folder, user_endpoint):
        account = folder.account_record(directory.name)
        path = directory / "endpoint.log" if account is None else Path(account["log"])
        # The last part tells user endpoints of a manager apart.
        label = directory.name.rpartition(".")[2]
        found.setdefault(path, _Log(path, label, None if account is None else account["uid"]))
    merged = heapq.merge(*(log.records() for log in found.values()), key=lambda record: record.time)
    return (record for record in merged if task is None or str(task) in record.text)


def _wanted(folder: EndpointFolder, user_endpoint: str | None) -> list[Path]:
    if user_endpoint is None:
        return folder.user_endpoints()
    try:
        ending = uuid.UUID(user_endpoint).hex[:16]  # as in `names.user_endpoint_name`
    except ValueError:
        ending = user_endpoint
    return [path for path in folder.user_endpoints() if path.name in (user_endpoint, f"uep.{user_endpoint}")] or [
        path for path in folder.user_endpoints() if path.name.endswith(f".{ending}")
    ]
