"""A real PostgreSQL of the tests' own: Debian's binaries on a free port, in a folder that goes away with it."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from servers import require

_DEADLINE_S = 60


def _programs() -> Path | None:
    """The newest version's programs; Debian keeps them out of the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if found:
        return found[-1].parent
    in_path = shutil.which("initdb")
    return Path(in_path).resolve().parent if in_path else None


def missing_postgres() -> str | None:
    """What is missing to start one; `None` when nothing is."""
    return None if _programs() else "the Debian package postgresql is not installed"


class Postgres:
    """One server.

    Args:
        port: Where it listens, on 127.0.0.1; the same over all restarts.
    """

    def __init__(self, port: int | None = None) -> None:
        require(missing_postgres())
        programs = _programs()
        assert programs is not None
        self._programs = programs
        self.port = port or _free_port()
        self.password = secrets.token_urlsafe(16)
        # Not in pytest's folders: root's are closed to the user that the server runs as.
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._data = self._folder / "data"
        self._server: subprocess.Popen[bytes] | None = None
        self._count = 0
        try:
            self._make()
        except BaseException:
            shutil.rmtree(self._folder)
            raise

    def _as_user(self, command: list[str]) -> list[str]:
        # The server refuses to run as root.
        if os.geteuid() != 0:
            return command
        return ["setpriv", f"--reuid={self._uid}", f"--regid={self._gid}", "--clear-groups", *command]

    def _make(self) -> None:
        self._uid, self._gid = os.geteuid(), os.getegid()
        if self._uid == 0:
            user = _first_user("postgres", "nobody")
            self._uid, self._gid = user.pw_uid, user.pw_gid
            os.chown(self._folder, self._uid, self._gid)
        word = self._folder / "password"
        word.touch(mode=0o600)
        word.write_text(self.password)
        os.chown(word, self._uid, self._gid)
        # No wait for the disk when it is made; the server itself keeps its defaults, which wait at each commit.
        make = [str(self._programs / "initdb"), "-D", str(self._data), "-U", "tests", "--pwfile", str(word)]
        done = subprocess.run(
            self._as_user([*make, "-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync"]),
            capture_output=True,
            text=True,
            cwd=self._folder,
            timeout=_DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> Postgres:
        """Start it, and wait until it answers."""
        options = [
            f"-c port={self.port}",
            "-c listen_addresses=127.0.0.1",
            f"-c unix_socket_directories={self._folder}",
            "-c shared_buffers=32MB",
            "-c max_connections=60",
        ]
        with (self._folder / "server.log").open("ab") as log:
            self._server = subprocess.Popen(
                self._as_user([str(self._programs / "postgres"), "-D", str(self._data), *" ".join(options).split(" ")]),
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                start_new_session=True,
            )
        ready = [str(self._programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-t", "1"]
        for _ in range(_DEADLINE_S * 10):
            if self._server.poll() is not None:
                break
            if subprocess.run(ready, check=False).returncode == 0:
                return self
            _pause(self._server)
        pytest.fail(f"PostgreSQL did not start:\n{(self._folder / 'server.log').read_text()[-3000:]}")

    def stop(self, *, immediately: bool = False) -> None:
        """Stop it: connections are cut, what was committed stays; `immediately`: as if the power went."""
        server, self._server = self._server, None
        if server is not None:
            server.send_signal(signal.SIGQUIT if immediately else signal.SIGINT)
            server.wait(_DEADLINE_S)

    def close(self) -> None:
        """Stop it and remove all it wrote."""
        self.stop()
        shutil.rmtree(self._folder)

    def url(self, database: str) -> str:
        """How a service connects to a database."""
        return f"postgresql://tests:{self.password}@127.0.0.1:{self.port}/{database}"

    def socket_url(self, url: str) -> str:
        """The same database by the server's socket, which is reached from every network namespace."""
        name = url.rpartition("/")[2]
        return f"postgresql://tests:{self.password}@/{name}?host={self._folder}&port={self.port}"

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run one statement, outside of any transaction."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def database(self, template: str | None = None) -> Iterator[str]:
        """A database of one's own, removed afterwards; yields its URL."""
        self._count += 1
        name = f"d{self._count}_{secrets.token_hex(4)}"
        self.execute(f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else ""))
        try:
            yield self.url(name)
        finally:
            self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def _first_user(*names: str) -> pwd.struct_passwd:
    for name in names:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise AssertionError(f"none of the users {names} exists")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _pause(server: subprocess.Popen[bytes]) -> None:
    try:
        server.wait(0.1)
    except subprocess.TimeoutExpired:
        pass
