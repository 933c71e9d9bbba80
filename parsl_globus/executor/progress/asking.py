"""Asks the executors what only they know: how many tasks run, and what there is to run them.

Some answers take a round trip, to the service or to HTEX's interchange, and one that never comes must hold up neither
the view nor the other answers: each executor that has to be asked has a thread here.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from parsl.executors import HighThroughputExecutor, ThreadPoolExecutor
from parsl.executors.status_handling import BlockProviderExecutor
from parsl.jobs.states import JobState

from parsl_globus.executor.endpoint_status import EndpointStatus, blocks_and_workers
from parsl_globus.executor.executor import GlobusComputeExecutor

logger = logging.getLogger(__name__)

#: How often an executor is asked, in seconds.
PERIOD_S = 1.0
#: The same where the service does not tell how many tasks run, as Globus's own, which limits requests; at most.
HOSTED_PERIOD_S = 15.0
#: How long the end of the view waits for an answer that is under way, in seconds.
LAST_ANSWER_S = 0.5


@dataclass(frozen=True)
class Answer:
    """What an executor said last.

    Attributes:
        running: Tasks that workers run; `None` when it can't be known.
        endpoint: What runs them, `None` for an executor that has nothing to tell, or has not been heard yet.
    """

    running: int | None = None
    endpoint: EndpointStatus | None = None


class Asking:
    """Asks all executors of a workflow, from `start` to `stop`.

    Args:
        executors: By label.
    """

    def __init__(self, executors: Mapping[str, Any]) -> None:
        self._executors = dict(executors)
        self._answers: dict[str, Answer] = {}
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(label, ask), name=f"{label}-progress-asks", daemon=True)
            for label, ask in _to_be_asked(self._executors)
        ]

    def start(self) -> None:
        """Begin to ask."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ask no more; also if not all could be started."""
        self._stopping.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(LAST_ANSWER_S)

    def answer(self, label: str, sent: int) -> Answer:
        """What is known now; takes no round trip.

        Args:
            label: Of the executor, or a name that is none's.
            sent: How many tasks it has: no more can run.
        """
        executor = self._executors.get(label)
        if executor is None:
            return Answer(running=sent)  # a join_app: Parsl's own threads have it at once
        if isinstance(executor, ThreadPoolExecutor):
            threads = executor.max_threads
            return Answer() if threads is None else Answer(min(sent, threads), EndpointStatus("", threads=threads))
        said = self._answers.get(label, Answer())
        endpoint = said.endpoint
        if isinstance(executor, BlockProviderExecutor):
            endpoint = _with_blocks(executor, endpoint)
        return Answer(None if said.running is None else min(sent, said.running), endpoint)

    def _run(self, label: str, ask: Callable[[], Answer]) -> None:
        period_s = PERIOD_S
        while not self._stopping.is_set():
            try:
                answer = self._answers[label] = ask()
            except Exception as exc:  # noqa: BLE001 - the outermost loop; whatever is wrong, only this view lacks it
                answer = self._answers[label] = Answer()
                logger.info("%s does not tell its state: %s", label, exc)
            period_s = _next_period_s(answer, period_s)
            self._stopping.wait(period_s)


def _next_period_s(answer: Answer, period_s: float) -> float:
    """Who gives no answer is asked ever more rarely: a service that limits requests gives none when there are more."""
    if answer.running is not None:
        return PERIOD_S
    told = answer.endpoint is not None and answer.endpoint.word in ("online", "offline")
    return HOSTED_PERIOD_S if told else min(2 * period_s, HOSTED_PERIOD_S)


def _to_be_asked(executors: Mapping[str, Any]) -> Iterator[tuple[str, Callable[[], Answer]]]:
    for label, executor in executors.items():
        if isinstance(executor, GlobusComputeExecutor):
            yield label, _endpoint_of(executor)
        elif isinstance(executor, HighThroughputExecutor):
            yield label, _managers_of(executor)


def _endpoint_of(executor: GlobusComputeExecutor) -> Callable[[], Answer]:
    def ask() -> Answer:
        status = executor.endpoint_status()
        return Answer(status.running, status)

    return ask


def _managers_of(executor: HighThroughputExecutor) -> Callable[[], Answer]:
    def ask() -> Answer:
        interchange = executor.interchange_proc
        if executor.bad_state_is_set or interchange is None or interchange.poll() is not None:
            return Answer()  # Parsl would wait for ever for the answer of an interchange that is gone
        managers = executor.connected_managers()
        running = sum(int(min(manager["tasks"], manager["worker_count"])) for manager in managers)
        return Answer(running, EndpointStatus("", workers=sum(int(manager["worker_count"]) for manager in managers)))

    return ask


def _with_blocks(executor: BlockProviderExecutor, told: EndpointStatus | None) -> EndpointStatus:
    """Parsl's job status poller keeps the blocks' states; reading them asks nobody."""
    states = [status.state for status in list(executor.status_facade.values())]
    return blocks_and_workers(
        "broken" if executor.bad_state_is_set else "",
        blocks=states.count(JobState.RUNNING),
        queued=states.count(JobState.PENDING),
        workers=told.workers if told is not None else None,
    )
