"""Runs the rows: a row's contenders right after one another, round by round, so that they meet the same machine."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from bench import chain
from bench.rows import ROWS, Row
from bench.stage import Stage, WorkflowProcess

logger = logging.getLogger(__name__)


@dataclass
class Measured:
    """What a row gave for a contender, a value per round.

    Attributes:
        cpu_us: Processor time of each part per task, in microseconds.
        extra: What else the workflow told.
    """

    backend: str
    row: str
    kind: str
    unit: str
    count: int
    values: list[float] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    cpu_us: list[dict[str, float]] = field(default_factory=list)
    extra: list[dict[str, Any]] = field(default_factory=list)


class Rounds:
    """All rows on one stage.

    Args:
        backend: The stage's name.
        stage: Where.
        kinds: Contenders, in order.
        rows: Which rows.
        repeats: How many rounds.
        quick: Whether to take the short counts.
        count: Tasks of each row, instead of its own count.
    """

    def __init__(
        self,
        backend: str,
        stage: Stage,
        kinds: Sequence[str],
        rows: Sequence[Row],
        *,
        repeats: int,
        quick: bool,
        count: int | None = None,
    ) -> None:
        self._backend = backend
        self._stage = stage
        self._kinds = kinds
        self._rows = rows
        self._repeats = repeats
        self._quick = quick
        self._count = count
        self.measured: dict[tuple[str, str], Measured] = {}

    def run(self) -> list[Measured]:
        """Run them."""
        if any(row.name == "cold" for row in self._rows):
            for _round in range(self._repeats):
                for kind in self._kinds:
                    if kind != "unlimited":
                        self._cold(kind)
        others = [row for row in self._rows if row.name != "cold"]
        if others:
            self._warm_rounds(others)
        order = {row.name: number for number, row in enumerate(ROWS)}
        return sorted(self.measured.values(), key=lambda one: (order[one.row], list(self._kinds).index(one.kind)))

    def _warm_rounds(self, rows: Sequence[Row]) -> None:
        with ExitStack() as stack:
            endpoints = {}
            for kind in self._kinds:
                if kind == "unlimited" and "public" in endpoints:
                    endpoints[kind] = endpoints["public"]
                    continue
                endpoints[kind] = self._stage.start_endpoint(kind)
                stack.callback(self._stage.stop_endpoint, kind)
            workflows = {}
            if not all(row.apart for row in rows):
                for kind in self._kinds:
                    workflows[kind] = self._stage.workflow(kind, endpoints[kind])
                    stack.callback(workflows[kind].close)
                    workflows[kind].run("warm")
            for number in range(self._repeats):
                for row in rows:
                    # Whoever comes first meets another machine than whoever comes last.
                    for kind in self._kinds if number % 2 == 0 else list(reversed(self._kinds)):
                        if row.apart:
                            self._apart(row, kind, endpoints[kind])
                        else:
                            self._measure(row, workflows[kind])

    def _measure(self, row: Row, workflow: WorkflowProcess) -> None:
        kind = workflow.kind
        count = self._count or row.size(kind, quick=self._quick)
        processes = self._stage.chain(workflow)
        before = chain.sample(workflow.pid, processes)
        answer = workflow.run(row.name, count=count)
        spent = chain.between(before, chain.sample(workflow.pid, processes))
        self._note(row, kind, count, answer, {part: 1e6 * seconds / count for part, seconds in spent.items()})

    def _apart(self, row: Row, kind: str, endpoint_id: Any) -> None:
        workflow = self._stage.workflow(kind, endpoint_id, monitoring=row.monitoring)
        try:
            if kind in ("ours", "local") or not row.monitoring:  # the others' monitored tasks fail
                workflow.run("warm")
            self._measure(row, workflow)
        finally:
            workflow.close()

    def _cold(self, kind: str) -> None:
        """From the start of the workflow's process, on an endpoint that runs nothing yet, to its first result."""
        began = time.monotonic()
        endpoint_id = self._stage.start_endpoint(kind)
        started_s = time.monotonic() - began
        workflow = self._stage.workflow(kind, endpoint_id)
        try:
            answer = workflow.run("latency", count=1)
            answer["value"] = time.monotonic() - workflow.began_s
            answer["endpoint_start_s"] = started_s
        finally:
            workflow.close()
            self._stage.stop_endpoint(kind)
        self._note(next(row for row in ROWS if row.name == "cold"), kind, 1, answer, {})

    def _note(self, row: Row, kind: str, count: int, answer: dict[str, Any], cpu_us: dict[str, float]) -> None:
        one = self.measured.setdefault((row.name, kind), Measured(self._backend, row.name, kind, row.unit, count))
        one.values.append(answer.pop("value"))
        one.failed.append(answer.pop("failed", 0))
        one.cpu_us.append(cpu_us)
        one.extra.append(answer)
        logger.info("%-9s %-10s %-10s %10.2f %s", self._backend, row.name, kind, one.values[-1], row.unit)
