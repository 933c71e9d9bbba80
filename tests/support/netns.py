"""A network namespace with a loopback interface of its own: port 5000 is the only one that public peers know."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

#: Brings `lo` up without iproute2 (netdevice(7): SIOCSIFFLAGS with IFF_UP and IFF_RUNNING), says so, then waits.
_HOLD = """
import fcntl, socket, struct, sys
with socket.socket() as s:
    fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))
print("up", flush=True)
sys.stdin.read()
"""


class NetworkNamespace:
    """Processes started by it see a loopback interface of their own, and nothing else."""

    def __init__(self) -> None:
        unshare = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-rn"]
        self._holder = subprocess.Popen(
            [*unshare, sys.executable, "-c", _HOLD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the caller, which still needs the namespace to end what runs there
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline().strip() != "up":
            self.close()
            raise OSError("the namespace could not be made")

    def command(self, arguments: Sequence[object]) -> list[str]:
        """`arguments` as a command line that runs in the namespace."""
        enter = ["nsenter", "-t", str(self._holder.pid), "-n"]
        if os.geteuid() != 0:
            enter += ["-U", "--preserve-credentials"]
        return [*enter, *map(str, arguments)]

    def run(
        self,
        arguments: Sequence[object],
        *,
        env: Mapping[str, str],
        timeout_s: float = 120.0,
        cwd: Path | None = None,
    ) -> str:
        """Run a command to its end; what it printed on stdout, or a failed test with all it said.

        Through files, since a daemon that it leaves behind may keep a pipe open.
        """
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            try:
                process = subprocess.run(
                    self.command(arguments), env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                    timeout=timeout_s,
                )  # fmt: skip
                ended = f"exited with {process.returncode}" if process.returncode else ""
            except subprocess.TimeoutExpired:
                ended = f"took more than {timeout_s} s"
            out.seek(0)
            err.seek(0)
            if ended:
                pytest.fail(f"{' '.join(map(str, arguments))} {ended}\n{out.read()}\n{err.read()}")
            return out.read()

    def close(self) -> None:
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.close()
        self._holder.wait(10)
        self._holder.stdout.close()


def why_not() -> str | None:
    """Why no namespace can be made here, or `None`."""
    for tool in ("unshare", "nsenter"):
        if shutil.which(tool) is None:
            return f"'{tool}' is not installed (Debian: util-linux)"
    try:
        NetworkNamespace().close()
    except (OSError, subprocess.SubprocessError) as exc:
        return f"no network namespace can be made here: {exc}"
    return None
