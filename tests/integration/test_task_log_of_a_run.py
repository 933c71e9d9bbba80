"""The log of a run tells of each task which one it is for Parsl, for the service, and where it went."""

from __future__ import annotations

import re
import subprocess
import sys
import uuid
from pathlib import Path

from parsl_globus.client.rest import ServiceClient

SCRIPT = """
import sys
import parsl
from parsl import Config, python_app
from parsl_globus import GlobusComputeExecutor

@python_app
def double(x):
    return 2 * x

@python_app
def second_time(path):
    import os
    if not os.path.exists(path):
        open(path, "w").close()
        raise LookupError("the first time")

@python_app
def never():
    raise ValueError("never\\nat all")

executor = GlobusComputeExecutor(sys.argv[1], label="here")
with parsl.load(Config(executors=[executor], run_dir="runinfo", retries=1)):
    for future in [double(21), second_time(sys.argv[2]), never()]:
        future.exception()
"""
RECORD = re.compile(r" (DEBUG|INFO): here: Parsl task (\S+) try (\S+), task (\S+), endpoint (\S+): (.*)$", re.MULTILINE)
#: How each try of each task ended.
ENDS = {
    ("0", "0"): "done",
    ("1", "0"): "failed: LookupError: the first time",
    ("1", "1"): "done",
    ("2", "0"): "failed: ValueError: never",
    ("2", "1"): "failed: ValueError: never",
}


def test_success_failure_and_retry(parsl_globus_site, parsl_globus_endpoint, parsl_globus_client, tmp_path: Path):
    command = [sys.executable, "-c", SCRIPT, str(parsl_globus_endpoint), str(tmp_path / "mark")]
    subprocess.run(command, cwd=tmp_path, env=parsl_globus_site.environment, check=True, timeout=240)
    text = (tmp_path / "runinfo" / "000" / "parsl.log").read_text()
    told: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for _, task, attempt, task_id, endpoint_id, words in RECORD.findall(text):
        assert endpoint_id == str(parsl_globus_endpoint)
        if task != "-":  # the service was faster than Parsl: the record comes again
            told.setdefault((task, attempt), []).append((task_id, words))
    assert told.keys() == ENDS.keys()
    ids = {attempt: records[0][0] for attempt, records in told.items()}
    assert len(set(ids.values())) == len(ENDS)
    for attempt, records in told.items():
        assert records[0] == (ids[attempt], "submitted")
        assert records[-1] == (ids[attempt], ENDS[attempt])
        assert f"Parsl task {attempt[0]} try {attempt[1]} launched on executor here" in text
    service = ServiceClient(parsl_globus_client)
    known = service.task_statuses([uuid.UUID(task_id) for task_id in ids.values()])
    service.close()
    assert sorted(map(str, known)) == sorted(ids.values())
