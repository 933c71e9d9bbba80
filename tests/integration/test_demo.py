"""`parsl-globus demo` as its user meets it: from start to end, and ended by signals at any moment."""

from __future__ import annotations

import contextlib
import os
import random
import re
import select
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from terminal import Terminal
from traces import Sandbox, listeners

EXPERIMENTS = Path(__file__).parents[2] / "examples" / "experiments"
RUN_S = 90
#: An interrupted demo has to be gone by then.
END_S = 30
INTERRUPTED = 130
SEED = 20010203


class Demo:
    """A running demo in a session of its own, whose output is followed line by line."""

    def __init__(self, sandbox: Sandbox, *options: str) -> None:
        self.sandbox = sandbox
        self.folder = sandbox.cwd / "demo-run"
        self.text = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "parsl_globus.cli", "demo", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=sandbox.cwd,
            env={**sandbox.environment, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self._stdout = self.process.stdout.fileno()

    def read_until(self, pattern: str, timeout_s: float = RUN_S) -> None:
        """Return as soon as the output has what `pattern` says."""
        deadline = time.monotonic() + timeout_s
        while not re.search(pattern, self.text):
            left_s = deadline - time.monotonic()
            assert left_s > 0, f"no '{pattern}' in:\n{self.text}"
            if select.select([self._stdout], [], [], left_s)[0]:
                part = os.read(self._stdout, 65536)
                assert part, f"it ended without '{pattern}':\n{self.text}"
                self.text += part.decode()

    def end(self, timeout_s: float) -> int:
        """Read the rest and wait."""
        out, _ = self.process.communicate(timeout=timeout_s)
        self.text += out.decode()
        return self.process.returncode

    def interrupt(self, number: int) -> None:
        """As a terminal does: Ctrl-C goes to its foreground group. SIGTERM comes to one process."""
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGINT:
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)

    def assert_nothing_left(self) -> None:
        assert self.sandbox.left(self.folder) == []
        for port in re.findall(r"service at http://127.0.0.1:(\d+), broker at port (\d+)", self.text):
            assert not {int(number) for number in port} & listeners()

    def assert_interrupted(self) -> None:
        code = self.end(END_S)
        assert "Traceback" not in self.text
        assert "Exception ignored" not in self.text
        assert "is killed" not in self.text, self.text
        assert code == INTERRUPTED, self.text
        self.assert_nothing_left()


@pytest.fixture
def start(tmp_path_factory):
    started = []

    def start_one(*options: str) -> Demo:
        # A short path, as users have: those of Unix sockets are limited.
        demo = Demo(Sandbox.at(tmp_path_factory.mktemp("d")), *options)
        started.append(demo)
        return demo

    yield start_one
    for demo in started:
        if demo.process.poll() is None:
            demo.process.terminate()
            demo.end(END_S)
        demo.process.stdout.close()


def independent_trend() -> float:
    means = {}
    for path in EXPERIMENTS.glob("*.txt"):
        values = [float(line.split()[1]) for line in path.read_text().splitlines() if not line.startswith("#")]
        known = [index for index, value in enumerate(values) if value == value]
        if len(known) < 45:
            continue
        weeks = []
        for index in range(known[0], known[-1] + 1):
            left = max(k for k in known if k <= index)
            right = min(k for k in known if k >= index)
            share = (index - left) / (right - left) if right > left else 0
            weeks.append(values[left] + share * (values[right] - values[left]))
        means[int(path.stem[-4:])] = statistics.fmean(weeks)
    return statistics.linear_regression(list(means), list(means.values())).slope


@pytest.mark.parametrize(
    ("options", "labels"),
    [
        ([], ["perlmutter", "polaris", "local"]),
        (["--workflow", "join"], ["local", "run_pre_process", "run_analysis"]),
    ],
    ids=["apps", "join"],
)
def test_from_start_to_end(start, options, labels):
    demo = start(*options)
    assert demo.end(RUN_S) == 0, demo.text
    trend = re.search(r"^trend: (\S+) ppm per year$", demo.text, re.MULTILINE)
    assert trend is not None
    assert trend[1] == f"{independent_trend():.3f}"
    for site in ("perlmutter", "polaris"):
        assert re.search(rf"^demo: endpoint '{site}' is [0-9a-f-]{{36}}$", demo.text, re.MULTILINE)
    progress = re.findall(r"^ *\d+ s  .*", demo.text, re.MULTILINE)
    assert all("local: " in line for line in progress)  # those of join_apps appear with their first task
    assert all(f"{label}: 0 waiting, 0 running, 44 done, 0 failed" in progress[-1] for label in labels)
    if "--no-plot" not in options:
        assert (demo.folder / "co2.png").read_bytes().startswith(b"\x89PNG")
    demo.assert_nothing_left()


