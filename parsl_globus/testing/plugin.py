"""pytest fixtures for whoever tests against Globus Compute without it; pytest finds them once this is installed.

The service and the endpoint start with the first test that asks for them and end with the session::

    def test_my_workflow(parsl_globus_config):
        with parsl.load(parsl_globus_config):
            assert my_app(1).result() == 2

    def test_with_the_public_sdk(parsl_globus_client, parsl_globus_endpoint):
        with Executor(endpoint_id=parsl_globus_endpoint, client=parsl_globus_client) as executor:
            assert executor.submit(abs, -1).result() == 1
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from globus_compute_sdk import Client
    from parsl import Config

    from parsl_globus.testing.site import LocalSite


@pytest.fixture(scope="session")
def parsl_globus_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSite]:
    """A running service with a home folder of its own; `start_endpoint` adds endpoints."""
    from parsl_globus.testing.site import LocalSite

    with LocalSite(tmp_path_factory.mktemp("parsl-globus")) as site:
        site.start_service()
        yield site


@pytest.fixture(scope="session")
def parsl_globus_endpoint(parsl_globus_site: LocalSite) -> uuid.UUID:
    """The id of a running endpoint with two workers on this machine."""
    return parsl_globus_site.start_endpoint("test-endpoint")


@pytest.fixture(scope="session")
def parsl_globus_client(parsl_globus_site: LocalSite) -> Client:
    """The public SDK's client, logged in at the service."""
    return parsl_globus_site.client()


@pytest.fixture
def parsl_globus_config(parsl_globus_endpoint: uuid.UUID, parsl_globus_client: Client, tmp_path: Path) -> Config:
    """A Parsl configuration whose only executor, `globus`, runs apps on the endpoint."""
    from parsl import Config

    from parsl_globus.executor.executor import GlobusComputeExecutor

    return Config(
        executors=[GlobusComputeExecutor(parsl_globus_endpoint, label="globus", client=parsl_globus_client)],
        run_dir=str(tmp_path / "runinfo"),
    )
