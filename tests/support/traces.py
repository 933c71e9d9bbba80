"""What a command may leave behind: processes, listening ports, files outside its folder."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Sandbox:
    """A place in which all that a command starts and writes can be told from the rest of the machine.

    Attributes:
        root: Everything is below it.
        home: `HOME` of the command.
        tmp: Its folder for temporary files.
        cwd: Where it runs.
    """

    root: Path
    home: Path
    tmp: Path
    cwd: Path

    @classmethod
    def at(cls, root: Path) -> Sandbox:
        """Make its folders."""
        folders = [root / name for name in ("home", "tmp", "cwd")]
        for folder in folders:
            folder.mkdir(parents=True)
        return cls(root, *folders)

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of the command."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("GLOBUS_", "PARSL_GLOBUS_"))}
        return {
            **kept,
            "HOME": str(self.home),
            "TMPDIR": str(self.tmp),
            "COLUMNS": "200",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def processes(self) -> list[str]:
        """Command lines of the living processes that are of here, by environment, folder or command line."""
        root = str(self.root)
        found = []
        for process in psutil.process_iter():
            if process.pid == os.getpid():
                continue
            try:
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                words = [*process.cmdline(), process.cwd(), *process.environ().values()]
                if any(root in word for word in words):
                    found.append(f"{process.pid} {process.cmdline()}")
            except (psutil.Error, OSError):
                continue  # it has ended meanwhile
        return found

    def left(self, run_folder: Path, within_s: float = 5) -> list[str]:
        """What is there that shouldn't be; processes that were just killed get a moment to go."""
        deadline = time.monotonic() + within_s
        while (processes := self.processes()) and time.monotonic() < deadline:
            psutil.wait_procs([psutil.Process(int(p.split()[0])) for p in processes if _lives(p)], timeout=0.5)
        files = [
            str(path)
            for folder in (self.home, self.tmp, self.cwd)
            for path in folder.rglob("*")
            if path != run_folder and run_folder not in path.parents
        ]
        return processes + files


def _lives(process: str) -> bool:
    return psutil.pid_exists(int(process.split()[0]))


def listeners() -> set[int]:
    """Ports of the loopback interface at which something listens."""
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        local, state = line.split()[1], line.split()[3]
        if state == "0A":
            found.add(int(local.split(":")[1], 16))
    return found
