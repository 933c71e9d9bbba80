"""Where it is measured: a service at the port that public peers know, its endpoints, and workflows there."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
from lab import lab_options
from netns import NetworkNamespace
from postgres import Postgres
from public_agent import PublicAgent

from bench import chain
from parsl_globus.service.store.postgres import PostgresDatabase
from parsl_globus.testing.site import LocalSite

_PROGRAM = Path(__file__).with_name("workflow.py")
_ANSWER_LIMIT_S = 900.0
#: In the environment of a workflow and of all that it starts.
_MARK = "BENCH_WORKFLOW"


class Stage:
    """A service with endpoints, in a network namespace of their own.

    Attributes:
        ready_s: How long `service run` took to be ready, in seconds.
    """

    def __init__(self, folder: Path, namespace: NetworkNamespace, site: LocalSite, servers: list[int]) -> None:
        self.folder = folder
        self.ready_s = 0.0
        self._namespace = namespace
        self._site = site
        self._servers = servers
        self._agent: PublicAgent | None = None
        self._workflows = 0
        self._env: dict[str, str] = {}

    def serve(self, options: list[str]) -> None:
        """Start the service."""
        began = time.monotonic()
        self._site.start_service(*options, port=5000, amqp_port=0 if options else 5672)
        self.ready_s = time.monotonic() - began
        exports = re.findall(r"^export (\w+)=(.*)$", self._site.run("service", "env"), re.MULTILINE)
        self._env = {**self._site.environment, "HOME": str(self.folder / "user")}
        self._env |= {name: shlex.split(value)[0] for name, value in exports}
        # HTEX's own programs, also where the environment of this Python is not activated.
        self._env["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        (self.folder / "user").mkdir()

    def start_endpoint(self, kind: str) -> uuid.UUID | None:
        """Start the endpoint that a contender needs."""
        if kind == "local":
            return None
        if kind == "ours":
            return self._site.start_endpoint("ours")
        if self._agent is None:
            self._agent = PublicAgent(self._namespace, self.folder / "peer", self._env)
        return self._agent.start()

    def stop_endpoint(self, kind: str) -> None:
        """Stop it, with all that it started."""
        if kind == "ours":
            self._site.stop_endpoint("ours")
        elif kind != "local" and self._agent is not None:
            self._agent.stop()

    def close(self) -> None:
        """Stop what `LocalSite` doesn't know of."""
        if self._agent is not None and self._agent.processes():
            self._agent.stop()

    def workflow(self, kind: str, endpoint_id: uuid.UUID | None, *, monitoring: bool = False) -> WorkflowProcess:
        """Start a contender's workflow."""
        command: list[object] = [sys.executable, _PROGRAM, kind]
        if endpoint_id is not None:
            command += ["--endpoint", endpoint_id]
        if monitoring:
            command.append("--monitoring")
        self._workflows += 1
        mark = f"{kind} {self._workflows}"
        env = {**self._env, _MARK: mark}
        return WorkflowProcess(self._namespace.command(command), env, self.folder, kind, mark)

    def output(self, command: list[object]) -> str:
        """Run a program to its end; what it printed."""
        return self._namespace.run(command, env=self._env, cwd=self.folder, timeout_s=_ANSWER_LIMIT_S)

    def chain(self, workflow: WorkflowProcess) -> list[psutil.Process]:
        """All processes that a workflow's tasks pass through.

        Those of HTEX's blocks are nobody's children, but have the environment of who started them.
        """
        marked = (process for process in psutil.process_iter() if _variable(process, _MARK) == workflow.mark)
        found = {process.pid: process for process in marked}
        if workflow.kind == "local":
            return list(found.values())
        found |= {process.pid: process for pid in self._servers for process in _tree(pid)}
        for process in self._site.processes():
            if _variable(process, _MARK) is None and (workflow.kind == "ours" or process.pid == self._site.service_pid):
                found[process.pid] = process
        if workflow.kind != "ours" and self._agent is not None:
            found |= {process.pid: process for process in self._agent.processes()}
        return list(found.values())


class WorkflowProcess:
    """A contender's process; rows are run one at a time."""

    def __init__(self, command: list[str], env: dict[str, str], folder: Path, kind: str, mark: str) -> None:
        self._log = folder / f"workflow-{kind}.log"
        self._folder = folder
        self.kind = kind
        self.mark = mark
        self.began_s = time.monotonic()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=env, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def run(self, row: str, **options: int) -> dict[str, Any]:
        """Run a row; what it measured."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"row": row, **options}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"The workflow of '{self.kind}' ended:\n{self._log.read_text()[-3000:]}")
        return dict(json.loads(line))

    def close(self) -> None:
        """End it in order, or surely."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            for process in psutil.Process(self.pid).children(recursive=True):
                process.kill()
            self._process.kill()
            self._process.wait()


def _variable(process: psutil.Process, name: str) -> str | None:
    try:
        return process.environ().get(name)
    except (psutil.Error, OSError):
        return None  # it ended, or is another user's


def _tree(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


@contextmanager
def open_stage(backend: str, folder: Path) -> Iterator[Stage]:
    """A stage with a service that runs."""
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
        stage.serve(options)
        yield stage


_SERVER_PARTS = ("broker", "database")
