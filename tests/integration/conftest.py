"""A site whose service speaks our extensions, and one whose service speaks the public protocol only."""

from __future__ import annotations

import parsl
import pytest
from parsl import Config

from parsl_globus import GlobusComputeExecutor
from parsl_globus.testing.site import LocalSite


@pytest.fixture(scope="module", params=["extensions", "public-only"])
def site(request, tmp_path_factory):
    with LocalSite(tmp_path_factory.mktemp("site")) as site:
        site.start_service(public_only=request.param == "public-only")
        yield site
    assert site.processes() == []


@pytest.fixture(scope="module")
def endpoint_id(site):
    return site.start_endpoint("here")


@pytest.fixture(scope="module")
def dfk(site, endpoint_id, tmp_path_factory):
    """Parsl with our executor, loaded."""
    executor = GlobusComputeExecutor(endpoint_id, label="globus", client=site.client())
    # Parsl leaves its log file open (ResourceWarning), so it is told to keep none.
    config = Config(executors=[executor], run_dir=str(tmp_path_factory.mktemp("runinfo")), initialize_logging=False)
    with parsl.load(config) as dfk:
        yield dfk
