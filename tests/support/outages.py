"""A site whose parts are killed at the wrong moment and brought back."""

from __future__ import annotations

import json
import signal

import psutil

from parsl_globus.client.home import Credentials
from parsl_globus.testing.site import LOCAL_ENDPOINT, LocalSite

WORKERS = 3
NAME = "here"
#: As LOCAL_ENDPOINT, but the loss of a pool of workers is noticed soon.
CONFIG = LOCAL_ENDPOINT.format(name=NAME, workers=WORKERS).replace(
    "  provider:", "  heartbeat_period: 1\n  heartbeat_threshold: 3\n  provider:"
)


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
