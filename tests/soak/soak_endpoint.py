"""Rounds in which one part of an endpoint or its service is killed at a random moment amid tasks, and comes back.

`make soak-endpoint` runs 50 and keeps what it prints; the tests run five. A round is known by its seed.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import psutil
from once import Work, wait_until
from outages import NAME, WORKERS, Outages

from parsl_globus import GlobusComputeExecutor
from parsl_globus.client.rest import ServiceClient
from parsl_globus.errors import TaskLost, WorkerLost
from parsl_globus.testing.site import LocalSite

#: What is killed, by the seed.
VICTIMS = ("service", "user endpoint", "manager", "interchange", "pool", "worker")
#: Tasks that wait from the start, and that arrive while others run.
_WAITING, _ARRIVING = 60, 40
#: How long a task takes at most, and the times in which the kill and, if there is one, the second kill come.
_TAKES_S, _KILL_S, _SECOND_KILL_S = 0.2, 2.5, 9.0
_DEADLINE_S = 90.0
#: How long what was killed, or has lost its parent, may take to be gone.
_ORPHANS_S = 30.0

#: How their command lines are told apart.
_WORDS: dict[str, tuple[str, ...]] = {
    "service": ("parsl_globus.cli", "service", "run"),
    "user endpoint": ("parsl_globus.endpoint.user_endpoint",),
    "manager": ("parsl_globus.cli", "endpoint", "run", NAME),
    "interchange": ("interchange",),
    "pool": ("parsl.executors.high_throughput.process_worker_pool",),
}
_WORKER = "spawn_main"
#: What may be killed once more, while the endpoint recovers.
_SECOND_VICTIMS = ("user endpoint", "manager", "interchange", "pool")


@dataclass
class Round:
    """What was seen in one.

    Attributes:
        seed: By which it can be run again.
        victim: What was killed.
        killed_s: When, after the first submission.
        state: What the tasks did then.
        second: What was killed as well, and when.
        tasks: How many there were.
        done: With a value.
        lost: By the error's name.
        not_begun: Lost ones whose body left no file.
        seconds: Until all were answered.
        fresh_s: How long a new task took then.
        orphans: Processes that should be gone.
        problems: What is not as it must be.
    """

    seed: int
    victim: str
    killed_s: float = 0.0
    state: str = ""
    second: str = ""
    tasks: int = 0
    done: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    not_begun: set[int] = field(default_factory=set)
    seconds: float = 0.0
    fresh_s: float = 0.0
    orphans: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lost = ", ".join(f"{self.lost[name]} {name}" for name in ("TaskLost", "WorkerLost"))
        return (
            f"seed {self.seed:>2}: {self.victim:<13} killed at {self.killed_s:4.2f} s ({self.state}){self.second}; "
            f"{self.tasks} tasks, {self.done:>3} done, {lost}; all after {self.seconds:4.1f} s, "
            f"a fresh one {self.fresh_s:4.2f} s, orphans {self.orphans}: {'; '.join(self.problems) or 'ok'}"
        )


class Soak:
    """A site, and a workflow that lives through all rounds.

    Args:
        folder: Of the site and of the tasks' files.
        twice: Whether there is a second kill in each round, while the endpoint recovers from the first.
    """

    def __init__(self, folder: Path, *, twice: bool = False) -> None:
        self._folder = folder
        self._twice = twice
        self.outages = Outages(LocalSite(folder / "site"), public_only=False)
        self._works: list[tuple[Round, Work]] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start what is needed; end it."""
        site = self.outages.site
        try:
            self.outages.make_whole()
            client = site.client()
            self._service = ServiceClient(client)
            self._executor = GlobusComputeExecutor(site.endpoint_id(NAME), client=client)
            self._executor.start()
            try:
                self._executor.submit(abs, {}, -1).result(_DEADLINE_S)
                yield
            finally:
                self._executor.shutdown()
        finally:
            site.stop()

    def round(self, seed: int) -> Round:
        """Run one."""
        chance = random.Random(seed)
        seen = Round(seed, VICTIMS[seed % len(VICTIMS)])
        folder = self._folder / f"round-{seed}"
        folder.mkdir()
        work = Work(self._executor, folder)
        killed_s = chance.uniform(0.0, _KILL_S)
        wait_until(lambda: bool(self._find(seen.victim)), f"there is no {seen.victim}")
        victim = chance.choice(self._find(seen.victim))
        doomed = self._doomed(seen.victim, victim)
        work.submit(1)  # whatever is done once for the first is over
        began_s = time.monotonic()
        with ThreadPoolExecutor(1) as killer:
            # Another thread, so that tasks arrive also while it starts again what was killed.
            killing = killer.submit(self._kills, seen, victim, work, began_s, killed_s, doomed)
            for _ in range(_WAITING - 1):
                work.submit(1, takes_s=chance.uniform(0.0, _TAKES_S))
            pause = threading.Event()
            for _ in range(_ARRIVING):
                pause.wait(chance.uniform(0.0, 2 * _KILL_S / _ARRIVING))
                work.submit(1, takes_s=chance.uniform(0.0, _TAKES_S))
            killing.result()
        wait(work.futures.values(), _DEADLINE_S)
        seen.seconds = time.monotonic() - began_s
        seen.tasks = len(work.futures)
        self._judge(seen, work)
        self._fresh(seen, work)
        seen.orphans = self._orphans(doomed)
        if seen.orphans:
            seen.problems.append(f"{seen.orphans} processes are left")
        self._works.append((seen, work))
        return seen

    def late_problems(self) -> list[str]:
        """What came to light after its round: bodies that ran again, or although they were told to be lost."""
        found = []
        for seen, work in self._works:
            late = seen.not_begun & work.begun()
            if late:
                found.append(f"seed {seen.seed}: tasks {late} ran after they were told to be lost")
            if work.again():
                found.append(f"seed {seen.seed}: {work.again()} ran again")
        return found

    # ---- killing ------------------------------------------------------------------------------------------------

    def _find(self, kind: str) -> list[psutil.Process]:
        if kind != "worker":
            return self.outages.runs(*_WORDS[kind])
        workers = []
        for pool in self._find("pool"):
            children = [child for child in pool.children() if _WORKER in " ".join(_line(child))]
            # The first is no worker, but serves their shared objects.
            workers += sorted(children, key=lambda child: child.create_time())[1:]
        return workers

    def _doomed(self, kind: str, victim: psutil.Process) -> list[psutil.Process]:
        """What must be gone after the kill, besides what a later look finds without a parent."""
        if kind in ("user endpoint", "manager", "interchange"):
            service = self._find("service") + self._find("manager")
            return [victim, *(process for process in self.outages.site.processes() if process not in service)]
        return [victim, *(victim.children(recursive=True) if kind == "pool" else ())]

    def _kills(
        self,
        seen: Round,
        victim: psutil.Process,
        work: Work,
        began_s: float,
        at_s: float,
        doomed: list[psutil.Process],
    ) -> None:
        _wait_for(began_s + at_s)
        submitted, begun, done = len(work.futures), len(work.begun()), work.done()
        seen.killed_s = time.monotonic() - began_s
        self._kill(seen.victim, victim)
        running = max(0, begun - done)
        seen.state = f"{done:>3} answered, {running:>3} begun, {submitted - done - running:>3} waiting"
        if self._twice:
            chance = random.Random(10_000 + seen.seed)
            kind, at_s = chance.choice(_SECOND_VICTIMS), seen.killed_s + chance.uniform(0.0, _SECOND_KILL_S)
            _wait_for(began_s + at_s)
            wait_until(lambda: bool(self._find(kind)), f"no {kind} came")
            second = self._find(kind)[0]
            doomed += self._doomed(kind, second)
            seen.second = f", {kind} at {time.monotonic() - began_s:4.2f} s ({work.done()} answered)"
            self._kill(kind, second)

    def _kill(self, kind: str, victim: psutil.Process) -> None:
        """Kill it, and start it again if nobody else does."""
        victim.kill()
        if kind == "service":
            self.outages.site.stop_service(kill=True)
            self.outages.start_service()
        elif kind == "manager":
            self.outages.site.run("endpoint", "start", NAME)

    # ---- judging ------------------------------------------------------------------------------------------------

    def _judge(self, seen: Round, work: Work) -> None:
        begun = work.begun()
        for number, future in work.futures.items():
            if not future.done():
                seen.problems.append(f"task {number} is not answered")
                continue
            error = future.exception()
            if error is None:
                seen.done += 1
                if future.result() != 2 * number or number not in begun:
                    seen.problems.append(f"task {number} gave {future.result()!r}; begun: {number in begun}")
            elif isinstance(error, (TaskLost, WorkerLost)):
                seen.lost[type(error).__name__] += 1
                if number not in begun:
                    seen.not_begun.add(number)
            else:
                seen.problems.append(f"task {number} failed: {_short(error)}")
        # A worker may end between its mark and the first line of the body.
        if len(seen.not_begun) > (2 if self._twice else 1) * WORKERS:
            seen.problems.append(f"{len(seen.not_begun)} tasks were lost that had not begun")
        if seen.victim == "service" and not self._twice and seen.lost:
            seen.problems.append("tasks were lost, although the endpoint lived")
        if work.again():
            seen.problems.append(f"ran again: {work.again()}")
        self._compare(seen, work)

    def _compare(self, seen: Round, work: Work) -> None:
        """Whether the service has the same answers: one that came later would not be seen in a future."""
        by_id = {future.globus_task_id: future for future in work.futures.values() if _is_told(future)}  # type: ignore[attr-defined]
        statuses = self._service.task_statuses(by_id)
        for task_id, future in by_id.items():
            status = statuses.get(task_id)
            stored = None if status is None else status.status
            if stored != ("success" if future.exception() is None else "failed"):
                seen.problems.append(f"task {task_id} is {stored} at the service; the future has {future!r}")

    def _fresh(self, seen: Round, work: Work) -> None:
        began_s = time.monotonic()
        (number,) = work.submit(1)
        try:
            work.futures[number].result(_DEADLINE_S)
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is told
            seen.problems.append(f"a fresh task failed: {_short(exc)}")
        seen.fresh_s = time.monotonic() - began_s

    def _orphans(self, doomed: list[psutil.Process]) -> int:
        """How many processes are left in the end that should not be."""
        deadline_s = time.monotonic() + _ORPHANS_S
        pause = threading.Event()
        while (count := self._count_orphans(doomed)) and time.monotonic() < deadline_s:
            pause.wait(0.1)
        return count

    def _count_orphans(self, doomed: list[psutil.Process]) -> int:
        found = {process.pid for process in doomed if _lives(process)}
        for kind in VICTIMS[:-1]:
            found.update(process.pid for process in self._find(kind)[1:])  # there is one of each
        pools = {process.pid for process in self._find("pool")}
        found.update(worker.pid for worker in self.outages.runs(_WORKER) if _parent(worker) not in pools)
        return len(found)


