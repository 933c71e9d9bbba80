"""What the view of a running workflow knows of an endpoint."""

from __future__ import annotations

import io
import time

from parsl import python_app

from parsl_globus import progress

DEADLINE_S = 60


@python_app
def hold(path):
    import os
    import time

    while not os.path.exists(path):
        time.sleep(0.05)


def wait_for(what):
    deadline = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_running_tasks_are_told_where_the_service_tells(dfk, request, tmp_path):
    executor = dfk.executors["globus"]
    said = io.StringIO()
    with progress(interval_s=0.2, stream=said):
        futures = [hold(str(tmp_path / "go")) for _ in range(5)]
        if "public-only" in request.node.name:
            wait_for(lambda: "globus: 0 waiting, <=5 running, 0 done, 0 failed; online" in said.getvalue())
            assert executor.running_tasks() is None
        else:
            wait_for(
                lambda: "globus: 3 waiting, 2 running, 0 done, 0 failed; online, 1 block, 2 workers" in said.getvalue()
            )
        (tmp_path / "go").touch()
        assert [future.result(DEADLINE_S) for future in futures] == [None] * 5
    assert "globus: 0 waiting, 0 running, 5 done, 0 failed, " in said.getvalue().splitlines()[-1]
