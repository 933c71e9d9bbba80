"""Both scripts from command line to report, in Parsl; thread pools stand in for the two sites."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor as PlainPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import parsl
import pytest
from parsl import Config
from parsl.executors import ThreadPoolExecutor

UUIDS = ["--perlmutter", "6a64ea5b-0000-4000-8000-000000000001"] + [
    "--polaris",
    "6a64ea5b-0000-4000-8000-000000000002",
]


@pytest.fixture(params=["co2_workflow", "co2_join_apps"])
def script(request: Any, load: Any, monkeypatch: Any, tmp_path: Any) -> Any:
    module = load(request.param)

    def config(*_: Any) -> Any:
        labels = ["local"] if request.param == "co2_join_apps" else ["perlmutter", "polaris", "local"]
        pools = [ThreadPoolExecutor(label=label, max_threads=1) for label in labels]
        return Config(executors=pools, strategy="none", run_dir=str(tmp_path / "runinfo"), initialize_logging=False)

    monkeypatch.setattr(module, "config", config)
    if request.param == "co2_join_apps":
        public = SimpleNamespace(Executor=lambda endpoint_id, client: PlainPool(1))
        monkeypatch.setattr(module, "globus_compute_sdk", public)
    monkeypatch.setenv("PATH", os.environ["PATH"])
    monkeypatch.setenv("COLUMNS", "100")
    yield module
    with pytest.raises(parsl.errors.NoDataFlowKernelError):
        parsl.dfk()


def test_the_whole_record(script: Any, tmp_path: Any, capsys: Any) -> None:
    assert script.main([*UUIDS, "--output", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "trend: 1.351 ppm per year"
    assert len(re.findall(r"│ \d{4} ", out)) == 44
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["trend_ppm_per_year"] == pytest.approx(1.35122, abs=1e-5)
    assert len(summary["years"]) == 44
    assert summary["failed_files"] == {}
    assert (tmp_path / "out" / "co2.png").read_bytes().startswith(b"\x89PNG")
    assert re.search(r"local: 0 waiting, 0 running, \d+ done, 0 failed", err)


@pytest.fixture
def folder(examples: Any, tmp_path: Any) -> Any:
    folder = tmp_path / "data"
    folder.mkdir()
    for year in (1970, 1971, 1972):
        name = f"co2_{year}.txt"
        (folder / name).write_text((examples / "experiments" / name).read_text())
    return folder


def test_a_file_that_is_not_data_is_reported_and_the_others_go_on(
    script: Any, folder: Any, tmp_path: Any, capsys: Any
) -> None:
    (folder / "notes.txt").write_text("# my notes\ncall the observatory\n")
    (folder / "photo.txt").write_bytes(b"\xff\xd8\xff")
    options = ["--experiments", str(folder), "--output", str(tmp_path / "out"), "--no-plot"]
    assert script.main([*UUIDS, *options]) == 0
    out, err = capsys.readouterr()
    assert "warning: notes.txt was left out: notes.txt line 2 is not 'date value': 'call the observatory'" in err
    assert "warning: photo.txt was left out: photo.txt is not a text file" in err
    assert re.search(r"notes.txt .* failed", out)
    assert out.splitlines()[-1].startswith("trend: ")
    assert not (tmp_path / "out" / "co2.png").exists()


def test_no_usable_file_is_an_error(script: Any, tmp_path: Any, capsys: Any) -> None:
    (tmp_path / "notes.txt").write_text("call the observatory\n")
    options = ["--experiments", str(tmp_path), "--output", str(tmp_path / "out"), "--no-plot"]
    assert script.main([*UUIDS, *options]) == 1
    assert "error: None of the 1 files could be used; the first: notes.txt line 1" in capsys.readouterr().err


def test_clear_errors_before_anything_starts(script: Any, folder: Any, tmp_path: Any, capsys: Any) -> None:
    assert script.main([*UUIDS, "--experiments", str(tmp_path / "none"), "--no-plot"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: The data folder")
    assert said.count("\n") == 1

    (tmp_path / "file").write_text("")
    options = ["--experiments", str(folder), "--output", str(tmp_path / "file" / "out"), "--no-plot"]
    assert script.main([*UUIDS, *options]) == 1
    assert "can't be made: Not a directory" in capsys.readouterr().err

    with pytest.raises(SystemExit) as left:
        script.main(["--perlmutter", "somewhere", "--polaris", UUIDS[3]])
    assert left.value.code == 2
    assert "'somewhere' is not an endpoint id" in capsys.readouterr().err

    with pytest.raises(SystemExit) as left:
        script.main([])
    assert left.value.code == 2
    assert "required: --perlmutter, --polaris" in capsys.readouterr().err


RUN = """
import runpy, sys
from concurrent.futures import Future, ThreadPoolExecutor as PlainPool
import globus_compute_sdk, parsl_globus
from parsl.executors import ThreadPoolExecutor
class Silent(ThreadPoolExecutor):
    def submit(self, *_args, **_named):
        return Future()  # a site that never answers
