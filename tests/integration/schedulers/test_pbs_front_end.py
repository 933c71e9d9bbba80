"""What Parsl's provider and users rely on of PBS Pro's commands and of PALS' mpiexec; real Slurm runs the jobs."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from cluster_scene import wait_until

SELECT = ("-l", "select=1:ncpus=1", "-l", "walltime=00:05:00")


@pytest.fixture
def pbs(scene, tmp_path):
    """Runs a command on the login node in a folder of its own: exit code, stdout, stderr."""

    def call(*command, given=""):
        env = {**os.environ, "HOME": str(tmp_path), "OF_THE_SUBMITTER": "yes"}
        done = subprocess.run(
            scene.pbs.wrap(command), env=env, input=given, capture_output=True, text=True, cwd=tmp_path, check=False
        )
        return done.returncode, done.stdout, done.stderr

    return call


def attributes(pbs, job):
    code, out, _ = pbs("qstat", "-x", "-f", "-F", "json", job)
    assert code == 0
    return json.loads(out)["Jobs"][job]


def test_a_job_and_its_environment(pbs, tmp_path):
    script = "#!/bin/sh\n#PBS -N named\n#PBS -q debug\n#PBS -o out\n#PBS -e err\nenv; cat $PBS_NODEFILE; exit 3\n"
    (tmp_path / "job.sh").write_text(script)
    code, out, _ = pbs("qsub", "-l", "select=2:ncpus=4,walltime=00:05:00", "-q", "preemptable", "job.sh")
    assert code == 0
    job = out.strip()
    assert job.endswith(".login")
    (tmp_path / "job.sh").unlink()  # PBS has its copy
    wait_until(lambda: attributes(pbs, job)["job_state"] == "F", "the job ends")
    told = attributes(pbs, job)
    assert (told["Job_Name"], told["queue"], told["Exit_status"]) == ("named", "preemptable", 3)
    assert told["Resource_List"]["select"] == "2:ncpus=4"
    said = (tmp_path / "out").read_text().splitlines()
    assert f"PBS_JOBID={job}" in said
    assert f"HOME={tmp_path}" in said
    assert "OF_THE_SUBMITTER=yes" not in said
    assert [line for line in said if line.startswith("SLURM_") and not line.startswith("SLURM_CONF=")] == []
    assert len(set(said[-2:])) == 2  # the nodes
    assert pbs("qstat", job)[0] == 35
    assert pbs("qdel", job)[0] == 35


def test_a_job_is_deleted(pbs):
    code, out, _ = pbs("qsub", *SELECT, given="sleep 100\n")
    assert code == 0
    job = out.strip()
    assert pbs("qdel", job)[0] == 0
    wait_until(lambda: attributes(pbs, job)["job_state"] == "F", "the job ends")
    assert attributes(pbs, job)["Exit_status"] == 256 + 15


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (("qstat", "99999"), 153, "Unknown Job Id 99999"),
        (("qdel", "99999.login"), 153, "Unknown Job Id 99999.login"),
        (("qsub", "-q", "nowhere", *SELECT), 170, "Unknown queue"),
        (("qsub", "-l", "gpus=4"), 187, "Unknown resource: gpus"),
        (("qsub", "-l", "select=1:cpus=4"), 187, "Unknown resource: cpus"),
        (("qsub", "-l", "walltime"), 171, "Illegal attribute or resource value for walltime"),
        (("qsub", "-X"), 2, "unrecognized arguments"),
        (("qstat", "-f", "-F", "dsv"), 2, "-f -F json"),
    ],
)
def test_refusals_are_those_of_pbs(pbs, command, code, words):
    told = pbs(*command)
    assert told[0] == code
    assert words in told[2]


def test_mpiexec_takes_the_options_of_pals(scene, pbs):
    mpiexec = str(scene.pbs.pals_bin / "mpiexec")
    told = pbs(mpiexec, "-n", "2", "--ppn", "2", "--depth=64", "--cpu-bind", "none", "echo", "hello")
    assert told[:2] == (0, "hello\nhello\n")
    for wrong in (("-n", "0"), ("-n", "1", "--cpu-bind", "sideways"), ("--depth=64",)):
        code, out, err = pbs(mpiexec, *wrong, "echo", "hello")
        assert (code, out) == (1, "")
        assert err.startswith("mpiexec: ")
    # What MPICH's own makes of PALS' options is why there is this one.
    assert pbs("mpiexec", "-n", "1", "--depth=64", "echo", "hello")[0] != 0
