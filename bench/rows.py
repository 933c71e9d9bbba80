"""What is measured: the rows of the table, how large each is, and what is aimed at."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: As `--rows` takes it, and as the workflow's method is called.
        title: In the table; `{count}` is how many tasks.
        unit: Of the value.
        count: Tasks in a long run.
        quick: Tasks in a quick run.
        target: Bound of the ratio to local HTEX, in words.
        at_least: Lower bound of the ratio, if there is one.
        at_most: Upper bound of the ratio, if there is one.
        counts: Other counts by contender, where its pace allows no more.
        apart: Whether each run has a workflow of its own: the SDK's executor ends with its first refused batch.
        monitoring: Whether that is one with Parsl's monitoring.
    """

    name: str
    title: str
    unit: str
    count: int
    quick: int
    at_least: float | None = None
    at_most: float | None = None
    counts: dict[str, int] = field(default_factory=dict)
    apart: bool = False
    monitoring: bool = False

    @property
    def target(self) -> str:
        """The bounds in words."""
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return f"<= {self.at_most:g}" if self.at_most is not None else ""

    def size(self, kind: str, *, quick: bool) -> int:
        """How many tasks a contender gets."""
        count = self.quick if quick else self.count
        return min(count, self.counts.get(kind, count))


#: Of the public contenders: their pace is the same with fewer tasks, and a row must not take minutes.
_FEWER = {"public": 2_000, "unlimited": 2_000}

ROWS = (
    Row("noops", "{count} no-ops at once", "tasks/s", 10_000, 1_000, at_least=0.8, counts=_FEWER),
    # With the SDK's rate limiter each takes seconds.
    Row("latency", "one task after another, median", "ms", 200, 50, at_most=4, counts={"public": 5, "unlimited": 20}),
    Row("stages", "{count} files x 4 dependent stages", "s", 50, 50, at_most=2),
    Row("megabytes", "{count} x 1 MB argument", "s", 100, 100, at_most=1.5, apart=True),
    Row("monitored", "{count} tasks with resource monitoring", "s", 100, 100, at_most=1.2, apart=True, monitoring=True),
    Row("cold", "cold start to the first result", "s", 1, 1, at_most=0.7),
    Row("bare", "{count} no-ops at once, without the DataFlowKernel", "tasks/s", 10_000, 1_000, counts=_FEWER),
)
BY_NAME = {row.name: row for row in ROWS}

#: Contenders, the first being what the others are compared with.
KINDS = {
    "local": "local HighThroughputExecutor",
    "public": "Parsl's class + SDK + public agent",
    "unlimited": "the same, the SDK's rate limiter off",
    "ours": "parsl_globus",
}
BACKENDS = {"embedded": "embedded broker + SQLite", "lab": "RabbitMQ + PostgreSQL"}


def rounds_of(kind: str, backend: str, repeats: int) -> int:
    """How many rounds a contender takes part in: the public ones are slow, and their differences large."""
    if kind in _FEWER:
        return min(repeats, 2 if backend == "embedded" else 1)
    return repeats
