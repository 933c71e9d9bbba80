"""Where it is measured: a service at the port that public peers know, its endpoints, and workflows there."""

from __future__ import annotations

import logging
import os
import re
import shlex
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
from lab import lab_options
from netns import NetworkNamespace
from postgres import Postgres
from public_agent import PublicAgent

from bench import chain
from bench.process import MARK, ContenderFailedError, Program, marked, variable
from parsl_globus.errors import ParslGlobusError
from parsl_globus.service.store.postgres import PostgresDatabase
from parsl_globus.testing.site import LocalSite

logger = logging.getLogger(__name__)

_FOLDER = Path(__file__).parent
#: What the tests' servers and the public agent raise: none of it is an `Exception`.
OUTCOMES = (pytest.fail.Exception, pytest.skip.Exception)


class Stage:
    """A service with endpoints, in a network namespace of their own.

    Attributes:
        ready_s: How long `service run` took to be ready, in seconds, each time.
    """

    def __init__(self, folder: Path, namespace: NetworkNamespace, site: LocalSite, servers: list[int]) -> None:
        self.folder = folder
        self.ready_s: list[float] = []
        self._namespace = namespace
        self._site = site
        self._servers = servers
        self._agent: PublicAgent | None = None
        self._programs = 0
        self._env: dict[str, str] = {}

    def serve(self, options: list[str], *, times: int = 1) -> None:
        """Start the service, on an empty folder at first."""
        for number in range(times):
            if number:
                self._site.stop_service()
            began = time.monotonic()
            self._site.start_service(*options, port=5000, amqp_port=0 if options else 5672, timeout_s=120)
            self.ready_s.append(round(time.monotonic() - began, 2))
        exports = re.findall(r"^export (\w+)=(.*)$", self._site.run("service", "env"), re.MULTILINE)
        self._env = {**self._site.environment, "HOME": str(self.folder / "user")}
        self._env |= {name: shlex.split(value)[0] for name, value in exports}
        # HTEX's own programs, also where the environment of this Python is not activated.
        self._env["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        (self.folder / "user").mkdir()

    def start_endpoint(self, kind: str, *, name: str = "ours", workers: int = 2) -> uuid.UUID | None:
        """Start the endpoint that a contender needs.

        Args:
            kind: Which contender.
            name: Of one of ours.
            workers: Of one of ours.

        Raises:
            ContenderFailedError: It does not start.
        """
        if kind == "local":
            return None
        try:
            if kind == "ours":
                return self._site.start_endpoint(name, workers=workers)
            if self._agent is None:
                self._agent = PublicAgent(self._namespace, self.folder / "peer", self._env)
            return self._agent.start()
        except (*OUTCOMES, AssertionError, ParslGlobusError) as exc:
            raise ContenderFailedError(f"its endpoint did not start: {_first_line(exc)}") from exc

    def stop_endpoint(self, kind: str, *, name: str = "ours") -> None:
        """Stop it, with all that it started."""
        try:
            if kind == "ours":
                self._site.stop_endpoint(name)
            elif kind != "local" and self._agent is not None and self._agent.processes():
                self._agent.stop()
        except (*OUTCOMES, ParslGlobusError) as exc:
            # What is left of it is ended at the end.
            logger.warning("The endpoint of '%s' did not stop in order: %s", kind, _first_line(exc))

    def close(self) -> None:
        """Stop what `LocalSite` doesn't know of."""
        self.stop_endpoint("public")

    def workflow(
        self, kind: str, endpoint_id: uuid.UUID | None, *, monitoring: bool = False, workers: int = 2
    ) -> Program:
        """Start a contender's workflow.

        Args:
            kind: Which contender.
            endpoint_id: Its endpoint, if it has one.
            monitoring: Whether with Parsl's monitoring.
            workers: Of local HTEX.
        """
        words: list[object] = ["--workers", workers]
        if endpoint_id is not None:
            words += ["--endpoint", endpoint_id]
        if monitoring:
            words.append("--monitoring")
        return self.program("workflow.py", kind, *words, kind=kind)

    def program(self, file: str, *words: object, kind: str = "ours") -> Program:
        """Start one of this folder's programs, as a contender."""
        self._programs += 1
        mark = f"{os.getpid()} {kind} {self._programs}"  # another run may be beside this one
        log = self.folder / f"{file.removesuffix('.py')}-{kind}.log"
        command = self._namespace.command([sys.executable, _FOLDER / file, *words])
        return Program(command, self._env, self.folder, log, kind=kind, mark=mark)

    def chain(self, workflow: Program) -> list[psutil.Process]:
        """All processes that a workflow's tasks pass through.

        Those of HTEX's blocks are nobody's children, but have the environment of who started them.
        """
        found = {process.pid: process for process in marked(workflow.mark)}
        if workflow.kind == "local":
            return list(found.values())
        found |= {process.pid: process for pid in self._servers for process in _tree(pid)}
        for process in self._site.processes():
            if variable(process, MARK) is None and (workflow.kind == "ours" or process.pid == self._site.service_pid):
                found[process.pid] = process
        if workflow.kind != "ours" and self._agent is not None:
            found |= {process.pid: process for process in self._agent.processes()}
        return list(found.values())


def _first_line(exc: BaseException) -> str:
    lines = [line for line in str(exc).splitlines() if line.strip()]
    return (lines[0] if lines else type(exc).__name__)[:300]


def _tree(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


@contextmanager
def open_stage(backend: str, folder: Path, *, starts: int = 1) -> Iterator[Stage]:
    """A stage with a service that runs.

    Args:
        backend: Its broker and store.
        folder: An empty folder.
        starts: How often the service is started, to see how long that takes.
    """
    with ExitStack() as stack:
        namespace = NetworkNamespace()
        stack.callback(namespace.close)
        options: list[str] = []
        if backend == "lab":
            (folder / "rabbitmq").mkdir(parents=True)
            postgres = Postgres()
            stack.callback(postgres.close)
            postgres.start()
            postgres.execute("CREATE DATABASE bench_template")
            database = PostgresDatabase(postgres.url("bench_template"))
            database.migrate()
            database.close()
            lab = lab_options(
                folder / "rabbitmq", folder / "home", namespace, postgres, "bench_template", "http://127.0.0.1:5000"
            )
            options += stack.enter_context(lab)
        # What runs beside is another's.
        servers = [p.pid for p in psutil.Process().children(recursive=True) if chain.part_of(p) in _SERVER_PARTS]
        site = stack.enter_context(LocalSite(folder / "home", wrap=namespace.command))
        stage = Stage(folder, namespace, site, servers)
        stack.callback(stage.close)
        stage.serve(options, times=starts)
        yield stage


_SERVER_PARTS = ("broker", "database")
