"""Parsl's staging providers with our executor, from real servers; the endpoint sees none of the files here."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from contextlib import nullcontext
from pathlib import Path

import parsl
import pytest
import servers
from file_servers import ftp_server, http_server, ssh_server, why_no_ftp, why_no_rsync
from parsl import Config, File, bash_app, python_app
from parsl.data_provider.ftp import FTPInTaskStaging
from parsl.data_provider.http import HTTPInTaskStaging
from parsl.data_provider.rsync import RSyncStaging

from parsl_globus import GlobusComputeExecutor
from parsl_globus.testing.site import LOCAL_ENDPOINT, LocalSite

DEADLINE_S = 120

LINES = "seven\nlines\nof\ntext\nare\nin\nhere\n"


@python_app(executors=["separate"])
def read_separate(inputs=()):
    return [open(file).read() for file in inputs]


@python_app(executors=["in-task"])
def read_in_task(inputs=()):
    return [open(file).read() for file in inputs]


@bash_app(executors=["in-task"])
def count_lines(inputs=(), stdout=None):
    return f"wc -l < {inputs[0].filepath}"


@python_app(executors=["rsync"])
def upper(inputs=(), outputs=()):
    with open(inputs[0]) as source, open(outputs[0], "w") as target:
        target.write(source.read().upper())


@bash_app(executors=["separate"])
def sort(inputs=(), outputs=()):
    return f"sort {inputs[0].filepath} > {outputs[0].filepath}"


@python_app(executors=["separate"])
def sees(path):
    import os

    return os.path.exists(path)


def hides(folder):
    """Commands run in a mount namespace of their own, with an empty file system over `folder`."""

    def wrap(command):
        script = 'mount -t tmpfs none "$1" && shift && exec "$@"'
        return ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", str(folder), *command]

    return wrap


def why_nothing_can_be_hidden(folder):
    if shutil.which("unshare") is None:
        return "'unshare' is not installed (Debian: util-linux)"
    tried = subprocess.run(hides(folder)(["true"]), capture_output=True, text=True)
    return tried.stderr or "no mount namespace can be made" if tried.returncode else None


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder that only this machine's workflow sees."""
    folder = tmp_path_factory.mktemp("here")
    servers.require(why_nothing_can_be_hidden(folder))
    (folder / "lines.txt").write_text(LINES)
    return folder


@pytest.fixture(scope="module")
def dfk(here, tmp_path_factory):
    """Three executors of ours on one endpoint, each with its own providers."""
    folder = tmp_path_factory.mktemp("site")
    with ssh_server(folder / "ssh") if why_no_rsync() is None else nullcontext("ssh") as rsync_rsh:
        with LocalSite(folder / "home", wrap=hides(here)) as site:
            site.start_service()
            yaml = LOCAL_ENDPOINT.format(name="away", workers=2)
            yaml += f"    worker_init: \"export RSYNC_RSH='{rsync_rsh}'\"\n"
            endpoint_id = site.start_endpoint("away", yaml)
            providers: dict[str, list | None] = {
                "separate": None,
                "in-task": [HTTPInTaskStaging(), FTPInTaskStaging()],
                "rsync": [RSyncStaging("127.0.0.1")],
            }
            executors = [
                GlobusComputeExecutor(
                    endpoint_id,
                    label=label,
                    client=site.client(),
                    storage_access=storage_access,
                    working_dir=str(folder / label),
                )
                for label, storage_access in providers.items()
            ]
            (folder / "separate").mkdir()  # zip files are packed here, of what the worker wrote there
            run_dir = str(tmp_path_factory.mktemp("runinfo"))
            with parsl.load(Config(executors=executors, run_dir=run_dir, initialize_logging=False)) as dfk:
                yield dfk
        assert site.processes() == []


@pytest.fixture(scope="module")
def http_url(here):
    with http_server(here) as url:
        yield url


@pytest.fixture(scope="module")
def ftp_url(here):
    servers.require(why_no_ftp())
    with ftp_server(here) as url:
        yield url


def test_the_endpoint_sees_no_file_of_this_machine(dfk, here):
    assert sees(str(here / "lines.txt")).result(DEADLINE_S) is False


@pytest.mark.parametrize("app", [read_separate, read_in_task], ids=["separate", "in-task"])
@pytest.mark.parametrize("url", ["http_url", "ftp_url"])
def test_a_file_is_fetched_by_the_endpoint(dfk, request, app, url):
    file = File(f"{request.getfixturevalue(url)}/lines.txt")
    assert app(inputs=[file]).result(DEADLINE_S) == [LINES]


def test_a_bash_app_s_input_is_fetched_and_its_output_comes_home(dfk, here, http_url):
    out = here / "count.txt"
    assert count_lines(inputs=[File(f"{http_url}/lines.txt")], stdout=str(out)).result(DEADLINE_S) == 0
    assert out.read_text().strip() == "7"


def test_what_can_t_be_fetched_fails_its_own_task_only(dfk, http_url, ftp_url):
    refused = read_in_task(inputs=[File("http://127.0.0.1:1/none.txt")])
    missing = read_in_task(inputs=[File(f"{ftp_url}/none.txt")])
    good = read_in_task(inputs=[File(f"{http_url}/lines.txt")])
    assert type(refused.exception(DEADLINE_S)).__name__ == "ConnectionError"  # of the package requests
    assert type(missing.exception(DEADLINE_S)).__name__ == "error_perm"  # of ftplib
    assert good.result(DEADLINE_S) == [LINES]


def test_rsync_brings_a_file_there_and_another_home(dfk, here):
    servers.require(why_no_rsync())
    future = upper(inputs=[File(str(here / "lines.txt"))], outputs=[File(str(here / "upper.txt"))])
    assert future.outputs[0].result(DEADLINE_S).filepath
    assert (here / "upper.txt").read_text() == LINES.upper()


def test_zip_files_are_packed_and_opened_here(dfk, here):
    archive = here / "all.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("in/lines.txt", LINES)
    # The archive is here only; its members must be in the executor's working_dir, which both see.
    (Path(dfk.executors["separate"].working_dir) / "in").mkdir()
    future = sort(inputs=[File(f"zip:{archive}/in/lines.txt")], outputs=[File(f"zip:{archive}/out/sorted.txt")])
    future.outputs[0].result(DEADLINE_S)
    with zipfile.ZipFile(archive) as packed:
        assert packed.read("out/sorted.txt").decode().splitlines() == sorted(LINES.splitlines())
