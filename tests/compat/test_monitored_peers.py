"""Parsl's monitoring with our agent and with the public one, with our protocol extensions and without."""

from __future__ import annotations

import platform

import psutil
import pytest

WENT_WELL = ["pending", "launched", "running", "running_ended", "exec_done"]


@pytest.mark.parametrize(
    ("stage", "endpoint_id"),
    [("extensions", "public_agent"), ("public-only", "public_agent"), ("public-only", "our_agent")],
    indirect=True,
)
def test_monitoring(stage, endpoint_id, tmp_path):
    found = stage.client("monitored_workflow.py", endpoint_id, tmp_path / "runinfo")
    assert found["total"] == sum(range(1, 21))
    assert found["error"] == "KeyError('on purpose')"
    assert found["held"] == WENT_WELL
    assert found["many"] == [WENT_WELL]
    assert found["failed"] == [*WENT_WELL[:4], "fail_retryable", *WENT_WELL[:4], "failed"]
    assert found["samples"] >= 2
    assert found["peak"] > 200 * 2**20
    assert {(row["hostname"], row["block_id"]) for row in found["tries"]} == {(platform.node(), "0")}
    assert {(row["hostname"], row["block_id"], row["worker_count"]) for row in found["nodes"]} == {
        (platform.node(), "0", 2)
    }
    assert {row["total_memory"] for row in found["nodes"]} == {psutil.virtual_memory().total}
    assert {row["block_id"] for row in found["blocks"]} == {"0"}
    assert found["blocks"][-1]["status"] == "RUNNING"
