"""What is measured besides the rows: tasks that wait, a journal, other tools, and how things change with the scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from bench import chain
from bench.others import TOOLS
from bench.process import ContenderFailedError
from bench.progress import Progress
from bench.stage import Stage

#: In this order: the tasks that wait are left with the service, and would be in the way of others.
NAMES = ("others", "scale", "journal", "outstanding")
_LIMIT_S = 300.0

Record = dict[str, Any]


class Parts:
    """They run on one stage, on which nothing else runs.

    Args:
        stage: Where.
        progress: Told of each step.
        repeats: Rounds of a long run.
        quick: Whether to take the short counts.
        count: Tasks of each step, instead of its own count.
        outstanding: How many tasks wait.
    """

    def __init__(
        self, stage: Stage, progress: Progress, *, repeats: int, quick: bool, count: int | None, outstanding: int
    ) -> None:
        self._stage = stage
        self._progress = progress
        self._repeats = repeats
        self._quick = quick
        self._count = count
        self._waiting = outstanding
        self._levels = {
            "outstanding": [1, 10, 100, 1_000] if quick else [1, 10, 100, 1_000, 10_000, 100_000],
            "endpoints": [1, 5] if quick else [1, 10, 50, 200],
            "workers": [1, 4] if quick else [1, 4, 16, 64],
        }

    def steps(self, names: Sequence[str]) -> int:
        """How many steps these have."""
        scale = len(self._levels["outstanding"]) + len(self._levels["endpoints"]) + 2 * len(self._levels["workers"])
        steps = {"outstanding": 3, "others": len(TOOLS) * self._rounds, "scale": scale, "journal": 1}
        return sum(steps[name] for name in names)

    @property
    def _rounds(self) -> int:
        return min(3, self._repeats)

    def outstanding(self) -> list[Record]:
        """What a task costs the client while it waits."""
        endpoint_id = self._stage.start_endpoint("ours", name="stopped")
        self._stage.stop_endpoint("ours", name="stopped")
        found = []
        for kind in ("nothing", "local", "ours"):
            words = [kind, "--count", self._waiting] + (["--endpoint", endpoint_id] if kind == "ours" else [])
            found.append({"kind": kind, **self._run(f"outstanding {kind}", "outstanding.py", *words)})
        return found

    def journal(self) -> Record:
        """What a journal costs."""
        count, single = self._count or (1_000 if self._quick else 5_000), self._count or (20 if self._quick else 100)
        endpoint_id = self._stage.start_endpoint("ours")
        words = ["--endpoint", endpoint_id, "--count", count, "--single", single, "--rounds", self._rounds]
        try:
            return self._run("journal", "journaled.py", *words)
        finally:
            self._stage.stop_endpoint("ours")

    def others(self) -> list[Record]:
        """Tools without Parsl, in turns."""
        count, single = self._count or (1_000 if self._quick else 10_000), self._count or (20 if self._quick else 200)
        found: dict[str, Record] = {
            tool: {"tool": tool, "count": count, "rate": [], "latency_ms": [], "why": []} for tool in TOOLS
        }
        endpoint_id = self._stage.start_endpoint("ours")
        try:
            for _round in range(self._rounds):
                for tool, record in found.items():
                    words = [tool, "--count", count, "--single", single]
                    words += ["--endpoint", endpoint_id] if tool == "ours" else []
                    answer = self._run(f"others {tool}", "others.py", *words)
                    if "why" in answer:
                        record["why"] = sorted({*record["why"], answer["why"]})
                        continue
                    record["version"] = answer["version"]
                    record["rate"].append(answer["rate"])
                    record["latency_ms"].append(answer["latency_ms"])
        finally:
            self._stage.stop_endpoint("ours")
        return list(found.values())

    def scale(self) -> dict[str, list[Record]]:
        """How rate, time and memory change."""
        return {
            name: [self._level(name, level, measure) for level in self._levels[name]]
            for name, measure in (
                ("outstanding", self._with_outstanding),
                ("endpoints", self._with_endpoints),
                ("workers", self._with_workers),
            )
        }

    def _level(self, name: str, level: int, measure: Callable[[int], Record]) -> Record:
        try:
            return {"level": level, **measure(level)}
        except ContenderFailedError as exc:
            self._progress.step(f"scale {name} {level}: failed: {exc}")
            return {"level": level, "why": str(exc)}

    def _with_outstanding(self, level: int) -> Record:
        count = max(level, min(20 * level, 5_000), 200)
        with ExitStack() as stack:
            endpoint_id = self._stage.start_endpoint("ours", name=f"waiting{level}")
            stack.callback(self._stage.stop_endpoint, "ours", name=f"waiting{level}")
            program = self._stage.program("scale.py", endpoint_id)
            stack.callback(program.close)
            program.ask(_LIMIT_S, outstanding=8, count=16)
            processes = self._stage.chain(program)
            chain.forget_peaks(processes)
            answer = program.ask(_LIMIT_S, outstanding=level, count=self._count or count)
            answer["memory_mb"] = chain.peaks_mb(program.pid, processes)
        self._progress.step(f"scale {level:,} outstanding: {answer['rate']:,.0f} tasks/s")
        return answer

    def _with_endpoints(self, level: int) -> Record:
        with ExitStack() as stack:
            agents = self._stage.program("agents.py", level, kind="agents")
            stack.callback(agents.close)
            ids = agents.answer(_LIMIT_S)["ids"]
            program = self._stage.program("scale.py", *ids)
            stack.callback(program.close)
            answer = program.ask(_LIMIT_S, count=self._count or (500 if self._quick else 5_000))
            answer["memory_mb"] = chain.peaks_mb(program.pid, self._stage.chain(program))
        self._progress.step(f"scale {level} endpoints: {answer['rate']:,.0f} tasks/s")
        return answer

    def _with_workers(self, level: int) -> Record:
        found: Record = {}
        for kind in ("local", "ours"):
            with ExitStack() as stack:
                endpoint_id = self._stage.start_endpoint(kind, name=f"workers{level}", workers=level)
                stack.callback(self._stage.stop_endpoint, kind, name=f"workers{level}")
                workflow = self._stage.workflow(kind, endpoint_id, workers=level)
                stack.callback(workflow.close)
                answer = workflow.ask(_LIMIT_S, row="sleepers", workers=level)
            found |= {"ideal_s": answer["ideal_s"], f"{kind}_s": answer["value"], f"{kind}_failed": answer["failed"]}
            self._progress.step(f"scale {level} workers {kind}: {answer['value']:.2f} s, at best {answer['ideal_s']} s")
        return found

    def _run(self, what: str, file: str, *words: object) -> Record:
        """Run a program to its end; what it printed, or why it failed."""
        program = self._stage.program(file, *words)
        try:
            answer = program.answer(_LIMIT_S)
        except ContenderFailedError as exc:
            answer = {"why": str(exc)}
        finally:
            program.close()
        self._progress.step(f"{what}{': failed: ' + answer['why'] if 'why' in answer else ''}")
        return answer
