"""The public endpoint agent, `globus-compute-endpoint`, unmodified and started by its own commands."""

from __future__ import annotations

import json
import os
import pwd
import site
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

import psutil
from netns import NetworkNamespace

_REGISTERED_WITHIN_S = 60.0
#: For an ordinary user, who can't read an interpreter in root's home.
_SYSTEM_PYTHON = Path(f"/usr/bin/python3.{sys.version_info.minor}")
_CORE = """\
heartbeat_period: 5
local_compute_services: true
"""
_TEMPLATE = """\
heartbeat_period: 5
idle_heartbeats_soft: 0
local_compute_services: true
engine:
  type: GlobusComputeEngine
  address: 127.0.0.1
  max_workers_per_node: 2
  provider: {type: LocalProvider, init_blocks: 1, min_blocks: 1, max_blocks: 1}
"""


class PublicAgent:
    """An endpoint of the public agent in a namespace where our service has port 5000.

    Args:
        namespace: Where it runs.
        home: Its `HOME`; a new folder.
        service_env: What the service says that peers need.
        user: Who runs it, when root runs the tests; see `ordinary_user`.

    Attributes:
        home: Its `HOME`.
    """

    def __init__(
        self,
        namespace: NetworkNamespace,
        home: Path,
        service_env: Mapping[str, str],
        *,
        user: pwd.struct_passwd | None = None,
    ) -> None:
        self.home = home
        self._namespace = namespace
        self._user = user
        home.mkdir(parents=True)
        programs = Path(sys.executable).parent
        self._env = {**service_env, "HOME": str(home)}
        self._command = [str(programs / "globus-compute-endpoint")]
        if user is not None:
            programs = self._make_program()
            # The rest of the tests' folders is closed to others.
            self._env |= {"TMPDIR": str(home / "tmp"), "PYTHONPATH": site.getsitepackages()[0]}
            become = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
            self._command = [*become, str(programs / "globus-compute-endpoint")]
        self._env["PATH"] = f"{programs}:{os.environ['PATH']}"

    def _make_program(self) -> Path:
        programs = self.home / "bin"
        programs.mkdir()
        (self.home / "tmp").mkdir()
        program = programs / "globus-compute-endpoint"
        program.write_text(f"#!{_SYSTEM_PYTHON}\nfrom globus_compute_endpoint.cli import cli_run\ncli_run()\n")
        program.chmod(0o755)
        self._give_away()
        return programs

    def _give_away(self) -> None:
        if self._user is not None:
            for path in (self.home, *self.home.rglob("*")):
                os.chown(path, self._user.pw_uid, self._user.pw_gid, follow_symlinks=False)

    def folder(self, name: str = "peer") -> Path:
        """Where it keeps an endpoint."""
        return self.home / ".globus_compute" / name

    def user_endpoints(self) -> set[str]:
        """Names of the user endpoints it has ever started; their ids are in them."""
        return {path.name for path in self.folder("").glob("uep.*")}

    def configure(self, name: str = "peer", *, template: str = _TEMPLATE, schema: dict | None = None) -> None:
        """Configure an endpoint with a template for user endpoints."""
        files = {
            # As root it counts as privileged and wants to know whom to ask; its user endpoints get a clean environment.
            "core.yaml": _CORE + ("email: peer@example.invalid\n" if os.geteuid() == 0 and self._user is None else ""),
            "template.j2": template,
            "schema.json": json.dumps(schema or {"type": "object", "additionalProperties": True}),
            "userenv.yaml": "".join(
                f"{name}: {self._env[name]}\n" for name in ("HOME", "PATH", "PYTHONPATH", "TMPDIR") if name in self._env
            ),
        }
        for file, text in files.items():
            (self.home / file).write_text(text)
        self._give_away()
        self.run(
            "configure", name, "--multi-user", "false",
            "--core-config", str(self.home / "core.yaml"),
            "--template-config", str(self.home / "template.j2"),
            "--schema-config", str(self.home / "schema.json"),
            "--user-env-config", str(self.home / "userenv.yaml"),
        )  # fmt: skip

    def start(self, name: str = "peer") -> uuid.UUID:
        """Start an endpoint, configured first unless it is; its id."""
        if not self.folder(name).exists():
            self.configure(name)
        self.run("start", "--detach", name)
        record = self.folder(name) / "endpoint.json"
        deadline = time.monotonic() + _REGISTERED_WITHIN_S
        while not record.exists():  # it may detach before it has written this
            assert time.monotonic() < deadline, "the public agent was not registered in time"
            time.sleep(0.05)
        return uuid.UUID(json.loads(record.read_text())["endpoint_id"])

    def stop(self, name: str = "peer") -> None:
        """Stop it by its own command, then end what it left behind."""
        try:
            self.run("stop", name)
        finally:
            left = self.processes()
            for process in left:
                process.kill()
            psutil.wait_procs(left, timeout=10)

    def processes(self) -> list[psutil.Process]:
        """All that belongs to it."""
        return [process for process in psutil.process_iter() if self._is_its(process)]

    def _is_its(self, process: psutil.Process) -> bool:
        try:
            return process.pid != os.getpid() and process.environ().get("HOME") == str(self.home)
        except (psutil.Error, OSError):
            return False

    def run(self, *arguments: str) -> str:
        """Run one of its commands; what it printed."""
        return self._namespace.run([*self._command, *arguments], env=self._env, cwd=self.home)


def ordinary_user() -> tuple[pwd.struct_passwd | None, str | None]:
    """A user to run the agent as when root runs the tests, or why there is none."""
    if not _SYSTEM_PYTHON.exists():
        return None, f"{_SYSTEM_PYTHON} is not installed, and other users can't run root's Python"
    try:
        user = pwd.getpwnam("nobody")
    except KeyError:
        return None, "there is no user 'nobody'"
    look = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "ls"]
    tried = subprocess.run([*look, site.getsitepackages()[0]], capture_output=True, check=False)
    if tried.returncode:
        return None, "other users can't read the packages that root has installed"
    return user, None
