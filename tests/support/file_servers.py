"""Servers from which Parsl's staging providers fetch files, each the real program: HTTP, FTP, and rsync over SSH."""

from __future__ import annotations

import functools
import getpass
import http.server
import os
import random
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_READY_S = 60.0
#: Parsl takes no port from an FTP address.
_FTP_PORT = 21
_FTP_SERVER = """
import sys
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer
FTPHandler.authorizer = DummyAuthorizer()
FTPHandler.authorizer.add_anonymous(sys.argv[2])
server = FTPServer((sys.argv[1], int(sys.argv[3])), FTPHandler)
print("ready", flush=True)
server.serve_forever()
"""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_args: object) -> None:
        pass


@contextmanager
def http_server(folder: Path) -> Iterator[str]:
    """Serve a folder's files; its URL."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def why_no_ftp() -> str | None:
    """Why no FTP server can be started here, or `None`."""
    with socket.socket() as probe:
        try:
            probe.bind((_loopback_address(), _FTP_PORT))
        except OSError as exc:
            return f"port {_FTP_PORT}, the only one that Parsl knows for FTP, can't be used: {exc}"
    return None


@contextmanager
def ftp_server(folder: Path) -> Iterator[str]:
    """Serve a folder's files to anonymous users; its URL."""
    host = _loopback_address()
    with _running([sys.executable, "-c", _FTP_SERVER, host, str(folder), str(_FTP_PORT)], ready="ready"):
        yield f"ftp://{host}"


def _loopback_address() -> str:
    """One of its own: other tests may run beside this one, and the port is fixed."""
    return ".".join(["127", *(str(random.randint(2, 250)) for _ in range(3))])


def why_no_rsync() -> str | None:
    """Why files can't be copied by rsync over SSH here, or `None`."""
    missing = [name for name in ("rsync", "ssh", "ssh-keygen") if shutil.which(name) is None]
    if _sshd() is None:
        missing.append("sshd")
    return f"{', '.join(missing)} must be installed (Debian: rsync, openssh-server)" if missing else None


def _sshd() -> str | None:
    return shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")


@contextmanager
def ssh_server(folder: Path) -> Iterator[str]:
    """Let who has the key in `folder`, which is made, in as this user; the value of `RSYNC_RSH` for it."""
    folder.mkdir(mode=0o700)
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    settings = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": folder / "host",
        "AuthorizedKeysFile": folder / "user.pub",
        "StrictModes": "no",
        "UsePAM": "no",
        "PidFile": "none",
        "AllowUsers": getpass.getuser(),
        "PermitRootLogin": "prohibit-password",
    }
    (folder / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    client = ["ssh", "-F", "none", "-p", port, "-i", folder / "user", "-o", "BatchMode=yes"]
    client += ["-o", f"UserKnownHostsFile={folder / 'known_hosts'}"]
    with _privilege_separation_folder():
        with _running([str(_sshd()), "-D", "-e", "-f", str(folder / "sshd_config")], ready="listening"):
            yield shlex.join(map(str, client))


@contextmanager
def _privilege_separation_folder() -> Iterator[None]:
    """sshd insists on it when root runs it; where no sshd runs as a service, nobody has made it."""
    path = Path("/run/sshd")
    if os.geteuid() != 0 or path.exists():
        yield
        return
    path.mkdir(mode=0o755)
    try:
        yield
    finally:
        path.rmdir()


@contextmanager
def _running(command: list[str], *, ready: str) -> Iterator[None]:
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    said: list[str] = []
    is_ready = threading.Event()

    def read() -> None:
        for line in process.stdout:
            said.append(line)
            if ready in line:
                is_ready.set()
        is_ready.set()  # it has ended

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert is_ready.wait(_READY_S), f"{command[0]} was not ready in time: {''.join(said)}"
        assert process.poll() is None, f"{command[0]} ended: {''.join(said)}"
        yield
    finally:
        process.terminate()
        process.wait(_READY_S)
        reader.join(_READY_S)
        process.stdout.close()
