"""The service's folder: its database, its key, its owner's credentials, and the lock that keeps others out."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from parsl_globus.errors import ConfigError

_KEY_BYTES = 32
_MARK = ".pid"
_ALIVE = ".alive"


@dataclass(frozen=True)
class Owner:
    """Credentials of the identity that a service makes for whoever runs it.

    Attributes:
        client_id: To log in with.
        client_secret: To log in with.
        identity_id: Who that is.
    """

    client_id: uuid.UUID
    client_secret: str = field(repr=False)
    identity_id: uuid.UUID


class DataDir:
    """The folder, while this process is the only one that uses it, or one of several.

    Args:
        path: The folder; made when missing.
        shared: Whether other processes of the same service may use it, too: then no database is in it.

    Attributes:
        path: The folder.
        database: The database's file.
    """

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        self.path = path
        self._shared = shared
        self.database = path / "service.db"
        self._lock: int | None = None
        self._mark: int | None = None
        self._alive: tuple[Path, int] | None = None

    def __enter__(self) -> DataDir:
        """Lock the folder.

        Raises:
            ConfigError: It can't be used, or another service uses it.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise ConfigError(
                f"The data folder {self.path} can't be used ({exc.strerror}). Choose another with --data."
            ) from exc
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if self._shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(lock)
            raise ConfigError(
                f"Another service uses the data folder {self.path}. Stop it, or choose another folder with --data."
            ) from exc
        self._lock = lock
        self._mark = self._leave_mark()
        return self

    def _leave_mark(self) -> int:
        """A file named for this process, locked as long as it lives: see `running_pids`."""
        mark = os.open(self.path / f"{os.getpid()}{_MARK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(mark, fcntl.LOCK_EX)
        return mark

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._alive is not None:
            path, held = self._alive
            path.unlink(missing_ok=True)
            os.close(held)
            self._alive = None
        if self._mark is not None:
            (self.path / f"{os.getpid()}{_MARK}").unlink(missing_ok=True)
            os.close(self._mark)
            self._mark = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def live_as(self, name: str) -> list[str]:
        """Tell others of this folder the name of this process; call it within `making`.

        Returns:
            The names of processes that were killed; each is told once.
        """
        killed = []
        for path in sorted(self.path.glob(f"*{_ALIVE}")):
            try:
                with path.open() as stream:
                    fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    path.unlink()
            except OSError:
                continue  # it lives, or has just ended in order
            killed.append(path.stem)
        path = self.path / f"{name}{_ALIVE}"
        held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(held, fcntl.LOCK_EX)
        self._alive = (path, held)
        return killed

    @contextmanager
    def making(self) -> Iterator[None]:
        """In this context, no other process of the service makes the files of the folder."""
        turn = os.open(self.path / "making", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(turn, fcntl.LOCK_EX)
            yield
        finally:
            os.close(turn)

    def write_secret(self, name: str, text: str) -> Path:
        """Write a file that only its owner may read, all of it or none; returns where it is."""
        path = self.path / name
        _write_secret(path, text.encode())
        return path

    def key(self) -> bytes:
        """The service's key, made at the first start."""
        path = self.path / "secret.key"
        try:
            key = path.read_bytes()
        except FileNotFoundError:
            key = secrets.token_bytes(_KEY_BYTES)
            _write_secret(path, key)
        except OSError as exc:
            raise ConfigError(f"The service's key can't be read ({exc.strerror}).", file=str(path)) from exc
        if len(key) != _KEY_BYTES:
            raise ConfigError(
                "The service's key is damaged. Remove the file to get a new one; endpoints must be restarted then.",
                file=str(path),
            )
        return key

    def owner(self) -> Owner | None:
        """The owner's credentials; `None` before the first start."""
        path = self.path / "owner.json"
        try:
            values = json.loads(path.read_bytes())
            return Owner(
                client_id=uuid.UUID(values["client_id"]),
                client_secret=str(values["client_secret"]),
                identity_id=uuid.UUID(values["identity_id"]),
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
            raise ConfigError(
                f"The owner's credentials can't be read ({exc}). Remove the file to get new ones.", file=str(path)
            ) from exc

    def keep_owner(self, owner: Owner) -> None:
        """Write the owner's credentials down."""
        values = {
            "client_id": str(owner.client_id),
            "client_secret": owner.client_secret,
            "identity_id": str(owner.identity_id),
        }
        _write_secret(self.path / "owner.json", json.dumps(values, indent=1).encode())


def running_pids(path: Path) -> list[int]:
    """The processes of a service that use the data folder `path`; what a killed one left behind is removed."""
    pids = []
    for mark in sorted(path.glob(f"*{_MARK}")):
        try:
            with mark.open() as stream:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
                mark.unlink(missing_ok=True)
        except BlockingIOError:
            if mark.stem.isdigit():
                pids.append(int(mark.stem))
        except OSError:
            continue  # it has just ended
    return pids


def _write_secret(path: Path, content: bytes) -> None:
    """Write a file of mode 0600, all of it or none."""
    partial = path.with_name(path.name + ".new")
    try:
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as exc:
        raise ConfigError(
            f"The data folder can't be written ({exc.strerror}). Choose another with --data.", file=str(path)
        ) from exc
