"""A laptop loses its network and gets it back with tasks in flight: packets are lost, and no connection is closed."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from cluster_scene import DEADLINE_S, WORKFLOW, Workflow, wait_until
from outages import outage_s
from servers import require

from parsl_globus.testing.schedulers import Host
from parsl_globus.testing.schedulers.programs import why_not
from parsl_globus.testing.site import LocalSite

#: How long the network is away.
OUTAGE_S = outage_s(5)

#: The workflow and the endpoint's workers may start meanwhile.
START_S = 3 * DEADLINE_S


@pytest.fixture(scope="module")
def laptop():
    require(why_not("iproute2", "nftables", "util-linux"))
    with Host("laptop") as laptop:
        yield laptop


@pytest.fixture(scope="module")
def workflow(laptop, tmp_path_factory):
    """On the laptop; the service and the endpoint are on this machine."""
    folder = tmp_path_factory.mktemp("link")
    with LocalSite(folder / "site") as site:
        site.start_service("--host", "0.0.0.0", "--public-host", laptop.gateway, "--insecure")
        command = [sys.executable, str(WORKFLOW), str(site.start_endpoint("here")), str(folder / "runinfo")]
        with Workflow(laptop.wrap(command), site.environment, folder / "workflow.log") as workflow:
            yield workflow
    assert site.processes() == []


def set_interface(laptop, state):
    """The laptop's own: nothing can be sent, and programs are told so."""
    subprocess.run(laptop.wrap(["ip", "link", "set", laptop.interface, state]), check=True)


def set_cable(laptop, state):
    """The other end: what is sent is lost, and nobody is told."""
    index = laptop.address.split(".")[2]
    subprocess.run(["ip", "link", "set", f"vh-{index}", state], check=True)


@pytest.mark.parametrize("set_link", [set_interface, set_cable])
def test_the_link_goes_down_and_comes_up(laptop, workflow, tmp_path, set_link):
    release = tmp_path / "release"
    before = [workflow.submit("where") for _ in range(20)]
    assert all(future.result(START_S)["host"] for future in before)
    held = workflow.submit("hold", begun=str(tmp_path / "begun"), release=str(release))
    wait_until((tmp_path / "begun").exists, "the task begins")
    # Their results come while nobody can be told.
    soon = [workflow.submit("where", seconds=0.05) for _ in range(int(OUTAGE_S * 10))]
    soon[0].result(DEADLINE_S)
    set_link(laptop, "down")
    try:
        release.touch()
        during = [workflow.submit("where") for _ in range(20)]
        threading.Event().wait(OUTAGE_S)  # the outage itself
        assert not held.done()
        assert not any(future.done() for future in during)
    finally:
        set_link(laptop, "up")
    after = [workflow.submit("where") for _ in range(20)]
    for future in [held, *soon, *during, *after]:
        future.result(DEADLINE_S)
