"""What the service tells of an endpoint, in the terms of a user: is it there, and what has it to run tasks with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from parsl.jobs.states import JobState


@dataclass(frozen=True)
class EndpointStatus:
    """The state of an endpoint, as of its last report; `None` for what isn't told.

    Attributes:
        word: "online", "offline", "starting", or another of the service's; empty for an executor on this machine.
        running: Tasks that its workers run.
        blocks: Blocks of workers that run.
        queued: Blocks that wait in the scheduler's queue.
        workers: Workers that are connected.
        threads: Threads, for an executor that has these instead.
    """

    word: str
    running: int | None = None
    blocks: int | None = None
    queued: int | None = None
    workers: int | None = None
    threads: int | None = None

    def __str__(self) -> str:
        parts = [self.word] if self.word else []
        if self.blocks:
            parts.append(_number(self.blocks, "block"))
        if self.queued:
            parts.append(f"{self.queued} queued")
        if self.workers:
            parts.append(_number(self.workers, "worker"))
        if self.threads:
            parts.append(_number(self.threads, "thread"))
        return ", ".join(parts)


def blocks_and_workers(word: str, *, blocks: int | None, queued: int | None, workers: int | None) -> EndpointStatus:
    """A state whose word is "starting" where blocks are on their way and none has a worker yet."""
    if word in ("", "online") and not workers and (queued or (blocks and workers is not None)):
        word = "starting"
    return EndpointStatus(word, blocks=blocks, queued=queued, workers=workers)


def status_from(document: Mapping[str, Any]) -> EndpointStatus:
    """The state that the service's answer tells; an endpoint may have put anything into its report.

    A self-hosted service lists the user endpoints with their reports. A report of one's own endpoint has its blocks,
    the public agent's has a list of nodes by the scheduler's jobs.
    """
    word = str(document.get("status"))
    details = _mapping(document.get("details"))
    ours = details.get("parsl_globus")
    tasks = _mapping(_mapping(ours).get("tasks"))
    running = _count(tasks.get("running"))
    if word != "online":
        return EndpointStatus(word, running)
    if not isinstance(ours, Mapping):
        return _from_reports(word, [details])
    served = [one for one in _list(ours.get("user_endpoints")) if isinstance(one, Mapping)]
    status = _from_reports(word, [_mapping(one.get("report")) for one in served if one.get("online")])
    word = status.word
    if not status.workers and _count(tasks.get("waiting")):
        word = "starting"
    return EndpointStatus(word, running, status.blocks, status.queued, status.workers)


def _from_reports(word: str, reports: Iterable[Mapping[str, Any]]) -> EndpointStatus:
    blocks: list[int | None] = []
    queued: list[int | None] = []
    workers: list[int | None] = []
    for report in reports:
        told, nodes = report.get("blocks"), report.get("node_info")
        if isinstance(told, Mapping):
            states = [str(_mapping(block).get("status")) for block in told.values()]
            blocks.append(states.count(JobState.RUNNING.name))
            queued.append(states.count(JobState.PENDING.name))
        else:
            blocks.append(len(nodes) if isinstance(nodes, Mapping) else None)
        workers.append(_count(report.get("total_workers")))
    return blocks_and_workers(word, blocks=_sum(blocks), queued=_sum(queued), workers=_sum(workers))


def _number(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"


def _sum(numbers: Iterable[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