class SilentPool(PlainPool):
    def submit(self, *_args, **_named):
        return Future()
kinds = {"answers": (ThreadPoolExecutor, PlainPool), "silent": (Silent, SilentPool)}
kind, pool = kinds[sys.argv.pop(1)]
globus_compute_sdk.Executor = lambda endpoint_id, client: pool(1)
parsl_globus.GlobusComputeExecutor = lambda endpoint_id, label, **_: kind(label=label)
class AllOnline:
    def get_endpoint_status(self, _endpoint_id):
        return {"status": "online"}
parsl_globus.connect = lambda url: AllOnline()
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def start(examples: Any, tmp_path: Any) -> Any:
    """Runs the real script in a session of its own, which the test's end ends."""
    started = []

    def start(script: str, kind: str) -> subprocess.Popen[str]:
        bootstrap = f"import sys; sys.path[:0] = [{str(examples)!r}, {str(examples.parent)!r}]\n" + RUN
        command = [sys.executable, "-c", bootstrap, kind, str(examples / script), *UUIDS]
        process = subprocess.Popen(
            [*command, "--output", str(tmp_path / "out"), "--no-plot"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PATH": os.defpath},  # as in a venv that is not activated
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def left_behind(session: int, within_s: float = 10) -> list[int]:
    """Processes of a session that don't end in time; what was told to end needs a moment to do so."""
    deadline = time.monotonic() + within_s
    left = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, rest = int(stat.parent.name), stat.read_text().rsplit(")", 1)[1]
            if int(rest.split()[3]) != session:
                continue
            handle = os.pidfd_open(pid)
        except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
            continue
        if not select.select([handle], [], [], max(0, deadline - time.monotonic()))[0]:
            left.append(pid)
        os.close(handle)
    return left


SITES = {
    "co2_workflow.py": ("perlmutter", "polaris", "local"),
    "co2_join_apps.py": ("local", "run_pre_process", "run_analysis"),
}


@pytest.mark.parametrize("script", SITES)
def test_post_process_runs_in_parsls_own_high_throughput_executor(start: Any, script: Any) -> None:
    process = start(script, "answers")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out.splitlines()[-1] == "trend: 1.351 ppm per year"
    for label in SITES[script]:
        assert f"{label}: 0 waiting, 0 running, 44 done, 0 failed" in err.splitlines()[-1]
    assert left_behind(process.pid) == []


@pytest.mark.parametrize("script", SITES)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_all_that_was_started(start: Any, script: Any, number: Any) -> None:
    process = start(script, "silent")
    assert process.stderr is not None
    for text in process.stderr:
        if re.search(r"44 (waiting|running)", text):
            break
    if number == signal.SIGINT:  # the terminal sends it to all
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "Interrupted: what this workflow had started was ended."
    assert "Traceback" not in err
    assert left_behind(process.pid) == []
