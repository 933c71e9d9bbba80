"""Runs the rows: a row's contenders right after one another, round by round, so that they meet the same machine."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from bench import chain
from bench.pace import Pace
from bench.process import ContenderFailedError, Program
from bench.progress import Progress
from bench.rows import ROWS, Row, rounds_of
from bench.stage import Stage

#: One row of one contender, or the start of its workflow, may take this long, whatever else the machine does.
_ROW_LIMIT_S = 300.0
#: After so many starts of a workflow that failed, no more are tried.
_TRIES = 2


@dataclass
class Measured:
    """What a row gave for a contender.

    Attributes:
        values: A value per round; `None` where the contender failed.
        failed: Tasks that failed, per round.
        why: Why the contender failed, each reason once.
        cpu_us: Processor time of each part per task, in microseconds, per round that gave a value.
        memory_mb: Peak memory of each part, likewise.
        extra: What else the workflow told, likewise.
    """

    backend: str
    row: str
    kind: str
    unit: str
    count: int
    values: list[float | None] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    why: list[str] = field(default_factory=list)
    cpu_us: list[dict[str, float]] = field(default_factory=list)
    memory_mb: list[dict[str, float]] = field(default_factory=list)
    extra: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        kinds: Contenders, in order.
        rows: Which rows.
        repeats: How many rounds.
        quick: Whether to take the short counts.
        count: Tasks of each row, instead of its own count.
    """

    kinds: Sequence[str]
    rows: Sequence[Row]
    repeats: int
    quick: bool = False
    count: int | None = None

    def steps(self, backend: str) -> int:
        """How many values there will be."""
        return sum(rounds_of(kind, backend, self.repeats) for row in self.rows for kind in self._kinds_of(row))

    def contenders(self, row: Row, backend: str, number: int) -> list[str]:
        """Who takes part in a row's round: whoever comes first meets another machine than whoever comes last."""
        found = [kind for kind in self._kinds_of(row) if number < rounds_of(kind, backend, self.repeats)]
        return found if number % 2 == 0 else found[::-1]

    def _kinds_of(self, row: Row) -> list[str]:
        # Cold, the two public ones are the same.
        return [kind for kind in self.kinds if row.name != "cold" or kind != "unlimited" or "public" not in self.kinds]

    def size(self, row: Row, kind: str) -> int:
        """How many tasks a contender gets."""
        return 1 if row.name == "cold" else self.count or row.size(kind, quick=self.quick)


