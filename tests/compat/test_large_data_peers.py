"""Large values by reference with the public agent, unmodified: this package is in its workers' Python here."""

from __future__ import annotations

import pytest

WENT_WELL = {"same": True, "missing": ["WorkerLacksModule", "no_such_package"], "left": []}


@pytest.mark.parametrize("stage", ["extensions", "public-only"], indirect=True)
def test_by_a_store_of_proxystore_s(stage, public_agent, tmp_path):
    assert stage.client("large_data.py", public_agent, tmp_path / "store") == WENT_WELL


@pytest.mark.parametrize("stage", ["extensions"], indirect=True)
def test_by_the_service(stage, public_agent):
    assert stage.client("large_data.py", public_agent, "service") == WENT_WELL


@pytest.mark.parametrize("stage", ["public-only"], indirect=True)
def test_a_service_without_blobs_is_told_at_the_start(stage, our_agent):
    assert stage.client("large_data.py", our_agent, "service") == {"extension": "blobs", "left": []}
