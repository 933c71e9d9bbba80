"""The scripts of the documentation and the README run, and print what it says that they print."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from shutil import which

import pytest
from docs_blocks import README, blocks
from servers import require

DEADLINE_S = 240.0
#: Most of a script's time is Python's import of Parsl, on one core.
AT_A_TIME = 2

PYTHON = blocks("python")
(README_SCRIPT,) = (block.text for block in PYTHON if block.page == README.name)
SCRIPTS = {block.caption: block.text for block in PYTHON if block.caption}
PRINTED = {block.caption.removesuffix(" prints"): block.text for block in blocks("text") if block.caption}
#: Of `one_site.rst`, for the endpoint of its `options.py`.
(TEMPLATE,) = (block.text for block in blocks("jinja") if block.page == "one_site.rst")

#: How many blocks of a page are compiled only: parts of programs, and what needs a server that is not here.
NOT_RUN = {
    "endpoint_engines.rst": 1,
    "endpoint_operation.rst": 1,
    "executor.rst": 1,  # an endpoint that lists functions: test_refused_tasks
    "index.rst": 1,
    "large_data.rst": 1,  # a Redis server
    "progress.rst": 1,
    "several_sites.rst": 1,  # two services
    "testing.rst": 1,
    "troubleshooting.rst": 1,  # run by test_parsl_features
}

MPI_ENDPOINT = """\
heartbeat_period: 1
engine:
  type: GlobusMPIEngine
  address: 127.0.0.1
  mpi_launcher: mpiexec
  max_workers_per_block: 1
  provider:
    type: LocalProvider
    nodes_per_block: 2
    init_blocks: 1
    max_blocks: 1
    worker_init: unset SLURM_NODELIST; export PBS_NODEFILE={nodes} HYDRA_LAUNCHER=fork
"""


def with_variables(text: str) -> str:
    """The README's script has ids where those of the guide take them from the environment."""
    changed, count = re.subn(
        r'"[0-9a-f-]{36}", label="(\w+)"', lambda match: f'os.environ["{match[1].upper()}"], label="{match[1]}"', text
    )
    assert count == 2
    return f"import os\n{changed}"


SCRIPTS[README.name], PRINTED[README.name] = with_variables(README_SCRIPT), "42\n"


class Scripts:
    """Runs scripts as they are added, with the endpoints that they name by environment variables."""

    def __init__(self, site, test_endpoint, folder: Path) -> None:
        self._site = site
        self._folder = folder
        self._pool = ThreadPoolExecutor(AT_A_TIME)
        self._runs: dict[str, Future[subprocess.CompletedProcess[str]]] = {}
        self._endpoints: dict[str, Future] = {}
        self._start: dict[str, Callable] = {
            "LAPTOP": lambda: test_endpoint,
            "POLARIS": lambda: test_endpoint,
            "PERLMUTTER": lambda: site.start_endpoint("perlmutter", workers=1),
            "TEMPLATED": self._templated,
            "MPI": self._mpi,
        }

    def _templated(self):
        source = self._folder / "templated.yaml"
        source.write_text("heartbeat_period: 1\n")
        self._site.run("endpoint", "configure", "templated", "--config", str(source))
        (self._site.home / "endpoints" / "templated" / "user_config_template.yaml.j2").write_text(TEMPLATE)
        return self._site.start_endpoint("templated")

    def _mpi(self):
        nodes = self._folder / "nodes"
        nodes.write_text("localhost\n127.0.0.1\n")
        return self._site.start_endpoint("mpi", MPI_ENDPOINT.format(nodes=nodes))

    def add(self, name: str) -> None:
        """Run the script of this name; an endpoint that it is the first to name is started before."""
        variables = set(re.findall(r'os\.environ\["([A-Z]+)"\]', SCRIPTS[name]))
        for variable in variables - self._endpoints.keys():
            self._endpoints[variable] = self._pool.submit(self._start[variable])
        self._runs[name] = self._pool.submit(self._run, name, variables)

    def _run(self, name: str, variables: set[str]) -> subprocess.CompletedProcess[str]:
        folder = self._folder / name.removesuffix(".py")
        folder.mkdir()
        (folder / name).write_text(SCRIPTS[name])
        ids = {variable: str(self._endpoints[variable].result()) for variable in variables}
        return subprocess.run(
            [sys.executable, name],
            env={**self._site.environment, **ids},
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )

    def printed(self, name: str) -> str:
        """What the script wrote to its standard output, once it has ended well."""
        done = self._runs[name].result()
        assert done.returncode == 0, done.stderr
        return done.stdout

    def close(self) -> None:
        """Stop the endpoints that were started here."""
        self._pool.shutdown(cancel_futures=True)
        for variable in self._endpoints.keys() & {"PERLMUTTER", "TEMPLATED", "MPI"}:
            self._site.stop_endpoint(variable.lower())


@pytest.fixture(scope="module")
def scripts(request, parsl_globus_site, parsl_globus_endpoint, tmp_path_factory) -> Iterator[Scripts]:
    scripts = Scripts(parsl_globus_site, parsl_globus_endpoint, tmp_path_factory.mktemp("scripts"))
    wanted = [item.callspec.params["script"] for item in request.session.items if "scripts" in item.fixturenames]
    try:
        for name in wanted:
            scripts.add(name)
        yield scripts
    finally:
        scripts.close()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_prints_what_its_page_says(script: str, scripts: Scripts):
    if '"MPI"' in SCRIPTS[script]:
        require(None if which("mpiexec") else "mpiexec, of Debian's mpich, is not installed")
    assert scripts.printed(script) == PRINTED[script]


def test_what_is_not_run_is_known():
    """Each block is a script or counted here, and each script tells what it prints."""
    parts = [block for block in PYTHON if not block.caption and block.page != README.name]
    for block in parts:
        compile(block.text, block.place, "exec")
    pages = [block.page for block in parts]
    assert {page: pages.count(page) for page in pages} == NOT_RUN
    assert SCRIPTS.keys() == PRINTED.keys()
    assert len(SCRIPTS) == len(PYTHON) - len(parts), "a caption is there twice"