def test_at_a_terminal(tmp_path_factory):
    """Without extensions, nobody tells how many tasks run."""
    sandbox = Sandbox.at(tmp_path_factory.mktemp("d"))
    command = [sys.executable, "-m", "parsl_globus.cli", "demo", "--public-only", "--no-plot"]
    with Terminal(["sh", "-c", f'cd "{sandbox.cwd}" && exec "$@"', "sh", *command], env=sandbox.environment) as screen:
        screen.wait_for(lambda: re.search(r"perlmutter +\d+ +≤[1-9]\d* .* online", screen.shown()) is not None)
        assert screen.end() == 0, screen.shown()
    lines = screen.lines()
    (head,) = [number for number, line in enumerate(lines) if re.match(r"\d+ s +waiting +running +done", line)]
    for line, label in zip(lines[head + 1 : head + 4], ["perlmutter", "polaris", "local"], strict=True):
        assert re.match(rf"{label} +0 +0 +44 +0 +\S+/s", line), screen.shown()
    assert f"trend: {independent_trend():.3f} ppm per year" in lines
    assert sandbox.left(sandbox.cwd / "demo-run") == []


MOMENTS = {
    "service": "demo: service at",
    "first-endpoint": "demo: endpoint 'perlmutter'",
    "second-endpoint": "demo: endpoint 'polaris'",
    "progress": r"0 s  |1 s  ",
    "done": r"perlmutter: [^|]* [1-9]\d* done",
}


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("service", signal.SIGINT),
        ("first-endpoint", signal.SIGTERM),
        ("second-endpoint", signal.SIGINT),
        ("progress", signal.SIGTERM),
        ("done", signal.SIGINT),
    ],
)
def test_a_signal_at_a_moment(start, moment, number):
    demo = start("--no-plot")
    demo.read_until(MOMENTS[moment])
    demo.interrupt(number)
    demo.assert_interrupted()


def test_ctrl_c_when_all_is_done_but_the_ending(start, tmp_path):
    demo = start("--no-plot", "--experiments", str(tmp_path))  # which is empty, and soon told
    demo.read_until("demo: ending")
    demo.interrupt(signal.SIGINT)
    demo.assert_interrupted()
    assert "has no *.txt file" in demo.text


def test_ctrl_c_amid_the_join_apps(start):
    demo = start("--no-plot", "--workflow", "join")
    demo.read_until(MOMENTS["progress"])
    demo.interrupt(signal.SIGINT)
    demo.assert_interrupted()


@pytest.mark.parametrize("moment", ["first-endpoint", "progress"])
def test_a_second_ctrl_c_does_not_cut_the_ending_short(start, moment):
    demo = start("--no-plot")
    demo.read_until(MOMENTS[moment])
    demo.interrupt(signal.SIGINT)
    if moment == "progress":
        demo.read_until("Interrupted: what this workflow had started was ended")
        demo.interrupt(signal.SIGINT)
    demo.read_until("demo: ending")
    demo.interrupt(signal.SIGINT)
    demo.interrupt(signal.SIGTERM)
    demo.assert_interrupted()


@pytest.mark.parametrize("delay_s", [round(random.Random(SEED + i).uniform(0.4, 8), 2) for i in range(3)])
def test_ctrl_c_at_a_random_moment(start, delay_s):
    demo = start("--no-plot")
    with contextlib.suppress(subprocess.TimeoutExpired):
        demo.process.wait(delay_s)
    demo.interrupt(signal.SIGINT)
    demo.assert_interrupted()


def test_a_folder_with_files_of_others(start, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    demo = start("--run-dir", str(tmp_path))
    assert demo.end(RUN_S) == 1
    assert demo.text.count("\n") == 1
    assert "holds files that are not the demo's; choose another --run-dir." in demo.text
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_one_folder_for_one_demo_at_a_time_and_again_after_it(start, tmp_path):
    folder = tmp_path / "run"
    first = start("--run-dir", str(folder))
    first.read_until("demo: service at")
    second = start("--run-dir", str(folder))
    assert second.end(RUN_S) == 1
    assert "Another demo runs in" in second.text
    first.interrupt(signal.SIGINT)
    assert first.end(END_S) == INTERRUPTED
    again = start("--run-dir", str(folder))
    again.read_until("demo: service at")
    again.interrupt(signal.SIGINT)
    assert again.end(END_S) == INTERRUPTED


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--run-dir", "/proc/none"], "can't be used"),
        (["--run-dir", "with space"], "has spaces"),
        (["--experiments", "/none"], "The data folder /none can't be read: No such file or directory."),
    ],
)
def test_what_can_t_be_used_is_told_before_anything_starts(start, options, said):
    demo = start(*options)
    assert demo.end(RUN_S) == 1
    assert said in demo.text
    assert demo.text.count("\n") == 1
