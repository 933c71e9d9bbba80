"""A workflow with all at once: values by reference, a journal, and Parsl's monitoring."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import parsl
from monitored import rows, states
from once import wait_until
from parsl import Config, bash_app, python_app
from parsl.monitoring import MonitoringHub

from parsl_globus import GlobusComputeExecutor
from parsl_globus.errors import ExecutorShutDown

DEADLINE_S = 120
#: Larger than what goes with a task here. A text, as Parsl knows arguments again by their values and bytes by none.
LARGE = "0123456789abcdef" * 8192
THRESHOLD_BYTES = 64 * 1024


@python_app
def doubled_once(text, folder, name, gate=None):
    """Leaves a file that can be made once only, and waits for a gate."""
    import os
    import time

    try:
        os.close(os.open(f"{folder}/{name}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        os.close(os.open(f"{folder}/again-{name}-{os.getpid()}", os.O_CREAT | os.O_WRONLY, 0o600))
    while gate is not None and not os.path.exists(gate):
        time.sleep(0.02)
    return text * 2


@bash_app
def length(text, folder, stdout=None):
    return f"mkdir {folder}/bash && echo {len(text)}"


def check(client: Any, endpoint_id: Any, folder: Path) -> None:
    """Run it, end it with a task under way, and run it again: nothing runs twice, and all is in the database."""
    gate, database = folder / "gate", folder / "runinfo" / "monitoring.db"
    wanted = {"small": "ab", "large": LARGE}
    for turn in (1, 2):
        executor = GlobusComputeExecutor(
            endpoint_id,
            label="all",
            client=client,
            object_store="service",
            object_threshold_bytes=THRESHOLD_BYTES,
            journal=folder / "run.journal",
        )
        config = Config(
            executors=[executor],
            monitoring=MonitoringHub(resource_monitoring_interval=0.5),
            run_dir=str(folder / "runinfo"),
            initialize_logging=False,
        )
        with parsl.load(config) as dfk:
            told = length(LARGE, str(folder), stdout=str(folder / f"out-{turn}"))
            futures = {name: doubled_once(wanted[name], str(folder), name) for name in wanted}
            for name, future in futures.items():
                assert future.result(DEADLINE_S) == 2 * wanted[name]
            assert told.result(DEADLINE_S) == 0
            assert (folder / f"out-{turn}").read_text() == f"{len(LARGE)}\n"
            run_id, ids = dfk.run_id, {name: future.tid for name, future in futures.items()}
            held = doubled_once(LARGE, str(folder), "held", gate=str(gate))  # there may be one worker only
            if turn == 2:
                assert held.result(DEADLINE_S) == 2 * LARGE
            wait_until((folder / "held").exists, "it did not begin")
        if turn == 1:
            assert isinstance(held.exception(0), ExecutorShutDown)
            gate.touch()
            here = "run_id = ?", run_id
            for name in ("small", "large"):
                assert "running_ended" in states(database, ids[name])
            assert {row["task_id"] for row in rows(database, "resource", *here)} >= {ids["small"], ids["large"]}
    assert list(folder.glob("again-*")) == []
    (first, second) = rows(database, "workflow")
    assert (first["tasks_completed_count"], second["tasks_completed_count"]) == (3, 4)
