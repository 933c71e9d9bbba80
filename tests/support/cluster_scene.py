"""Three places: a laptop, a login node with schedulers that refuses connections, and a service that both reach."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from parsl_globus.testing.schedulers import Host, Job, PbsFrontEnd, SlurmCluster
from parsl_globus.testing.site import LocalSite

WORKFLOW = Path(__file__).with_name("laptop_workflow.py")
DEADLINE_S = 90.0
CPUS_PER_NODE = 32


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = DEADLINE_S) -> Any:
    """For what only looking tells, such as jobs and files; the first true answer."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        threading.Event().wait(0.1)


class Workflow:
    """A workflow on the laptop, see `laptop_workflow.py`; ends with the `with` block."""

    def __init__(self, command: list[str], env: dict[str, str], log: Path) -> None:
        self._futures: dict[int, Future[Any]] = {}
        self._lock = threading.Lock()
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stream, text=True,
                start_new_session=True,
            )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def submit(self, app: str, **arguments: Any) -> Future[Any]:
        """A task's future; its error is an `Ended`."""
        future: Future[Any] = Future()
        with self._lock:
            number = len(self._futures)
            self._futures[number] = future
            self._process.stdin.write(json.dumps({"number": number, "app": app, "arguments": arguments}) + "\n")
            self._process.stdin.flush()
        return future

    def _read(self) -> None:
        for line in self._process.stdout:
            told = json.loads(line)
            future = self._futures[told["number"]]
            if "error" in told:
                future.set_exception(Ended(told["error"], told["text"]))
            else:
                future.set_result(told["value"])

    def __enter__(self) -> Workflow:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(5)
        self._process.stdout.close()


class Ended(Exception):
    """A task's typed error.

    Attributes:
        kind: Name of its class.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


class ClusterScene:
    """All of it, in `folder`, until the `with` block ends.

    Attributes:
        site: The endpoints on the login node.
        jobs_home: HOME of what is submitted: PBS starts jobs there.
    """

    def __init__(self, folder: Path, nodes: int) -> None:
        self.folder = folder
        self._nodes = nodes
        self._stack = ExitStack()

    def __enter__(self) -> ClusterScene:
        with ExitStack() as stack:
            self.laptop = stack.enter_context(Host("laptop"))
            self.login = stack.enter_context(Host("login"))
            self.cluster = stack.enter_context(
                SlurmCluster(self.folder / "slurm", self._nodes, cpus_per_node=CPUS_PER_NODE, host=self.login)
            )
            self.pbs = stack.enter_context(PbsFrontEnd(self.cluster))
            self.service = stack.enter_context(LocalSite(self.folder / "service"))
            # This machine's address in the laptop's network is one that the login node reaches as well.
            address = ("--host", "0.0.0.0", "--public-host", self.laptop.gateway)
            self.service.start_service(*address, "--insecure")
            self.jobs_home = self.folder / "home"
            self.jobs_home.mkdir()
            self.site = stack.enter_context(LocalSite(self.folder / "login", wrap=self._on_login))
            self._laptop_site = LocalSite(self.folder / "laptop", wrap=self.laptop.wrap)  # for its commands only
            self._log_in()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stack.close()

    def workflow(self, endpoint_id: uuid.UUID) -> Workflow:
        """A workflow on the laptop whose only executor is ours, for that endpoint."""
        run_dir = self.folder / f"runinfo-{endpoint_id}"
        command = self.laptop.wrap([sys.executable, str(WORKFLOW), str(endpoint_id), str(run_dir)])
        return Workflow(command, self._laptop_site.environment, self.folder / f"workflow-{endpoint_id}.log")

    def jobs(self, label: str) -> list[Job]:
        """The blocks of the endpoint whose engine has this label, that wait or run."""
        return [job for job in self.cluster.jobs() if f".{label}-" in f".{job.name}"]

    def _on_login(self, command: Any) -> list[str]:
        return self.pbs.wrap(["env", f"HOME={self.jobs_home}", *command])

    def _log_in(self) -> None:
        file, secret = self.folder / "user.json", self.folder / "secret"
        self.service.run("service", "add-user", "ada", "--out", str(file))
        made = json.loads(file.read_text())
        secret.touch(mode=0o600)
        secret.write_text(made["client_secret"])
        for site in (self.site, self._laptop_site):
            site.home.mkdir(exist_ok=True)
            user = ("--client-id", made["client_id"], "--client-secret-file", str(secret))
            site.run("login", "--url", self.service.url, *user)


def run_both_apps(workflow, folder):
    """A python_app and a bash_app: what the former said."""
    out = folder / "said"
    python = workflow.submit("where")
    bash = workflow.submit("shell", command="echo on $(hostname)", stdout=str(out))
    told = python.result(DEADLINE_S)
    assert bash.result(DEADLINE_S) == 0
    assert out.read_text() == "on login\n"
    return told


def none_left(scene, label, timeout_s=DEADLINE_S):
    return wait_until(lambda: not scene.jobs(label), f"the blocks of {label} end", timeout_s)
