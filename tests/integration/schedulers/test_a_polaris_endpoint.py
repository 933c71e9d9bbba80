"""Apps on PBS by the public description's own configuration, with PALS' mpiexec and with MPICH's."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from cluster_scene import none_left, run_both_apps
from polaris import LABEL, adapted

BIN = Path(sys.executable).parent


def slurm_id(job: str) -> str:
    """A PBS id's number is Slurm's."""
    return job.partition(".")[0]


def test_polaris_with_pals(scene, polaris, tmp_path):
    with scene.workflow(polaris) as workflow:
        assert scene.jobs(LABEL) == []  # an endpoint that has nothing to do asks for nothing
        told = run_both_apps(workflow, tmp_path)
    jobs = scene.jobs(LABEL)
    assert slurm_id(told["job"]) in [job.job_id for job in jobs]
    assert {job.partition for job in jobs} == {"preemptable"}
    assert told["environment"]["HOME"] == str(scene.jobs_home)
    assert Path(told["environment"]["PBS_NODEFILE"]).name == told["job"]
    calls = [json.loads(line) for line in scene.pbs.pals_log.read_text().splitlines()]
    blocks = [call[:7] for call in calls if "--hostfile" in call]
    assert 1 <= len(blocks) <= len(jobs)  # a second one may just be starting
    assert all(call == ["--cpu-bind", "none", "--depth=64", "--ppn", "1", "-n", "1"] for call in blocks)


def test_polaris_with_mpich(scene, tmp_path):
    """MPICH's mpiexec has neither --cpu-bind nor --depth, so the launcher is told so; and idle blocks end soon."""
    text = adapted(f"export PATH={BIN}:$PATH")
    text = text.replace(
        "bind_cmd: --cpu-bind, overrides: --depth=64 --ppn 1", "bind_cmd: --bind-to, overrides: --ppn 1"
    )
    text += "  label: mpich\n  job_status_kwargs: {max_idletime: 2, strategy_period: 1}\n"
    endpoint_id = scene.site.start_endpoint("mpich", text)
    with scene.workflow(endpoint_id) as workflow:
        assert scene.jobs("mpich") == []
        told = run_both_apps(workflow, tmp_path)
        assert told["job"].endswith(".login")
        none_left(scene, "mpich")
    scene.site.stop_endpoint("mpich")
