"""A real RabbitMQ of the test's own: Debian's package on free ports and in a folder that goes away with it."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pika
import pytest
from servers import require

#: From the plugin's start until AMQP answers; a busy machine of two cores took 20 s.
_START_S = 90.0
_STOP_S = 30.0
#: Debian's `rabbitmq-server` in the PATH insists on its own user; this is what it calls.
_PROGRAM = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
_VHOST = "/"
#: Looks with a program where the node runs elsewhere; what it needs to know comes in by stdin.
_CONNECT = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.stdin.read())), 5).close()"
_LOG_IN = "import pika, sys; pika.BlockingConnection(pika.URLParameters(sys.stdin.read())).close()"


def missing_rabbitmq() -> str | None:
    """What is missing to start one; `None` when nothing is."""
    if not _PROGRAM.exists() or shutil.which("epmd") is None:
        return "the Debian package rabbitmq-server is not installed"
    return None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class RabbitMQ:
    """One node that knows the service's own login, and asks the service about every other one.

    Args:
        folder: An empty folder.
        wrap: Turns a command line into one that runs it elsewhere, for example in a network namespace.

    Attributes:
        port: AMQP; the same over all restarts.
        url: As the service connects.
    """

    def __init__(self, folder: Path, *, wrap: Callable[[Sequence[str]], list[str]] = list) -> None:
        require(missing_rabbitmq())
        self._wrap = wrap
        self.port = free_port()
        self._password = secrets.token_urlsafe(16)
        self.url = f"amqp://service:{self._password}@127.0.0.1:{self.port}/%2F"
        self._folder = folder
        self._epmd_port = free_port()
        self._dist_port = free_port()
        self._node = f"t{secrets.token_hex(6)}@localhost"
        self._epmd: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None

    def _write_config(self, settings: str) -> None:
        lines = [
            f"listeners.tcp.1 = 127.0.0.1:{self.port}",
            "default_user = service",
            f"default_pass = {self._password}",
            "loopback_users = none",
            # A full disk of the test machine is not what is tested.
            "disk_free_limit.absolute = 1MB",
            settings,
        ]
        config = self._folder / "rabbitmq.conf"
        config.touch(mode=0o600)
        config.write_text("\n".join(lines) + "\n")
        (self._folder / "enabled_plugins").write_text("[rabbitmq_auth_backend_http].\n")

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))}
        folder = str(self._folder)
        return {
            **kept,
            "HOME": folder,  # the Erlang cookie
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_CONF_ENV_FILE": f"{folder}/no-env.conf",
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/enabled_plugins",
            "RABBITMQ_MNESIA_BASE": f"{folder}/mnesia",
            "RABBITMQ_MNESIA_DIR": f"{folder}/mnesia/node",
            "RABBITMQ_GENERATED_CONFIG_DIR": f"{folder}/generated",
            "RABBITMQ_FEATURE_FLAGS_FILE": f"{folder}/feature_flags",
            "RABBITMQ_PID_FILE": f"{folder}/pid",
            "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_LOGS": "-",
            # Two schedulers without busy waiting: tests share the machine's cores.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none",
        }

    def start(self, settings: str | None = None) -> RabbitMQ:
        """Start it and wait until it takes the service's login.

        Args:
            settings: Lines for its configuration, as the service writes them; by default those of the last start.
        """
        if settings is not None:
            self._write_config(settings)
        environment = self._environment()
        if self._epmd is None:
            # A node without one would leave a daemon behind.
            self._epmd = subprocess.Popen(
                self._wrap(["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"]),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            self._wait_port(self._epmd_port, self._epmd, 10.0)
        with (self._folder / "server.log").open("ab") as log:
            self._server = subprocess.Popen(
                self._wrap([str(_PROGRAM)]),
                env=environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._wait_port(self.port, self._server, _START_S)
        if self._wrap is list:
            pika.BlockingConnection(pika.URLParameters(self.url)).close()
        else:
            assert self._works_there(_LOG_IN, self.url)
        return self

    def _wait_port(self, port: int, process: subprocess.Popen[bytes], limit_s: float) -> None:
        deadline_s = time.monotonic() + limit_s
        pause = threading.Event()
        while True:
            if self._listens(port):
                return
            if process.poll() is not None or time.monotonic() > deadline_s:
                log = self._folder / "server.log"
                pytest.fail(f"{process.args!r} did not start: {log.read_text()[-4000:] if log.exists() else ''}")
            pause.wait(0.05)

    def _listens(self, port: int) -> bool:
        if self._wrap is not list:
            return self._works_there(_CONNECT, str(port))
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    def _works_there(self, script: str, told: str) -> bool:
        command = self._wrap([sys.executable, "-c", script])
        return subprocess.run(command, input=told, text=True, capture_output=True, check=False).returncode == 0

    def stop(self, *, kill: bool = False) -> None:
        """Stop it, in order or with SIGKILL; what is durable stays."""
        server, self._server = self._server, None
        if server is None:
            return
        # The shell's whole group: on SIGTERM the shell passes it on and waits.
        if kill:
            os.killpg(server.pid, signal.SIGKILL)
        else:
            server.terminate()
        try:
            server.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(_STOP_S)
        self._wait_group_gone(server.pid)

    def _wait_group_gone(self, group: int) -> None:
        deadline_s = time.monotonic() + _STOP_S
        pause = threading.Event()
        while time.monotonic() < deadline_s:
            try:
                os.killpg(group, 0)
            except ProcessLookupError:
                return
            pause.wait(0.05)
        os.killpg(group, signal.SIGKILL)

    def delete_queues(self, *names: str) -> None:
        connection = pika.BlockingConnection(pika.URLParameters(self.url))
        for name in names:
            connection.channel().queue_delete(name)
        connection.close()

    def wipe(self) -> None:
        """Forget everything, while it is stopped."""
        assert self._server is None
        shutil.rmtree(self._folder / "mnesia")

    def close(self) -> None:
        """Stop all, for good."""
        self.stop()
        epmd, self._epmd = self._epmd, None
        if epmd is not None:
            epmd.terminate()
            epmd.wait(_STOP_S)
