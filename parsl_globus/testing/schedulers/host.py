"""A separate host on this machine: a network, a host name and a hosts file of its own."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from parsl_globus.errors import SchedulerError
from parsl_globus.testing.schedulers.programs import run, why_not

#: Hosts' networks are 10.77.INDEX.0/24.
_NETWORK = "10.77"
_MAX_INDEX = 254
#: What still runs at the end has this long to end by itself, in seconds.
_END_S = 5.0

#: `ip netns exec` would do, but it mounts a fresh /sys and hides the cgroups with it.
#: $0 is the folder with the host's files, $1 its name.
_ENTER = (
    'mount --bind "$0/hosts" /etc/hosts && mount --bind "$0/resolv.conf" /etc/resolv.conf && hostname "$1" '
    '&& shift && exec "$@"'
)
#: No name server is reachable, and without one here, each unknown name would be waited for.
_NO_NAME_SERVER = "# only the hosts file\n"

#: New connections from outside are answered with a reset, as a closed port's are.
_CLOSED = """\
table inet closed {{
    chain input {{
        type filter hook input priority 0; policy accept;
        iifname "{interface}" tcp flags & (syn | ack) == syn counter reject with tcp reset
    }}
}}
"""


class Host:
    """Processes started by it are on another host, as far as the network can tell; files, users and pids are shared.

    The host has one network, whose only other member is this machine, which can play the service in between. Two
    hosts don't reach one another. TCP connections into the host are refused, unless it is `open`; on the host itself
    every address works.

    Example::

        with Host("laptop") as laptop, Host("login") as login:
            subprocess.run(login.wrap(["hostname"]))  # prints: login
            with LocalSite(tmp_path, wrap=login.wrap) as site: ...

    Args:
        name: Its host name.
        index: The third number of its address, and of the interface on this machine; `None` takes a free one.
        interface: Its network interface.
        open: Whether it accepts connections.

    Attributes:
        address: Its own address.
        gateway: This machine's address, as the host sees it; its hosts file also calls it `service`.
    """

    def __init__(self, name: str, index: int | None = None, *, interface: str = "bond0", open: bool = False) -> None:
        self.name = name
        self.interface = interface
        self._index = index
        self._open = open
        self._namespace = ""
        self._folder: Path | None = None
        self._stack = ExitStack()
        self.address = ""
        self.gateway = ""

    def __enter__(self) -> Host:
        missing = why_not("iproute2", "nftables", "util-linux")
        if missing is not None:
            raise SchedulerError(what=f"host {self.name}", detail=missing)
        with ExitStack() as stack:
            self._make(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _exc: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def wrap(self, command: Sequence[str]) -> list[str]:
        """`command` as one that runs on the host; it replaces itself, so the process id stays."""
        enter = ["nsenter", f"--net=/run/netns/{self._namespace}", "unshare", "--uts", "--mount"]
        return [*enter, "sh", "-c", _ENTER, str(self._folder), self.name, *command]

    def _make(self, stack: ExitStack) -> None:
        index, outer = self._link()
        stack.callback(_quietly, "ip", "link", "del", outer)
        self._namespace = f"host-{index}-{self.name}"
        self.address, self.gateway = f"{_NETWORK}.{index}.2", f"{_NETWORK}.{index}.1"
        run(["ip", "netns", "add", self._namespace])
        stack.callback(_quietly, "ip", "netns", "del", self._namespace)
        stack.callback(self._end_processes)
        inside = ["ip", "-n", self._namespace]
        run(["ip", "link", "set", f"vp-{index}", "netns", self._namespace, "name", self.interface])
        run(["ip", "addr", "add", f"{self.gateway}/24", "dev", outer])
        run(["ip", "link", "set", outer, "up"])
        run([*inside, "link", "set", "lo", "up"])
        run([*inside, "addr", "add", f"{self.address}/24", "dev", self.interface])
        run([*inside, "link", "set", self.interface, "up"])
        run([*inside, "route", "add", "default", "via", self.gateway])
        if not self._open:
            rules = _CLOSED.format(interface=self.interface)
            run(["ip", "netns", "exec", self._namespace, "nft", "-f", "-"], given=rules)
        self._folder = Path(tempfile.mkdtemp(prefix="host-"))
        stack.callback(shutil.rmtree, self._folder)
        lines = ("127.0.0.1 localhost", f"{self.address} {self.name}", f"{self.gateway} service")
        (self._folder / "hosts").write_text("\n".join(lines) + "\n")
        (self._folder / "resolv.conf").write_text(_NO_NAME_SERVER)

    def _link(self) -> tuple[int, str]:
        """Make the pair of interfaces; the kernel decides who gets an index."""
        wanted = [self._index] if self._index is not None else range(1, _MAX_INDEX + 1)
        detail = "all are taken"
        for index in wanted:
            try:
                run(["ip", "link", "add", f"vh-{index}", "type", "veth", "peer", "name", f"vp-{index}"])
            except SchedulerError as exc:
                detail = exc.detail
                if "File exists" not in detail:
                    break
            else:
                return index, f"vh-{index}"
        raise SchedulerError(what=f"network of host {self.name}", detail=detail)

    def _end_processes(self) -> None:
        """End what still runs there: nothing can reach it any more."""
        for signal in ("-TERM", "-KILL"):
            deadline = time.monotonic() + _END_S
            pids = self._processes()
            if pids:
                _quietly("kill", signal, *pids)
            while self._processes() and time.monotonic() < deadline:
                time.sleep(0.02)

    def _processes(self) -> list[str]:
        return run(["ip", "netns", "pids", self._namespace]).split()


def _quietly(*command: str) -> None:
    """Run a command of the end, where what it is for may be gone already."""
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
