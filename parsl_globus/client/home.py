"""The folder in which this machine's user keeps services and endpoints: `PARSL_GLOBUS_HOME`, or `~/.parsl_globus`."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from parsl_globus.errors import ConfigError


@dataclass(frozen=True)
class ServiceRecord:
    """A service that runs on this machine.

    Attributes:
        url: Base URL of its REST interface.
        amqp_port: Port of its broker.
        pid: Its process.
        data_dir: Folder of its store.
        public_only: Whether the protocol extensions are switched off.
        version: Of this package, as the service runs it.
    """

    url: str
    amqp_port: int
    pid: int
    data_dir: str
    public_only: bool
    version: str


@dataclass(frozen=True)
class Credentials:
    """How to log in to a service: client credentials, or a fixed token.

    Attributes:
        client_id: To log in with.
        client_secret: To log in with.
        token: A bearer token instead of both; it is not renewed when it expires.
        ca_file: CA certificates for this service, where it shows one that isn't trusted anyway.
    """

    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    token: str | None = field(default=None, repr=False)
    ca_file: str | None = None


def home() -> Path:
    """The folder; it need not exist yet."""
    configured = os.environ.get("PARSL_GLOBUS_HOME")
    return Path(configured).expanduser().absolute() if configured else Path.home() / ".parsl_globus"


def endpoints_dir() -> Path:
    """Where the endpoints live, a folder each."""
    return home() / "endpoints"


def write_service(record: ServiceRecord) -> None:
    """Remember the running service."""
    write_private(home() / "service.json", asdict(record))


def read_service() -> ServiceRecord | None:
    """The service that was started last and has not said goodbye; whether it answers is another question.

    Raises:
        ConfigError: The record can't be read.
    """
    record = read_json(home() / "service.json")
    if record is None:
        return None
    try:
        return ServiceRecord(**record)
    except TypeError as exc:
        raise ConfigError(f"This is no service record ({exc}); delete it.", file=str(home() / "service.json")) from exc


def forget_service(pid: int) -> None:
    """Remove the record if it is of the service with process id `pid`."""
    record = read_service()
    if record is not None and record.pid == pid:
        (home() / "service.json").unlink(missing_ok=True)


def write_credentials(url: str, credentials: Credentials) -> None:
    """Remember how to log in to the service at `url`."""
    path = home() / "credentials.json"
    known = read_json(path) or {}
    known[_key(url)] = asdict(credentials)
    write_private(path, known)


def read_credentials(url: str) -> Credentials | None:
    """How to log in to the service at `url`, or `None`.

    Raises:
        ConfigError: The file can't be read.
    """
    path = home() / "credentials.json"
    entry = (read_json(path) or {}).get(_key(url))
    try:
        return Credentials(**entry) if entry else None
    except TypeError as exc:
        raise ConfigError(f"These are no credentials for {url}; log in again.", file=str(path)) from exc


def services_with_credentials() -> list[str]:
    """Where the services are to which it is known here how to log in, running or not."""
    return list(read_json(home() / "credentials.json") or {})


def forget_credentials(url: str) -> bool:
    """Forget how to log in to the service at `url`; whether that was known."""
    path = home() / "credentials.json"
    known = read_json(path) or {}
    if known.pop(_key(url), None) is None:
        return False
    write_private(path, known)
    return True


def write_login(url: str) -> None:
    """From now on, the service at `url` is the one that is meant when none is named."""
    write_private(home() / "login.json", {"url": url})


def read_login() -> str | None:
    """The service that was logged in to, or `None`.

    Raises:
        ConfigError: The file can't be read.
    """
    url = (read_json(home() / "login.json") or {}).get("url")
    return url if isinstance(url, str) else None


def forget_login() -> None:
    """No service is meant any more when none is named, but one that runs on this machine."""
    (home() / "login.json").unlink(missing_ok=True)


def _key(url: str) -> str:
    return url.rstrip("/").replace("//localhost", "//127.0.0.1")


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in the file, or `None` without one.

    Raises:
        ConfigError: It can't be read or is no JSON object.
    """
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        raise ConfigError(f"The file can't be read: {exc}", file=str(path)) from exc
    if not isinstance(value, dict):
        raise ConfigError("The file should hold a JSON object.", file=str(path))
    return value


def write_private(path: Path, value: dict[str, Any]) -> None:
    """Write `value` as JSON so that only this user can read it, and nobody sees half of it.

    Raises:
        ConfigError: The folder can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
        try:
            with os.fdopen(handle, "w") as stream:
                json.dump(value, stream, indent=2)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as exc:
        raise ConfigError(f"The file can't be written: {exc}", file=str(path)) from exc
