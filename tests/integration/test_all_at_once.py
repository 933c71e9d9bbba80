"""Values by reference, a journal and monitoring in one workflow; its results stay in the service for the next run."""

from __future__ import annotations

import all_at_once
import pytest

from parsl_globus.testing.site import LocalSite


@pytest.fixture
def site(tmp_path):
    with LocalSite(tmp_path / "site") as site:
        site.start_service()
        yield site
    assert site.processes() == []


def test_nothing_runs_twice_and_all_is_told(site, tmp_path):
    folder = tmp_path / "workflow"
    folder.mkdir()
    all_at_once.check(site.client(), site.start_endpoint("here"), folder)