def _wait_for(moment_s: float) -> None:
    threading.Event().wait(max(0.0, moment_s - time.monotonic()))


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"


def _line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _parent(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.Error:
        return None


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_told(future: Future[object]) -> bool:
    return future.done() and hasattr(future, "globus_task_id")


def _head() -> str:
    return "\n".join(
        (
            f"date:     {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}",
            f"machine:  {os.cpu_count()} cores, {psutil.virtual_memory().total / 1e9:.1f} GB; "
            f"load of the last 5 minutes: {os.getloadavg()[1]:.1f}",
            f"versions: parsl-globus {version('parsl-globus')}, parsl {version('parsl')}, "
            f"Python {platform.python_version()}",
            f"tasks:    {_WAITING} at once and {_ARRIVING} over {_KILL_S:.0f} s in each round, {WORKERS} workers; one "
            "workflow, service and endpoint for all rounds; no retries",
            "",
        )
    )


def _foot(rounds: list[Round], late: list[str]) -> str:
    bad = sum(1 for seen in rounds if seen.problems)
    lost = sum((seen.lost for seen in rounds), Counter[str]())
    return "\n".join(
        (
            "",
            f"rounds:   {len(rounds)}, {bad} not as they must be",
            f"tasks:    {sum(seen.tasks for seen in rounds)}, {sum(seen.done for seen in rounds)} done, "
            f"{lost['TaskLost']} TaskLost, {lost['WorkerLost']} WorkerLost, of which "
            f"{sum(len(seen.not_begun) for seen in rounds)} were lost between mark and body",
            f"verdict:  {'as it must be' if not bad and not late else '; '.join(late) or 'see above'}",
        )
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument(
        "--twice", action="store_true", help="kill once more in each round, while the endpoint recovers"
    )
    parser.add_argument("--keep", type=Path, help="a file for what is printed, besides")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    for name in ("pika", "globus_sdk"):  # each tells of the killed process in its own words
        logging.getLogger(name).setLevel(logging.CRITICAL)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    soak, rounds, lines = Soak(folder, twice=options.twice), [], [_head()]
    print(lines[0], flush=True)
    with soak.running():
        for seed in range(options.first_seed, options.first_seed + options.rounds):
            rounds.append(soak.round(seed))
            lines.append(str(rounds[-1]))
            print(lines[-1], flush=True)
        late = soak.late_problems()
    lines.append(_foot(rounds, late))
    print(lines[-1])
    if options.keep:
        options.keep.parent.mkdir(parents=True, exist_ok=True)
        options.keep.write_text("\n".join(lines) + "\n")
    if late or any(seen.problems for seen in rounds):
        print(f"The logs are in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
