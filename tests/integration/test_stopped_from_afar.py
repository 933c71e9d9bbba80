"""An endpoint that its owner stops, or deletes, through the service ends by itself."""

from __future__ import annotations

import json
import threading
import time

import pytest
from tcp_proxy import TcpProxy

from parsl_globus import connect
from parsl_globus.errors import EndpointStartFailed
from parsl_globus.testing.site import LocalSite

CONFIG = """\
heartbeat_period: 1
engine:
  type: ThreadPoolEngine
"""
DEADLINE_S = 60.0


@pytest.fixture
def site(tmp_path, monkeypatch):
    with LocalSite(tmp_path / "home") as site:
        monkeypatch.setenv("PARSL_GLOBUS_HOME", str(site.home))
        site.start_service()
        yield site
    assert site.processes() == []


def wait_until_it_has_ended(site):
    deadline = time.monotonic() + DEADLINE_S
    while [process for process in site.processes() if process.pid != site.service_pid]:
        assert time.monotonic() < deadline, "it did not end"
        threading.Event().wait(0.05)
    assert [row["status"] for row in json.loads(site.run("endpoint", "list", "--json"))] == ["stopped"]


def manager_log(site):
    return (site.home / "endpoints" / "site" / "endpoint.log").read_text()


def test_it_ends_when_stopped_and_can_not_come_back_at_once(site):
    endpoint_id = site.start_endpoint("site", CONFIG)
    client = connect(site.url)
    function_id = client.register_function(abs)
    client.run(-1, endpoint_id=endpoint_id, function_id=function_id)  # it has a user endpoint, too
    assert client.stop_endpoint(endpoint_id)["endpoint_id"] == str(endpoint_id)
    wait_until_it_has_ended(site)
    assert "ENDPOINT_LOCKED" in manager_log(site)
    with pytest.raises(EndpointStartFailed, match="was stopped through this service"):
        site.run("endpoint", "start", "site")


def test_it_ends_when_the_service_was_started_anew_before_it_heard(site):
    ports = {"port": int(site.url.rpartition(":")[2]), "amqp_port": site.amqp_port}
    with TcpProxy(site.amqp_port) as network:
        endpoint_id = site.start_endpoint("site", f"amqp_port: {network.port}\n{CONFIG}")
        network.cut()
        connect(site.url).stop_endpoint(endpoint_id)
        site.stop_service()
        site.start_service(**ports)
        network.mend()
        wait_until_it_has_ended(site)
    assert "ENDPOINT_LOCKED" in manager_log(site)


def test_it_ends_when_deleted_and_is_not_registered_anew_by_that(site):
    endpoint_id = site.start_endpoint("site", CONFIG)
    client = connect(site.url)
    client.delete_endpoint(endpoint_id)
    wait_until_it_has_ended(site)
    assert "ENDPOINT_NOT_FOUND" in manager_log(site)
    assert client.get_endpoints() == []
    assert site.start_endpoint("site") == endpoint_id
