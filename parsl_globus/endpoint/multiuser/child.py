"""A user endpoint as its manager sees it: started with its secrets on a pipe, stopped, and cleaned up after."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parsl_globus.client.home import read_json, write_private
from parsl_globus.client.trust import AMQP_CA_VARIABLE, CA_VARIABLE
from parsl_globus.endpoint.folder import ACCOUNT_RECORD
from parsl_globus.endpoint.multiuser import spawn
from parsl_globus.endpoint.multiuser.identity import Account, Mapped
from parsl_globus.endpoint.processes import end_marked, tree_environment, tree_mark
from parsl_globus.endpoint.spool import discard_tasks
from parsl_globus.errors import EndpointStartFailed
from parsl_globus.wire.documents import AgentCredentials, StartArguments

logger = logging.getLogger(__name__)

_MODULE = "parsl_globus.endpoint.user_endpoint"
#: The module without the current folder in the import path: that is the account's home, with any files in it.
_AWAY_FROM_HOME = f"import sys; sys.path[:] = filter(None, sys.path); from {_MODULE} import main; main()"
#: Below the home of an account.
FOLDER = ".parsl_globus/user_endpoints"
#: How much of the start document fits into the pipe, which nobody reads until the process runs.
_PIPE_BYTES = 1 << 20
_LAST_WORDS_BYTES = 4096
_TRUST_VARIABLES = (CA_VARIABLE, AMQP_CA_VARIABLE, "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")


class Child:
    """A running user endpoint.

    Args:
        directory: The endpoint's folder; the user endpoint's is below it, or in the account's home.
        start: From the start command.
        config: Its configuration text, or what it makes that from.
        config_file: Told in errors.
        environment: Additional environment variables.
        debug: Whether it logs every detail.
        amqp_port: Port of the broker in place of the credentials', or `None`.
        mapped: As whom it runs; `None` for the manager's own account.

    Raises:
        EndpointStartFailed: Its folder can't be made, or the process not be started.
    """

    def __init__(
        self,
        directory: Path,
        start: StartArguments,
        config: str | Mapping[str, Any],
        *,
        config_file: str,
        environment: Mapping[str, str],
        debug: bool = False,
        amqp_port: int | None = None,
        mapped: Mapped | None = None,
    ) -> None:
        self.start = start
        self.name = start.name
        self.mapped = mapped
        self.account = account = mapped.account if mapped is not None else None
        self.repeated_at_s: float | None = None
        self._mark = tree_mark(directory, start.name)
        self._record = directory / start.name / ACCOUNT_RECORD
        folder = directory / start.name if account is None else account.home / FOLDER / start.name
        self.log = folder / spawn.LOG
        document = {
            **({"config": config} if isinstance(config, str) else config),
            "config_file": config_file,
            "directory": str(folder),
            "credentials": start.amqp_creds.model_dump(mode="json"),
            "debug": debug,
            "amqp_port": amqp_port,
        }
        self._early: int | None = None
        try:
            if account is None:
                self._process = self._start_here(environment)
            else:
                document["discard"] = self._note(account)
                self._process = self._start_as(account, environment)
        except OSError as exc:
            self.forget()
            raise EndpointStartFailed(endpoint_id=str(self.endpoint_id), detail=str(exc)) from exc
        if not self._send(document):
            self._process.kill()  # its end is the manager's to see
            self.forget()
            self._close_stdin()
            raise EndpointStartFailed(endpoint_id=str(self.endpoint_id), detail="its configuration is too large")

    def _start_here(self, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        self.log.parent.mkdir(exist_ok=True, mode=0o700)
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", _MODULE],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self.log.parent,
                env={
                    **os.environ,
                    "PATH": _path(os.environ.get("PATH", os.defpath)),
                    **environment,
                    **tree_environment(self._mark),
                },
                start_new_session=True,  # a Ctrl-C in the terminal is for the manager, which ends all in order
            )

    def _start_as(self, account: Account, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        # What it says before it is the account and has a log there.
        self._early = os.memfd_create("start")
        become = [sys.executable, "-I", "-S", spawn.__file__, account.name, str(account.uid), f"{FOLDER}/{self.name}"]
        process = subprocess.Popen(
            [*become, sys.executable, "-c", _AWAY_FROM_HOME],
            stdin=subprocess.PIPE,
            stdout=self._early,
            stderr=self._early,
            cwd="/",
            env={**_clean_environment(), **environment, **account.environment(), **tree_environment(self._mark)},
            start_new_session=True,
        )
        assert process.stdin is not None
        # Whoever doesn't read must not keep the manager waiting, and all others with it.
        os.set_blocking(process.stdin.fileno(), False)
        try:
            fcntl.fcntl(process.stdin, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        except PermissionError:
            logger.debug("A pipe can't be made larger here")
        return process

    @property
    def endpoint_id(self) -> uuid.UUID:
        """The user endpoint's id."""
        return self.start.amqp_creds.endpoint_id

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def renew(self, credentials: AgentCredentials) -> None:
        """Note that it was asked for again while it runs, and pass on credentials if they are new."""
        self.repeated_at_s = time.monotonic()
        if credentials != self.start.amqp_creds:
            self.start = self.start.model_copy(update={"amqp_creds": credentials})
            if not self._send(credentials.model_dump(mode="json")):
                logger.error("%s does not read what it is told; it is killed", self.name)
                self._process.kill()

    def stop(self) -> None:
        """Ask it to end."""
        self._process.terminate()

    def ended(self, code: int) -> None:
        """Clean up after it: nothing that it started may outlive it."""
        self._process.returncode = code  # the manager reaps all its children itself
        self._close_stdin()
        count = end_marked(self._mark, grace_s=1.0)
        if count:
            logger.info("%s left %d processes, which were ended", self.name, count)

    def last_words(self) -> str:
        """The last line of its log, or what kept it from having one."""
        lines = (_early_words(self._early) or _tail(self.log, self.account)).strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def forget(self) -> None:
        """Close what is kept of it."""
        if self._early is not None:
            os.close(self._early)
            self._early = None

    def _note(self, account: Account) -> str | None:
        """Remember in the manager's folder where it runs; what tasks it is to forget, see `discard`."""
        known = read_json(self._record) or {}
        told = known.get("discard") if known.get("uid") == account.uid else None
        record = {"account": account.name, "uid": account.uid, "log": str(self.log), "discard": told}
        write_private(self._record, record)
        return told

    def _send(self, document: Mapping[str, object]) -> bool:
        """Write to it; whether there was room. A line of the size of credentials gets in as a whole or not at all."""
        stream = self._process.stdin
        assert stream is not None
        text = json.dumps(document).encode() + b"\n"
        try:
            if self.account is not None:
                return os.write(stream.fileno(), text) == len(text)
            stream.write(text)
            stream.flush()
        except BlockingIOError:
            return False
        except OSError:
            logger.warning("%s ended before it read what it was told", self.name)
        return True

    def _close_stdin(self) -> None:
        stream = self._process.stdin
        assert stream is not None
        try:
            stream.close()
        except OSError:
            pass  # what was not read is lost with its reader


