"""Every pair of {public SDK, Parsl's executor, ours} and {our agent, the public agent}, over our service."""

from __future__ import annotations

import pytest


def test_the_public_sdk(stage, endpoint_id):
    found = stage.client("sdk_executor.py", endpoint_id)
    assert found["sum"] == 42
    assert "ValueError: on purpose" in found["failure"]
    assert found["doubled"] == [2 * i for i in range(200)]
    assert found["batch"] == [0, 2, 4]
    assert found["task"] == 2
    assert found["status"] == "online"
    assert found["reloaded"] == 202


@pytest.mark.parametrize("which", ["parsl", "ours"])
def test_a_parsl_workflow(stage, endpoint_id, which):
    found = stage.client("parsl_workflow.py", which, endpoint_id)
    assert found == {
        "chain": 10,
        "join": 42,
        "told": ["registered" if which == "ours" else "app", [1, 2]],
        "many": sum(range(1, 101)),
        "failure": "KeyError('on purpose')",
        "exit_code": 0,
    }