class Rounds:
    """All rows on one stage.

    Args:
        backend: The stage's name.
        stage: Where.
        plan: What.
        progress: Told of each value.
        pace: Noted before each.
        share: After this share of the run's time no further round is begun.
    """

    def __init__(
        self, backend: str, stage: Stage, plan: Plan, progress: Progress, pace: Pace, *, share: float = 1.0
    ) -> None:
        self._backend = backend
        self._stage = stage
        self._plan = plan
        self._progress = progress
        self._pace = pace
        self._share = share
        self._endpoints: dict[str, uuid.UUID | None] = {}
        self._workflows: dict[str, Program] = {}
        self._tried: dict[str, int] = {}
        self.measured: dict[tuple[str, str], Measured] = {}

    def run(self) -> list[Measured]:
        """Run them; a contender that fails is noted, and the others go on."""
        rows = self._plan.rows
        self._each_round([row for row in rows if row.name == "cold"], self._cold)
        others = [row for row in rows if row.name != "cold"]
        if others:
            with ExitStack() as stack:
                stack.callback(self._close)
                self._each_round(others, self._warm)
        order = {row.name: number for number, row in enumerate(ROWS)}
        kinds = list(self._plan.kinds)
        return sorted(self.measured.values(), key=lambda one: (order[one.row], kinds.index(one.kind)))

    def _each_round(self, rows: Sequence[Row], measure: Any) -> None:
        for number in range(self._plan.repeats):
            contenders = [(row, kind) for row in rows for kind in self._plan.contenders(row, self._backend, number)]
            if number and contenders and self._progress.over(self._share):
                self._progress.step(f"{self._backend}: a round is left out, time is up", steps=len(contenders))
                continue
            for row, kind in contenders:
                self._pace.note()
                try:
                    measure(row, kind)
                except ContenderFailedError as exc:
                    self._failed(row, kind, str(exc))

    def _warm(self, row: Row, kind: str) -> None:
        if self._tried.get(kind, 0) >= _TRIES:
            raise ContenderFailedError("its workflow could not be started")
        if kind not in self._endpoints:
            self._endpoints[kind] = self._start_endpoint(kind)
        if row.apart:
            self._apart(row, kind)
            return
        if kind not in self._workflows:
            self._workflows[kind] = self._stage.workflow(kind, self._endpoints[kind])
            self._warm_up(kind, self._workflows[kind])
        try:
            self._measure(row, self._workflows[kind])
        except ContenderFailedError:
            self._workflows.pop(kind).close()
            raise

    def _start_endpoint(self, kind: str) -> uuid.UUID | None:
        shared = {"unlimited": "public", "public": "unlimited"}.get(kind)
        if shared in self._endpoints:
            return self._endpoints[shared]
        try:
            return self._stage.start_endpoint(kind)
        except ContenderFailedError:
            self._tried[kind] = _TRIES
            raise

    def _warm_up(self, kind: str, workflow: Program) -> None:
        try:
            workflow.ask(_ROW_LIMIT_S, row="warm")
        except ContenderFailedError:
            self._tried[kind] = self._tried.get(kind, 0) + 1
            self._workflows.pop(kind).close()
            raise

    def _apart(self, row: Row, kind: str) -> None:
        workflow = self._stage.workflow(kind, self._endpoints[kind], monitoring=row.monitoring)
        try:
            if kind in ("ours", "local") or not row.monitoring:  # the others' monitored tasks fail
                workflow.ask(_ROW_LIMIT_S, row="warm")
            self._measure(row, workflow)
        finally:
            workflow.close()

    def _measure(self, row: Row, workflow: Program) -> None:
        count = self._plan.size(row, workflow.kind)
        processes = self._stage.chain(workflow)
        chain.forget_peaks(processes)
        before = chain.sample(workflow.pid, processes)
        answer = workflow.ask(_ROW_LIMIT_S, row=row.name, count=count)
        spent = chain.between(before, chain.sample(workflow.pid, processes))
        one = self._note(row, workflow.kind, answer)
        one.cpu_us.append({part: round(1e6 * seconds / count, 1) for part, seconds in spent.items()})
        one.memory_mb.append(chain.peaks_mb(workflow.pid, processes))

    def _cold(self, row: Row, kind: str) -> None:
        """From the start of the workflow's process, on an endpoint that runs nothing yet, to its first result."""
        began = time.monotonic()
        endpoint_id = self._stage.start_endpoint(kind)
        started_s = time.monotonic() - began
        workflow = self._stage.workflow(kind, endpoint_id)
        try:
            answer = workflow.ask(_ROW_LIMIT_S, row="latency", count=1)
            answer["value"] = time.monotonic() - workflow.began_s
            answer["endpoint_start_s"] = started_s
        finally:
            workflow.close()
            self._stage.stop_endpoint(kind)
        self._note(row, kind, answer)

    def _of(self, row: Row, kind: str) -> Measured:
        count = self._plan.size(row, kind)
        return self.measured.setdefault((row.name, kind), Measured(self._backend, row.name, kind, row.unit, count))

    def _note(self, row: Row, kind: str, answer: dict[str, Any]) -> Measured:
        one = self._of(row, kind)
        value = answer.pop("value")
        one.values.append(value)
        one.failed.append(answer.pop("failed", 0))
        one.extra.append(answer)
        failed = f", {one.failed[-1]} of {one.count} failed" if one.failed[-1] else ""
        self._progress.step(f"{self._backend:<9} {row.name:<10} {kind:<10} {value:10.2f} {row.unit}{failed}")
        return one

    def _failed(self, row: Row, kind: str, why: str) -> None:
        one = self._of(row, kind)
        one.values.append(None)
        one.failed.append(one.count)
        if why not in one.why:
            one.why.append(why)
        self._progress.step(f"{self._backend:<9} {row.name:<10} {kind:<10} failed: {why}")

    def _close(self) -> None:
        with ExitStack() as stack:
            for kind in self._endpoints:
                stack.callback(self._stage.stop_endpoint, kind)
            for workflow in self._workflows.values():
                stack.callback(workflow.close)