def discard(directory: Path, name: str) -> None:
    """Have the user endpoint `name` forget its tasks: the service is told that they have failed.

    Args:
        directory: The endpoint's folder.
        name: The user endpoint's.
    """
    record = directory / name / ACCOUNT_RECORD
    known = read_json(record)
    if known is None:
        discard_tasks(directory / name)
    else:
        # Its files are another account's; it does so itself at its next start, once.
        write_private(record, {**known, "discard": str(uuid.uuid4())})


def _clean_environment() -> dict[str, str]:
    """What a mapped user endpoint gets of the manager's environment: nothing but which certificates to trust."""
    kept = {name: os.environ[name] for name in _TRUST_VARIABLES if name in os.environ}
    return {**kept, "PATH": _path("/usr/local/bin:/usr/bin:/bin")}


def _path(path: str) -> str:
    """PATH with the programs of this installation after all others: Parsl starts its own by name."""
    own = str(Path(sys.executable).parent)
    return path if own in path.split(os.pathsep) else f"{path}{os.pathsep}{own}"


def _early_words(early: int | None) -> str:
    return os.pread(early, _LAST_WORDS_BYTES, 0).decode(errors="replace") if early is not None else ""


def _tail(log: Path, account: Account | None) -> str:
    """The end of a log. One in another account's home may be anything: only what is that account's own is read."""
    try:
        handle = os.open(log, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode) or (account is not None and status.st_uid != account.uid):
                return ""
            text = os.pread(handle, _LAST_WORDS_BYTES, max(0, status.st_size - _LAST_WORDS_BYTES))
        finally:
            os.close(handle)
    except OSError:
        return ""
    return text.decode(errors="replace")
