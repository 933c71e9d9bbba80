"""A workflow with a journal is killed and started again: no task runs twice, and every result is right."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from pathlib import Path

import journaled_workflow
import pytest
from once import wait_until

COUNT = 500
DEADLINE_S = 90


class Workflow:
    """A run of the workflow; its lines are read as they come."""

    def __init__(self, site, endpoint_id, folder: Path) -> None:
        command = [sys.executable, journaled_workflow.__file__, str(endpoint_id), str(folder), str(COUNT)]
        self._log = folder / "log"
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                command, env=site.environment, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.strip())
        self._lines.put(None)

    def line(self) -> str:
        """The next line."""
        try:
            line = self._lines.get(timeout=DEADLINE_S)
        except queue.Empty:
            raise AssertionError(f"nothing more in {DEADLINE_S} s:\n{self._log.read_text()}") from None
        assert line is not None, f"It ended:\n{self._log.read_text()}"
        return line

    def wait(self, *, ended: int) -> None:
        """Until all tasks are handed over and so many have ended; some do before the last one is handed over."""
        submitted = False
        while ended > 0 or not submitted:
            line = self.line()
            submitted = submitted or line == "submitted"
            ended -= line.startswith("ended")

    def kill(self) -> None:
        self._process.kill()
        self._end()

    def values(self) -> list:
        while not (line := self.line()).startswith("["):
            pass
        values = json.loads(line)
        self._end()
        return values

    def _end(self) -> None:
        self._process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def start(site, endpoint_id, tmp_path):
    started = []

    def run():
        started.append(Workflow(site, endpoint_id, tmp_path))
        return started[-1]

    yield run
    (tmp_path / "second").touch()
    (tmp_path / "last").touch()
    for workflow in started:
        workflow.kill()


def ran(folder: Path) -> set[int]:
    return {int(path.name) for path in folder.iterdir() if path.name.isdigit()}


def test_killed_and_started_again(start, tmp_path):
    failing = {n for n in range(COUNT) if journaled_workflow.options_of(n, "", COUNT)["heals"]}
    first = start()
    first.wait(ended=COUNT // 2)
    first.kill()
    assert (tmp_path / "run.journal").stat().st_mode & 0o777 == 0o600

    # Nobody listens.
    (tmp_path / "second").touch()
    wait_until(lambda: len(ran(tmp_path)) > COUNT - 10 - len(failing), "the tasks did not go on")
    wait_until(lambda: len(list(tmp_path.glob("failed-*"))) == len(failing), "the tasks did not fail")
    (tmp_path / "healed").touch()
    second = start()
    second.wait(ended=COUNT - 100)
    (tmp_path / "last").touch()
    expected = [2 * number for number in range(COUNT)]
    assert second.values() == expected
    assert ran(tmp_path) == set(range(COUNT))
    assert list(tmp_path.glob("again-*")) == []

    # Ended, but who knows what the workflow made of it.
    assert start().values() == expected
    assert list(tmp_path.glob("again-*")) == []
