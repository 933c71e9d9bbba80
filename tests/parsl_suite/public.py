"""A place where the public agent serves: our service at port 5000 of a namespace of its own; it knows no other.

The workflow has to run in there, too, to reach the service.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from parsl_globus.testing.site import LocalSite

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from netns import NetworkNamespace, why_not
from public_agent import PublicAgent

__all__ = ("public_endpoint", "why_not")


@contextmanager
def public_endpoint() -> Iterator[tuple[Callable[[list[str]], list[str]], dict[str, str]]]:
    """A service and an endpoint of `globus-compute-endpoint`, unmodified.

    Yields:
        What turns a command into one that runs in the namespace, and the variables by which `config.py` finds both.
    """
    home = Path(tempfile.mkdtemp(prefix="parsl-globus-suite-"))
    namespace = NetworkNamespace()
    try:
        with LocalSite(home / "site", wrap=namespace.command) as site:
            site.start_service(port=5000, amqp_port=5672)
            exports = re.findall(r"^export (\w+)=(.*)$", site.run("service", "env"), re.MULTILINE)
            known = {name: shlex.split(value)[0] for name, value in exports}
            agent = PublicAgent(namespace, home / "peer", {**site.environment, **known})
            try:
                endpoint_id = agent.start()
                found = {"PARSL_GLOBUS_HOME": str(site.home), "PARSL_GLOBUS_SUITE_ENDPOINT": str(endpoint_id)}
                yield namespace.command, {**known, **found}
            finally:
                agent.stop()
    finally:
        namespace.close()
        shutil.rmtree(home, ignore_errors=True)
