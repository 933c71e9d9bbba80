"""Parsl's own tests with our executor: `pytest parsl/tests --config tests/parsl_suite/config.py`.

Without `PARSL_GLOBUS_SUITE_ENDPOINT`, a service and an endpoint are started for the session, as a user starts them.
With it, this endpoint is used, at the service that `parsl_globus.connect` finds.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from parsl.config import Config

import parsl_globus
from parsl_globus.testing.site import LocalSite

#: Set to 1 for a service without our protocol extensions.
PUBLIC_ONLY = "PARSL_GLOBUS_SUITE_PUBLIC_ONLY"
#: Set to a folder that the endpoint must not see: it gets an empty one in its place, as if it were on another machine.
HIDDEN = "PARSL_GLOBUS_SUITE_HIDDEN"


def fresh_config() -> Config:
    """What Parsl's conftest loads once for all tests."""
    endpoint = os.environ.get("PARSL_GLOBUS_SUITE_ENDPOINT")
    if endpoint is not None:
        client = parsl_globus.connect()
    else:
        site = _start_site()
        endpoint = str(site.start_endpoint("suite"))
        client = site.client()
    executor = parsl_globus.GlobusComputeExecutor(endpoint, label="globus", client=client)
    return Config(executors=[executor])


def _start_site() -> LocalSite:
    home = Path(tempfile.mkdtemp(prefix="parsl-globus-suite-"))
    site = LocalSite(home, wrap=_hide if os.environ.get(HIDDEN) else list[str])

    def stop() -> None:
        site.stop()
        left = site.processes()
        shutil.rmtree(home, ignore_errors=True)
        if left:
            os.write(2, f"parsl_suite: left behind: {left}\n".encode())
            os._exit(1)  # the exit code is what CI sees; at this time there is no other way to set it

    atexit.register(stop)
    site.start_service(public_only=os.environ.get(PUBLIC_ONLY) == "1")
    return site


def _hide(command: Sequence[str]) -> list[str]:
    """Run the command in a mount namespace of its own, with an empty file system over the hidden folder."""
    script = 'mount -t tmpfs none "$1" && shift && exec "$@"'
    # Only root may mount; others are root in a user namespace of their own.
    who = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", *who, "--mount", "sh", "-c", script, "sh", os.environ[HIDDEN], *command]
