"""A site whose parts are killed at the wrong moment and brought back."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from globus_compute_sdk import Client
from tcp_proxy import TcpProxy

from parsl_globus import connect
from parsl_globus.client.home import Credentials
from parsl_globus.testing.site import LOCAL_ENDPOINT, LocalSite

WORKERS = 3
NAME = "here"
#: As LOCAL_ENDPOINT, but the loss of a pool of workers is noticed soon.
CONFIG = LOCAL_ENDPOINT.format(name=NAME, workers=WORKERS).replace(
    "  provider:", "  heartbeat_period: 1\n  heartbeat_threshold: 3\n  provider:"
)


def outage_s(usual_s: float) -> float:
    """How long something is to be away, in seconds: `PARSL_GLOBUS_TEST_OUTAGE_S`, else so long."""
    return float(os.environ.get("PARSL_GLOBUS_TEST_OUTAGE_S") or usual_s)


class Outages:
    """A site whose parts can be killed and brought back."""

    def __init__(self, site: LocalSite, *, public_only: bool) -> None:
        self.site = site
        self.public_only = public_only

    def make_whole(self) -> None:
        """Start what does not run."""
        if self.site.service_pid is None:
            self.start_service()
        if not self.runs("parsl_globus.cli", "endpoint", "run", NAME):
            self.site.start_endpoint(NAME, CONFIG)

    def start_service(self) -> None:
        """On the ports and the data that it had."""
        try:
            port, amqp_port = int(self.site.url.rpartition(":")[2]), self.site.amqp_port
        except Exception:  # noqa: BLE001 - the first time
            port = amqp_port = 0
        self.site.start_service(port=port, amqp_port=amqp_port, public_only=self.public_only)

    def credentials(self) -> Credentials:
        """The login of the site's owner, for another way to the service."""
        known = json.loads((self.site.home / "credentials.json").read_text())
        return Credentials(**known[self.site.url])

    @contextmanager
    def through_proxies(self) -> Iterator[tuple[Client, TcpProxy, TcpProxy]]:
        """A client whose ways to the service, REST and AMQP, lead through the two proxies."""
        amqp_port = self.site.amqp_port
        with TcpProxy(amqp_port) as amqp:
            # The service tells the port of its broker; on its way here it becomes the proxy's.
            swap = (f":{amqp_port}/".encode(), f":{amqp.port}/".encode())
            with TcpProxy(int(self.site.url.rpartition(":")[2]), swap=swap) as rest:
                yield connect(f"http://127.0.0.1:{rest.port}", credentials=self.credentials()), rest, amqp

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Bring the service back to what it was before, as from a backup; it runs in between."""
        data, backup = self.site.home / "service", self.site.home / "backup"
        self.site.stop_service()
        shutil.copytree(data, backup)
        self.start_service()
        yield
        self.site.stop_service()
        shutil.rmtree(data)
        backup.rename(data)
        self.start_service()

    def runs(self, *words: str) -> list[psutil.Process]:
        """The site's processes with these words in their command line."""
        found = []
        for process in self.site.processes():
            try:
                line = process.cmdline()
            except psutil.NoSuchProcess:
                continue
            if all(any(word in part for part in line) for word in words):
                found.append(process)
        return found

    def kill(self, *words: str) -> list[int]:
        """End the processes with these words in their command line, without a chance to tidy up."""
        victims = self.runs(*words)
        assert victims, f"no process has {words}"
        for victim in victims:
            victim.send_signal(signal.SIGKILL)
        return [victim.pid for victim in victims]
