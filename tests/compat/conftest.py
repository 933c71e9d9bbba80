"""Our service at port 5000 of a namespace of its own, and public peers there."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from lab import lab_options
from netns import NetworkNamespace, why_not
from public_agent import PublicAgent
from servers import require

from parsl_globus.testing.site import LocalSite

CLIENTS = Path(__file__).parent / "clients"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Stages one after another, as each takes a while to set up, in whatever order their tests are."""
    places = [place for place, item in enumerate(items) if _stage_of(item)]
    ordered = sorted((items[place] for place in places), key=_stage_of)
    for place, item in zip(places, ordered, strict=True):
        items[place] = item


def _stage_of(item):
    return item.callspec.params.get("stage", "") if hasattr(item, "callspec") else ""


@dataclass
class Stage:
    """The namespace with our service.

    Attributes:
        site: The service and our endpoints.
        env: What `eval "$(parsl-globus service env)"` adds, over a clean environment.
        folder: For whatever a client writes.
        public_only: Whether our protocol extensions are off.
    """

    namespace: NetworkNamespace
    site: LocalSite
    env: dict[str, str] = field(repr=False)
    folder: Path
    public_only: bool

    def client(
        self, script: str, *arguments: object, env: Mapping[str, str] | None = None, timeout_s: float = 150.0
    ) -> dict:
        """Run a client program of `clients/`, with `env` in addition; what it printed as JSON on its last line."""
        command = [sys.executable, CLIENTS / script, *map(str, arguments)]
        env = {**self.env, **(env or {})}
        return json.loads(self.namespace.run(command, env=env, cwd=self.folder, timeout_s=timeout_s).splitlines()[-1])


@pytest.fixture(scope="session", params=["extensions", "public-only", "lab"])
def stage(request, tmp_path_factory):
    """The service: our protocol extensions on, off, and on with a lab's servers: RabbitMQ and PostgreSQL."""
    require(why_not())
    folder = tmp_path_factory.mktemp("compat")
    with ExitStack() as stack:
        namespace = NetworkNamespace()
        stack.callback(namespace.close)
        options: Sequence[str] = ()
        if request.param == "lab":
            (folder / "rabbitmq").mkdir()
            servers = request.getfixturevalue("postgres"), request.getfixturevalue("migrated_database")
            options = stack.enter_context(
                lab_options(folder / "rabbitmq", folder / "home", namespace, *servers, "http://127.0.0.1:5000")
            )
        with LocalSite(folder / "home", wrap=namespace.command) as site:
            public_only = request.param == "public-only"
            site.start_service(*options, port=5000, amqp_port=0 if options else 5672, public_only=public_only)
            exports = re.findall(r"^export (\w+)=(.*)$", site.run("service", "env"), re.MULTILINE)
            env = {**site.environment, "HOME": str(folder / "user")}
            env |= {name: shlex.split(value)[0] for name, value in exports}
            (folder / "user").mkdir()
            yield Stage(namespace, site, env, folder, public_only)
        assert site.processes() == []


@pytest.fixture(scope="session")
def our_agent(stage):
    return stage.site.start_endpoint("ours")


@pytest.fixture(scope="session")
def public_agent(stage):
    agent = PublicAgent(stage.namespace, stage.folder / "peer", stage.env)
    try:
        yield agent.start()
    finally:
        agent.stop()


@pytest.fixture(params=["our_agent", "public_agent"])
def endpoint_id(request):
    return request.getfixturevalue(request.param)
