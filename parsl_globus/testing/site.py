"""A service and endpoints on this machine, as a user starts them, with a home folder of their own.

Only commands are used, so what runs is what users run. For tests, the demo, and libraries that need to be tested
against Globus Compute without it.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import psutil

from parsl_globus.errors import ConfigError, EndpointStartFailed, ServiceUnreachable

if TYPE_CHECKING:
    from globus_compute_sdk import Client

logger = logging.getLogger(__name__)

#: An endpoint for tests: two workers in one block on this machine, a heartbeat a second.
LOCAL_ENDPOINT = """\
display_name: {name}
heartbeat_period: 1
engine:
  type: GlobusComputeEngine
  address: 127.0.0.1
  max_workers_per_node: {workers}
  cores_per_worker: 0.01  # so many workers, however few cores there are
  provider:
    type: LocalProvider
    init_blocks: 1
    min_blocks: 1
    max_blocks: 1
"""

#: Longest path of a folder for temporary files: `multiprocessing` puts sockets in folders of their own there, and the
#: kernel takes no socket path of more than 107 bytes.
_TEMPORARY_PATH_BYTES = 107 - len("/pymp-12345678/listener-12345678")

#: How often a process that starts is looked at, in seconds; no task waits for it.
_LOOK_PERIOD_S = 0.02
#: What is left at the end has this long to end by itself, in seconds.
_END_S = 10.0


class LocalSite:
    """Processes that belong together: a service, and endpoints registered there.

    Example::

        with LocalSite(tmp_path) as site:
            site.start_service()
            endpoint_id = site.start_endpoint("laptop")
            executor = GlobusComputeExecutor(endpoint_id, client=site.client())

    Args:
        home: See below.
        wrap: Turns a command line into one that runs it elsewhere, for example in a network namespace.

    Attributes:
        home: The folder of the service and the endpoints, `PARSL_GLOBUS_HOME` of all of them. Everything they write
            is below it, temporary files too unless its path is too long for that.
    """

    def __init__(self, home: Path, *, wrap: Callable[[Sequence[str]], list[str]] = list) -> None:
        self.home = home.absolute()
        self._wrap = wrap
        self._service: subprocess.Popen[bytes] | None = None
        self._record: dict[str, Any] | None = None
        self._temporary: Path | None = None

    def __enter__(self) -> LocalSite:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _exc: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables for the commands, and for programs that should use this site."""
        inherited = {
            key: value for key, value in os.environ.items() if not key.startswith(("GLOBUS_", "PARSL_GLOBUS_"))
        }
        return {
            **inherited,
            "PARSL_GLOBUS_HOME": str(self.home),
            # Killed workers leave their temporary files behind.
            "TMPDIR": str(self._temporary_dir()),
            # Parsl's processes give themselves names, where setproctitle is installed, and a name is written over the
            # environment by which `processes` finds them, unless this is set.
            "SPT_NOENV": "1",
        }

    def _temporary_dir(self) -> Path:
        if self._temporary is None:
            inside = self.home / "tmp"
            if len(os.fsencode(inside)) <= _TEMPORARY_PATH_BYTES:
                self._temporary = inside
            else:
                self._temporary = Path(tempfile.mkdtemp(prefix="parsl-globus-"))
        self._temporary.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self._temporary

    @property
    def url(self) -> str:
        """Base URL of the service.

        Raises:
            ServiceUnreachable: It was not started.
        """
        if self._record is None:
            raise ServiceUnreachable(url=None)
        return str(self._record["url"])

    @property
    def amqp_port(self) -> int:
        """Port of the service's broker; see `url`."""
        if self._record is None:
            raise ServiceUnreachable(url=None)
        return int(self._record["amqp_port"])

    def client(self) -> Client:
        """The public SDK's client, logged in at this site.

        Raises:
            ServiceUnreachable: The service was not started, or doesn't answer.
        """
        from parsl_globus.client.connect import connect
        from parsl_globus.client.home import Credentials

        known = _read_json(self.home / "credentials.json") or {}
        return connect(self.url, credentials=Credentials(**known[self.url]))

    @property
    def service_pid(self) -> int | None:
        """The service's process, while it runs."""
        return self._service.pid if self._service is not None and self._service.poll() is None else None

    def start_service(
        self, *options: str, port: int = 0, amqp_port: int = 0, public_only: bool = False, timeout_s: float = 30.0
    ) -> None:
        """Start the service and wait until it answers.

        Args:
            options: More options of `parsl-globus service run`.
            port: Of the REST interface; 0 takes a free one.
            amqp_port: Of the broker; 0 takes a free one.
            public_only: Switch our protocol extensions off.
            timeout_s: How long it may take, in seconds.

        Raises:
            ServiceUnreachable: It ended, or took too long; the message has its last words.
        """
        command = ["service", "run", "--port", str(port), "--amqp-port", str(amqp_port), *options]
        if public_only:
            command.append("--public-only")
        self.home.mkdir(parents=True, exist_ok=True)
        log = self.home / "service.log"
        with log.open("ab") as stream:
            self._service = subprocess.Popen(
                self._command(command),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,  # a Ctrl-C in the terminal is for the caller, which ends all in order
            )
        began = time.monotonic()
        while self._service.poll() is None and time.monotonic() < began + timeout_s:
            record = _read_json(self.home / "service.json")
            if record is not None and record.get("pid") == self._service.pid:
                self._record = record
                return
            time.sleep(_LOOK_PERIOD_S)
        raise ServiceUnreachable(url=None, after_s=time.monotonic() - began, detail=_last_words(log))

    def stop_service(self, *, kill: bool = False, timeout_s: float = 10.0) -> None:
        """End the service, with `kill` at once and without a chance to tidy up."""
        if self._service is None:
            return
        if self._service.poll() is None:
            if kill:
                self._service.kill()
            else:
                self._service.terminate()
        try:
            self._service.wait(timeout_s)
        except subprocess.TimeoutExpired:
            logger.warning("The service did not end within %.0f s; it is killed", timeout_s)
            self._service.kill()
            self._service.wait()
        self._service = None

    def start_endpoint(
        self, name: str, config: str | None = None, *, workers: int = 2, timeout_s: float = 60.0
    ) -> uuid.UUID:
        """Configure an endpoint unless it is, start it, and wait until it is registered.

        Args:
            name: Its name.
            config: Its `config.yaml`; `None` runs tasks on this machine.
            workers: How many workers, when `config` is `None`.
            timeout_s: How long it may take, in seconds.

        Raises:
            EndpointStartFailed: It could not be configured or started; the message has the command's words.
        """
        if not (self.home / "endpoints" / name).exists():
            source = self.home / f"{name}.yaml"
            source.parent.mkdir(parents=True, exist_ok=True)
            source.write_text(config or LOCAL_ENDPOINT.format(name=name, workers=workers))
            self.run("endpoint", "configure", name, "--config", str(source), timeout_s=timeout_s)
            source.unlink()
        self.run("endpoint", "start", name, timeout_s=timeout_s)
        return self.endpoint_id(name)

    def endpoint_id(self, name: str) -> uuid.UUID:
        """The id of an endpoint of this site.

        Raises:
            EndpointStartFailed: There is none of this name, or it was never registered.
        """
        for entry in json.loads(self.run("endpoint", "list", "--json")):
            if entry["name"] == name and entry["endpoint_id"]:
                return uuid.UUID(entry["endpoint_id"])
        raise EndpointStartFailed(endpoint_id=None, detail=f"'{name}' is not registered")

    def stop_endpoint(self, name: str, *, timeout_s: float = 60.0) -> None:
        """Stop an endpoint with all that belongs to it."""
        self.run("endpoint", "stop", name, timeout_s=timeout_s)

    def run(self, *arguments: str, timeout_s: float = 60.0) -> str:
        """Run a command of `parsl-globus` in this site.

        Returns:
            What it printed.

        Raises:
            EndpointStartFailed: It failed or took too long; the message has its words.
        """
        try:
            done = subprocess.run(
                self._command(arguments),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired as exc:
            detail = f"'parsl-globus {' '.join(arguments)}' took more than {timeout_s:.0f} s"
            raise EndpointStartFailed(endpoint_id=None, detail=detail) from exc
        if done.returncode != 0:
            said = done.stderr.strip() or done.stdout.strip()
            raise EndpointStartFailed(endpoint_id=None, detail=said.removeprefix("parsl-globus: "))
        return done.stdout

    def _command(self, arguments: Sequence[str]) -> list[str]:
        return self._wrap([sys.executable, "-m", "parsl_globus.cli", *arguments])

    def stop(self, timeout_s: float = 30.0) -> None:
        """End everything, however far it came. Calling it twice is harmless."""
        for folder in sorted((self.home / "endpoints").glob("*/")):
            self._stop_surely(folder.name, timeout_s)
        self.stop_service()
        self._record = None
        self._end_left()
        if self._temporary is not None and not self._temporary.is_relative_to(self.home):
            shutil.rmtree(self._temporary, ignore_errors=True)
        self._temporary = None

    def _stop_surely(self, name: str, timeout_s: float) -> None:
        try:
            self.stop_endpoint(name, timeout_s=timeout_s)
        except (EndpointStartFailed, ConfigError) as exc:
            # A Ctrl-C meets also a process that is just being started, and is not in a session of its own yet.
            logger.info("Endpoint %s did not stop at once: %s", name, exc)
            try:
                self.stop_endpoint(name, timeout_s=timeout_s)
            except (EndpointStartFailed, ConfigError) as again:
                logger.warning("Endpoint %s did not stop in order: %s", name, again)

    def _end_left(self) -> None:
        """End what is in no endpoint's care yet or any more; what it starts meanwhile counts too."""
        left = self.processes()
        ids = {process.pid for process in left}
        # Each knows best how to end its own children.
        tops = [process for process in left if _parent(process) not in ids]
        for process in tops:
            _signal(process, signal.SIGTERM)
        psutil.wait_procs(tops, timeout=_END_S)
        for _ in range(5):
            left = self.processes()
            if not left:
                return
            for process in left:
                logger.warning("Process %d (%s) is left; it is killed", process.pid, _command_of(process))
                _signal(process, signal.SIGKILL)
            psutil.wait_procs(left, timeout=5)

    def processes(self) -> list[psutil.Process]:
        """Every process that belongs to this site: they inherit its home folder in their environment."""
        found = []
        for process in psutil.process_iter():
            if process.pid == os.getpid():
                continue
            try:
                if process.environ().get("PARSL_GLOBUS_HOME") == str(self.home):
                    found.append(process)
            except (psutil.Error, OSError):
                continue  # it ended, or is another user's
        return found


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return None  # not there yet
    return record if isinstance(record, dict) else None


def _last_words(log: Path) -> str:
    try:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        lines = []
    return lines[-1] if lines else "it said nothing"


def _parent(process: psutil.Process) -> int | None:
    try:
        return int(process.ppid())
    except psutil.NoSuchProcess:
        return None


def _command_of(process: psutil.Process) -> str:
    try:
        return shlex.join(process.cmdline()) or process.name()
    except psutil.Error:
        return "which has ended meanwhile"


def _signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        pass
