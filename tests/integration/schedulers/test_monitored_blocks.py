"""Parsl's monitoring tells of blocks on Slurm what they are there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from test_schedulers import on_slurm

WORKFLOW = Path(__file__).parents[2] / "compat" / "clients" / "monitored_workflow.py"


def test_blocks_and_nodes_on_slurm(scene, tmp_path):
    endpoint_id = scene.site.start_endpoint("monitored", on_slurm("monitored"))
    try:
        command = scene.laptop.wrap([sys.executable, str(WORKFLOW), str(endpoint_id), str(tmp_path / "runinfo")])
        done = subprocess.run(
            command, env=scene._laptop_site.environment, cwd=tmp_path, capture_output=True, text=True, check=False,
            timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
    finally:
        scene.site.stop_endpoint("monitored")
    found = json.loads(done.stdout.splitlines()[-1])
    ran_in = {row["block_id"] for row in found["tries"]}
    assert ran_in == {row["block_id"] for row in found["nodes"]}
    jobs = {row["block_id"]: row["job_id"] for row in found["blocks"]}
    assert all(jobs[block_id].isdigit() for block_id in ran_in)
    assert len(set(jobs.values())) == len(jobs)
    for block_id in ran_in:
        assert "RUNNING" in [row["status"] for row in found["blocks"] if row["block_id"] == block_id]
