"""What is made of a service's word on an endpoint."""

from __future__ import annotations

from typing import Any

import pytest

from parsl_globus.executor.endpoint_status import EndpointStatus, status_from


def ours(*user_endpoints: Any, running: int = 0, waiting: int = 0) -> dict[str, Any]:
    """As a self-hosted service tells it."""
    tasks = {"waiting": waiting, "running": running, "done": 7, "failed": 0}
    served = [{"endpoint_id": "x", "name": "x", "online": True, "report": report} for report in user_endpoints]
    return {"status": "online", "details": {"parsl_globus": {"tasks": tasks, "user_endpoints": served}}}


RUNS = {"job_id": "1", "status": "RUNNING"}
QUEUED = {"job_id": "2", "status": "PENDING"}
ENDED = {"job_id": "0", "status": "COMPLETED"}


@pytest.mark.parametrize(
    ("document", "status", "text"),
    [
        ({"status": "offline", "details": {"total_workers": 4}}, EndpointStatus("offline"), "offline"),
        ({**ours(waiting=3), "status": "offline"}, EndpointStatus("offline", 0), "offline"),
        (ours(), EndpointStatus("online", 0), "online"),
        (ours(waiting=3), EndpointStatus("starting", 0), "starting"),
        (
            ours({"total_workers": 0, "blocks": {"0": QUEUED}}, waiting=1),
            EndpointStatus("starting", 0, 0, 1, 0),
            "starting, 1 queued",
        ),
        (
            ours({"total_workers": 0, "blocks": {"0": RUNS}}, waiting=1),
            EndpointStatus("starting", 0, 1, 0, 0),
            "starting, 1 block",
        ),
        (
            ours(
                {"total_workers": 16, "blocks": {"0": ENDED, "1": RUNS, "2": QUEUED}},
                {"total_workers": 1, "blocks": {"0": RUNS}},
                running=3,
            ),
            EndpointStatus("online", 3, 2, 1, 17),
            "online, 2 blocks, 1 queued, 17 workers",
        ),
        (
            ours({"total_workers": 4, "node_info": {"12": [{"worker_count": 4}]}}),
            EndpointStatus("online", 0, 1, None, 4),
            "online, 1 block, 4 workers",
        ),
        ({"status": "online", "details": {}}, EndpointStatus("online"), "online"),
        (
            {"status": "online", "details": {"total_workers": 1, "node_info": {}, "managers": 0}},
            EndpointStatus("online", None, 0, None, 1),
            "online, 1 worker",
        ),
    ],
)
def test_word_blocks_and_workers(document: Any, status: EndpointStatus, text: str) -> None:
    assert status_from(document) == status
    assert str(status) == text


@pytest.mark.parametrize(
    "details",
    [
        None,
        "nothing",
        {"parsl_globus": None},
        {"parsl_globus": {"tasks": 3, "user_endpoints": {"a": 1}}},
        {"parsl_globus": {"tasks": {"running": "many"}, "user_endpoints": [None, {"online": True, "report": 4}]}},
        {"total_workers": "4", "blocks": 7, "node_info": []},
    ],
)
def test_a_report_may_hold_anything(details: Any) -> None:
    status = status_from({"status": "online", "details": details})
    assert (status.word, status.running, status.workers) == ("online", None, None)
