"""Service processes on one PostgreSQL and one RabbitMQ, each with a folder of its own, as on machines of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from rabbitmq import free_port

from parsl_globus.client.home import Credentials
from parsl_globus.service.auth.logins import BrokerLogins
from parsl_globus.service.broker.rabbitmq.settings import server_settings

_END_S = 30.0


class ServiceProcesses:
    """Processes by name.

    Args:
        folder: Where they write.
        database_url: Of a database with the newest schema.
        broker_url: As the service connects.
        names: Theirs.
    """

    def __init__(self, folder: Path, database_url: str, broker_url: str, names: tuple[str, ...] = ("a", "b")) -> None:
        self._folder = folder
        self._ports = {name: free_port() for name in names}
        self._database, self._broker = folder / "database-url", folder / "broker-url"
        self.running: dict[str, subprocess.Popen[str]] = {}
        for path, text in ((self._database, database_url), (self._broker, broker_url)):
            path.touch(mode=0o600)
            path.write_text(text)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._ports[name]}"

    def broker_settings(self, asked: str) -> str:
        """What RabbitMQ must know to ask one of them, which must be the first to start: its key becomes everyone's."""
        data = self._folder / asked / "service"
        data.mkdir(parents=True, exist_ok=True)
        key = data / "secret.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(32))
        return server_settings(self.url(asked), BrokerLogins(key.read_bytes(), control=True).auth_secret())

    def start(self, name: str) -> subprocess.Popen[str]:
        """Start one and wait until it is ready."""
        command = [sys.executable, "-m", "parsl_globus.cli", "service", "run", "--port", str(self._ports[name])]
        with self.log(name).open("a") as log:
            process = subprocess.Popen(
                [*command, "--database-file", str(self._database), "--broker-file", str(self._broker)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "PARSL_GLOBUS_HOME": str(self._folder / name)},
            )
        self.running[name] = process
        line = process.stdout.readline()
        assert line.startswith("service ready"), line + self.log(name).read_text()[-4000:]
        return process

    def log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def kill(self, name: str) -> None:
        process = self.running.pop(name)
        process.kill()
        process.communicate()

    def stop(self) -> None:
        """Stop all, in order; each must end well."""
        for process in self.running.values():
            process.terminate()
        for name in list(self.running):
            process = self.running[name]
            process.communicate(timeout=_END_S)
            del self.running[name]
            assert process.returncode == 0, self.log(name).read_text()[-4000:]

    def close(self) -> None:
        """End what still runs, whatever happened."""
        for name in list(self.running):
            self.kill(name)

    def credentials(self, name: str) -> Credentials:
        """The owner's, as this process left them."""
        known = json.loads((self._folder / name / "credentials.json").read_text())
        return Credentials(**known[self.url(name)])
