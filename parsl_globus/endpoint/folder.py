"""The folder of an endpoint: its files, the id it was registered under, and the lock of its manager."""

from __future__ import annotations

import fcntl
import os
import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from parsl_globus.client.home import endpoints_dir, read_json, write_private
from parsl_globus.endpoint.config.templates import template_text
from parsl_globus.errors import ConfigError, EndpointError, EndpointNotFound

#: In the folder of a user endpoint that runs in another account, whose own files its manager doesn't trust.
ACCOUNT_RECORD = "account.json"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class EndpointFolder:
    """Where an endpoint lives.

    Attributes:
        name: Its name on this machine.
        path: The folder.
    """

    name: str
    path: Path

    @property
    def config(self) -> Path:
        """Its configuration."""
        return self.path / "config.yaml"

    @property
    def log(self) -> Path:
        """The manager's log."""
        return self.path / "endpoint.log"

    @property
    def endpoint_id(self) -> uuid.UUID | None:
        """The id it was registered under, if it ever was.

        Raises:
            ConfigError: The file that holds it can't be read.
        """
        path = self.path / "endpoint.json"
        text = (read_json(path) or {}).get("endpoint_id")
        try:
            return uuid.UUID(text) if text else None
        except (ValueError, AttributeError, TypeError) as exc:
            raise ConfigError(f"'{text}' is no endpoint id; delete the file for a new one.", file=str(path)) from exc

    @property
    def service_url(self) -> str | None:
        """The service at which it was registered last, if it ever was."""
        url = (read_json(self.path / "endpoint.json") or {}).get("service_url")
        return url if isinstance(url, str) else None

    def remember_id(self, endpoint_id: uuid.UUID, service_url: str | None = None) -> None:
        """Keep the id for the next start, and where it was registered."""
        record = {"endpoint_id": str(endpoint_id), "name": self.name, "service_url": service_url}
        write_private(self.path / "endpoint.json", record)

    def user_endpoints(self) -> list[Path]:
        """The folders of its user endpoints, those that ran before included."""
        return sorted(path for path in self.path.glob("uep.*") if path.is_dir())

    def account_record(self, user_endpoint: str) -> dict[str, Any] | None:
        """Which account a user endpoint runs in, and where its log is; `None` for one that runs in the manager's."""
        return read_json(self.path / user_endpoint / ACCOUNT_RECORD)

    @property
    def manager_pid(self) -> int | None:
        """The running manager's process, or `None` when none runs. A stale file of one that was killed is seen."""
        path = self.path / "manager.pid"
        try:
            with path.open("r+") as stream:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    text = stream.read().strip()
                    return int(text) if text.isdigit() else None
        except OSError:
            return None
        return None


class ManagerLock:
    """Held by a running manager; the kernel lets go of it whatever way the manager ends.

    Raises:
        EndpointError: Another one holds it, or the folder can't be written.
    """

    def __init__(self, folder: EndpointFolder) -> None:
        self._path = folder.path / "manager.pid"
        try:
            self._stream = self._path.open("a+")
        except OSError as exc:
            raise EndpointError(f"The folder of endpoint '{folder.name}' can't be written: {exc}.") from exc
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._stream.close()
            raise EndpointError(
                f"Endpoint '{folder.name}' runs already; stop it with 'parsl-globus endpoint stop {folder.name}'."
            ) from None
        self._stream.truncate(0)
        self._stream.write(str(os.getpid()))
        self._stream.flush()

    def __enter__(self) -> ManagerLock:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _exc: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._path.unlink(missing_ok=True)
        self._stream.close()


def find(name: str) -> EndpointFolder:
    """The folder of the configured endpoint `name`.

    Raises:
        EndpointNotFound: There is none.
    """
    folder = EndpointFolder(name, endpoints_dir() / name)
    if not _NAME.fullmatch(name) or not folder.config.exists():
        known = ", ".join(sorted(entry.name for entry in all_folders()))
        hint = f"Known here: {known}." if known else f"Make it with 'parsl-globus endpoint configure {name}'."
        raise EndpointNotFound(endpoint=name, hint=hint)
    return folder


def all_folders() -> list[EndpointFolder]:
    """All endpoints that are configured here."""
    try:
        entries = sorted(endpoints_dir().iterdir())
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise EndpointError(f"The folder of the endpoints can't be read: {exc}.") from exc
    return [EndpointFolder(entry.name, entry) for entry in entries if (entry / "config.yaml").exists()]


def create(name: str, config: str | None, *, force: bool) -> EndpointFolder:
    """Make the folder of a new endpoint.

    Args:
        name: Its name.
        config: The text of its configuration; `None` writes the template `laptop`.
        force: Replace the configuration of one that exists.

    Raises:
        EndpointError: It exists, or can't be written.
        ConfigError: The name can't be used.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"'{name}' can't be the name of an endpoint: use letters, digits, '.', '_' and '-'.")
    if config is None:
        config = template_text("laptop").replace("display_name: My laptop", f"display_name: {name}")
    folder = EndpointFolder(name, endpoints_dir() / name)
    if folder.config.exists() and not force:
        raise EndpointError(
            f"Endpoint '{name}' exists already at {folder.path}; use --force to replace its configuration."
        )
    try:
        folder.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.config.touch(mode=0o600)
        folder.config.write_text(config)
    except OSError as exc:
        raise EndpointError(f"The folder of endpoint '{name}' can't be written: {exc}.") from exc
    return folder
