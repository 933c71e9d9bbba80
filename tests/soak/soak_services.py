"""Many tasks through two service processes on PostgreSQL and RabbitMQ; one is killed in the middle and comes back.

`make soak` runs it with 100,000 tasks and keeps what it prints; the tests run it with 10,000.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import psutil
from _pytest.outcomes import OutcomeException
from parties import Answers, SimulatedEndpoint, Submitters
from postgres import Postgres
from rabbitmq import RabbitMQ
from service_processes import ServiceProcesses

from parsl_globus.client.connect import connect
from parsl_globus.client.rest import ServiceClient
from parsl_globus.executor.functions import Encoder, runner_registration
from parsl_globus.service.store.postgres import PostgresDatabase

_BATCH = 250
_SUBMITTERS = 4
#: Most tasks submitted and not answered.
_MOST_WAITING = 10_000
#: Shares of all tasks that are answered when one process is killed, and when it is started again.
_KILL_AT, _RESTART_AT = 0.4, 0.55
#: When nothing was answered for so long, nothing more will be; longer than a dead process keeps its lease.
_STALL_S = 90.0
_SAMPLE_S = 0.2
RSS_LIMIT_MB = 300.0


@dataclass
class Report:
    """What was seen.

    Attributes:
        tasks: How many were to run.
        accepted: How many the services took.
        answered: How many were answered over AMQP.
        fetched: How many more had their answer in the store only.
        lost: Tasks without an answer.
        contradictions: Tasks that were answered twice, differently.
        wrong: Tasks whose answer is not the one in the store.
        stored: Rows of tasks in the database by stage.
        task_repeats: Task messages that came more than once, which the protocol allows.
        result_repeats: Result messages likewise.
        submissions_repeated: Submissions sent again with the same key.
        submit_s: Until all were accepted.
        seconds: Until all were answered.
        longest_pause_s: The longest time without an answer.
        before_pause: How many were answered before it.
        killed_at: How many were answered at the kill.
        down_s: How long the killed process was away.
        rss_peak_mb: By process.
        cpu_s: Processor time by process.
        statuses_per_s: How fast the states of all were asked for at the end.
    """

    tasks: int
    accepted: int = 0
    answered: int = 0
    fetched: int = 0
    lost: int = 0
    contradictions: int = 0
    wrong: int = 0
    stored: dict[str, int] = field(default_factory=dict)
    task_repeats: int = 0
    result_repeats: int = 0
    submissions_repeated: int = 0
    submit_s: float = 0.0
    seconds: float = 0.0
    longest_pause_s: float = 0.0
    before_pause: int = 0
    killed_at: int = 0
    down_s: float = 0.0
    rss_peak_mb: dict[str, float] = field(default_factory=dict)
    cpu_s: dict[str, float] = field(default_factory=dict)
    statuses_per_s: float = 0.0

    @property
    def rate(self) -> float:
        """Tasks per second, from the first submission to the last answer."""
        return self.tasks / self.seconds if self.seconds else 0.0

    def problems(self) -> list[str]:
        """What is not as it must be."""
        must = {
            f"{self.accepted} of {self.tasks} tasks were accepted": self.accepted == self.tasks,
            f"{self.lost} tasks were lost": self.lost == 0,
            f"{self.contradictions} tasks were answered twice": self.contradictions == 0,
            f"{self.wrong} answers are not those in the store": self.wrong == 0,
            f"the store has {self.stored}": self.stored == {"success": self.tasks},
            f"no more than {RSS_LIMIT_MB:.0f} MB per process: {self.rss_peak_mb}": all(
                0 < peak < RSS_LIMIT_MB for peak in self.rss_peak_mb.values()
            ),
            "a process was killed amid the load": 0 < self.killed_at < self.tasks,
        }
        return [text for text, holds in must.items() if not holds]


class Sampler:
    """Watches memory and processor time of processes, in a thread, until it is stopped."""

    def __init__(self) -> None:
        self.rss_peak_mb: dict[str, float] = {}
        self.cpu_s: dict[str, float] = {}
        self._processes: dict[str, psutil.Process] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def watch(self, name: str, pid: int) -> None:
        self._processes[name] = psutil.Process(pid)

    def _run(self) -> None:
        while not self._stop.wait(_SAMPLE_S):
            for name, process in list(self._processes.items()):
                try:
                    rss_mb, times = process.memory_info().rss / 1e6, process.cpu_times()
                except psutil.NoSuchProcess:
                    continue
                if rss_mb:  # a process that was killed and not waited for has none
                    self.rss_peak_mb[name] = max(self.rss_peak_mb.get(name, 0.0), rss_mb)
                    self.cpu_s[name] = times.user + times.system

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def soak(tasks: int, folder: Path, postgres: Postgres, rabbit: RabbitMQ) -> Report:
    """Run it.

    Args:
        tasks: How many.
        folder: For what the services write.
        postgres: A server that runs.
        rabbit: A server that is not started yet.
    """
    report = Report(tasks)
    with ExitStack() as stack:
        url = stack.enter_context(postgres.database())
        database = PostgresDatabase(url)
        database.migrate()
        database.close()
        processes = ServiceProcesses(folder, url, rabbit.url)
        stack.callback(processes.close)
        rabbit.start(processes.broker_settings("b"))
        sampler = Sampler()
        for name in ("b", "a"):
            sampler.watch(name, processes.start(name).pid)
        sampler.start()
        stack.callback(sampler.stop)
        clients = {}
        for name in ("a", "b"):
            clients[name] = ServiceClient(connect(processes.url(name), credentials=processes.credentials(name)))
            stack.callback(clients[name].close)
        _run(report, stack, processes, clients, sampler)
        name = url.rpartition("/")[2]
        report.stored = {
            str(stage): int(str(count))
            for stage, count in postgres.execute("SELECT stage, count(*) FROM tasks GROUP BY stage", name)
        }
        report.rss_peak_mb, report.cpu_s = dict(sampler.rss_peak_mb), dict(sampler.cpu_s)
        processes.stop()
    return report


def _run(
    report: Report,
    stack: ExitStack,
    processes: ServiceProcesses,
    clients: dict[str, ServiceClient],
    sampler: Sampler,
) -> None:
    endpoint = SimulatedEndpoint(clients["b"], "soak")
    function_id = clients["a"].register_function(runner_registration())
    group_id = clients["b"].submit(endpoint.endpoint_id, [b'{"tasks":{},"create_queue":true}']).task_group_id
    answers = Answers(clients["b"], group_id)
    payload = str(Encoder().encode(pow, (3, 4), {}))
    window = max(2 * _SUBMITTERS * _BATCH, min(_MOST_WAITING, report.tasks // 5))
    submitters = Submitters(clients, endpoint.endpoint_id, function_id, group_id, payload, answers, window)
    for party in (endpoint, answers):
        party.start()
        stack.callback(party.stop)
    began_s = time.monotonic()
    sizes = [min(_BATCH, report.tasks - start) for start in range(0, report.tasks, _BATCH)]
    submitters.start(sizes, _SUBMITTERS)
    stack.callback(submitters.stop)
    accepted = threading.Thread(target=_note_accepted, args=(report, submitters, began_s), daemon=True)
    accepted.start()

    going = answers.wait(int(_KILL_AT * report.tasks), _STALL_S)
    if going:
        report.killed_at = len(answers.first)
        killed_s = time.monotonic()
        processes.kill("a")
        going = answers.wait(int(_RESTART_AT * report.tasks), _STALL_S)
        sampler.watch("a, started again", processes.start("a").pid)
        report.down_s = time.monotonic() - killed_s
    if going:
        answers.wait(report.tasks, _STALL_S)
    report.seconds = time.monotonic() - began_s
    accepted.join()
    submitters.finish()
    _check(report, clients, submitters, answers)
    report.task_repeats = endpoint.taken.total() - len(endpoint.taken)


def _note_accepted(report: Report, submitters: Submitters, began_s: float) -> None:
    for thread in submitters.threads:
        thread.join()
    report.submit_s = time.monotonic() - began_s


def _check(report: Report, clients: dict[str, ServiceClient], submitters: Submitters, answers: Answers) -> None:
    """Ask for each task at the process that did not accept it."""
    with answers.changed:
        first = dict(answers.first)
        report.result_repeats, report.contradictions = answers.repeats, answers.contradictions
        report.longest_pause_s, report.before_pause = answers.longest_pause_s, answers.before_pause
    accepted = {task_id for ids in submitters.accepted.values() for task_id in ids}
    report.accepted = len(accepted)
    report.submissions_repeated = submitters.repeated
    report.answered = len(accepted & first.keys())
    report.contradictions += len(first.keys() - accepted)
    began_s = time.monotonic()
    for name, ids in submitters.accepted.items():
        (other,) = (client for known, client in clients.items() if known != name)
        statuses = other.task_statuses(ids)
        for task_id in ids:
            status = statuses.get(task_id)
            if status is None or status.result is None:
                report.lost += 1
            elif task_id not in first:
                report.fetched += 1
            elif first[task_id] != status.result:
                report.wrong += 1
    report.statuses_per_s = len(accepted) / (time.monotonic() - began_s)


def text(report: Report, postgres_version: str) -> str:
    """The report for people."""
    rows = [
        ("date", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())),
        ("machine", f"{os.cpu_count()} cores for all parties, {psutil.virtual_memory().total / 1e9:.1f} GB; {_load()}"),
        ("versions", _versions(postgres_version)),
        ("tasks", f"{report.tasks}, in batches of {_BATCH} with idempotency keys, {_SUBMITTERS} at a time"),
        ("accepted", f"{report.accepted} in {report.submit_s:.1f} s"),
        ("answered", f"{report.answered} over AMQP in {report.seconds:.1f} s: {report.rate:.0f} tasks/s"),
        ("fetched by REST", str(report.fetched)),
        ("lost", str(report.lost)),
        ("answered twice", str(report.contradictions + report.wrong)),
        ("rows in the store", ", ".join(f"{count} {stage}" for stage, count in report.stored.items())),
        ("killed -9", f"process a at {report.killed_at} answers, away for {report.down_s:.1f} s"),
        ("longest pause", f"{report.longest_pause_s:.1f} s without an answer, after {report.before_pause} answers"),
        (
            "sent again",
            f"{report.submissions_repeated} submissions, {report.task_repeats} task messages, "
            f"{report.result_repeats} result messages",
        ),
        ("states asked", f"{report.statuses_per_s:.0f}/s"),
        ("peak RSS, MB", "; ".join(f"{name}: {peak:.0f}" for name, peak in sorted(report.rss_peak_mb.items()))),
        ("processor, s", "; ".join(f"{name}: {cpu:.1f}" for name, cpu in sorted(report.cpu_s.items()))),
        ("verdict", "; ".join(report.problems()) or "as it must be"),
    ]
    return "\n".join(f"{name + ':':<20}{value}" for name, value in rows)


def _load() -> str:
    return f"load of the last 5 minutes: {os.getloadavg()[1]:.1f}"


def _versions(postgres_version: str) -> str:
    (rabbit, *_) = sorted(path.name.rpartition("-")[2] for path in Path("/usr/lib/rabbitmq/lib").glob("*_server-*"))
    return (
        f"parsl-globus {version('parsl-globus')}, Python {platform.python_version()}, "
        f"PostgreSQL {postgres_version}, RabbitMQ {rabbit}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--keep", type=Path, help="a file for the report, besides")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    for name in ("pika", "globus_sdk"):  # each tells of the killed process in its own words
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        for part in ("rabbitmq", "services"):
            (folder / part).mkdir()
        try:
            postgres = Postgres()
            stack.callback(postgres.close)
            postgres.start()
            rabbit = RabbitMQ(folder / "rabbitmq")
            stack.callback(rabbit.close)
            report = soak(options.tasks, folder / "services", postgres, rabbit)
        except OutcomeException as exc:  # what the tests' servers say when they can't start
            print(exc, file=sys.stderr)
            return 2
        ((server_version,),) = postgres.execute("SHOW server_version")
    written = text(report, str(server_version))
    if options.keep:
        options.keep.parent.mkdir(parents=True, exist_ok=True)
        options.keep.write_text(written + "\n")
    print(json.dumps({**asdict(report), "rate": report.rate}, indent=1) if options.json else written)
    return 1 if report.problems() else 0


if __name__ == "__main__":
    sys.exit(main())
