"""MpiEngine: GlobusMPIEngine, by Parsl's MPIExecutor; each task says how many nodes and ranks it needs."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from parsl.providers import LocalProvider

from parsl_globus.endpoint.engine import EngineFailure, EngineTask
from parsl_globus.endpoint.failures import BAD_RESOURCE_SPECIFICATION
from parsl_globus.endpoint.htex_engine import HtexEngine

logger = logging.getLogger(__name__)

_KEYS = ("num_nodes", "num_ranks", "ranks_per_node", "launcher_options")


@dataclass(frozen=True)
class _Held:
    outer: Future[bytes]
    context: dict[str, Any]
    task: EngineTask
    nodes: int


class MpiEngine(HtexEngine):
    """See `HtexEngine`, with two differences that keep Parsl's worker pools alive.

    What would end a pool's threads is refused with words: a number of nodes that is missing, no whole number, or
    larger than a block. And a pool that has more tasks than its nodes can run at once ends in a RecursionError as soon
    as one of several waiting tasks doesn't fit, so such tasks wait here instead.
    """

    engine_type = "GlobusMPIEngine"

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **{**settings, "fuse": False})  # each has nodes of its own
        executor: Any = self._executor
        provider = executor.provider
        self._workers: int = executor.max_workers_per_block
        self._nodes: int | None = provider.nodes_per_block
        if isinstance(provider, LocalProvider) and self._nodes == 1:
            self._nodes = nodes_here()
        self._hold = threading.Lock()
        self._held: deque[_Held] = deque()
        self._given: dict[Future[bytes], int] = {}
        self._handing = False
        self._advised = False

    def _specification(self, task: EngineTask) -> dict[str, Any]:
        specification = normal_specification(task.resource_specification)
        if self._nodes is not None and specification["num_nodes"] > self._nodes:
            raise _refusal(f"num_nodes is {specification['num_nodes']}, and a block has {self._nodes}.")
        return specification

    def _hand_over(self, outer: Future[bytes], context: dict[str, Any], task: EngineTask) -> None:
        nodes: int = context["resource_spec"]["num_nodes"]
        with self._hold:
            self._held.append(_Held(outer, context, task, nodes))
        self._hand_over_held()

    def _hand_over_held(self) -> None:
        """Hand over what fits, in order; on one thread at a time, whichever it is."""
        while True:
            with self._hold:
                if self._stopped or self._handing or not self._held or not self._fits(self._held[0].nodes):
                    return
                held = self._held.popleft()
                if held.outer.done():
                    continue  # by a shutdown
                self._handing = True
                self._given[held.outer] = held.nodes
            held.outer.add_done_callback(self._done)
            try:
                super()._hand_over(held.outer, held.context, held.task)
            finally:
                with self._hold:
                    self._handing = False

    def _done(self, outer: Future[bytes]) -> None:
        with self._hold:
            self._given.pop(outer, None)
        self._hand_over_held()

    def _fits(self, nodes: int) -> bool:
        """Whether no pool, whatever it has, will have two tasks waiting for nodes."""
        if len(self._given) < 2 or self._workers <= 2 or self._nodes is None:
            return True
        largest = sorted([*self._given.values(), nodes], reverse=True)[: self._workers]
        if sum(largest) <= self._nodes:
            return True
        if not self._advised:
            self._advised = True
            logger.warning(
                "Tasks of %d nodes wait, although blocks may be free: with max_workers_per_block %d they might meet in "
                "one block of %d nodes, which Parsl's worker pool does not survive. Set max_workers_per_block to the "
                "number of such tasks that a block has room for.",
                *(nodes, self._workers, self._nodes),
            )
        return False


def nodes_here() -> int | None:
    """How many nodes the batch job has in which this agent runs, or `None` when there is none."""
    try:
        if os.environ.get("SLURM_NODELIST"):  # in Parsl's order
            return int(os.environ["SLURM_NNODES"])
        with open(os.environ["PBS_NODEFILE"]) as nodes:
            return sum(1 for _ in nodes)
    except (KeyError, ValueError, OSError):
        return None


def normal_specification(given: Mapping[str, Any]) -> dict[str, Any]:
    """The specification with all numbers whole, and those that follow from others filled in.

    Raises:
        EngineFailure: It can't be run.
    """
    if not given:
        raise _refusal(
            "it is missing; num_nodes at least is needed, for example {'num_nodes': 2, 'ranks_per_node': 4}."
        )
    unknown = sorted(str(key) for key in given if key not in _KEYS)
    if unknown:
        raise _refusal(f"there is no {', '.join(unknown)}; valid are: {', '.join(_KEYS)}.")
    numbers = {key: _whole(key, given[key]) for key in _KEYS[:3] if given.get(key) is not None}
    if "num_nodes" not in numbers:
        raise _refusal("num_nodes is missing.")
    nodes = numbers["num_nodes"]
    if "ranks_per_node" not in numbers:
        numbers["ranks_per_node"] = math.ceil(numbers.get("num_ranks", nodes) / nodes)
    numbers.setdefault("num_ranks", nodes * numbers["ranks_per_node"])
    options = given.get("launcher_options") or ""
    if not isinstance(options, str):
        raise _refusal(f"launcher_options should be a text, not {options!r}.")
    return {**numbers, "launcher_options": options}


def _whole(key: str, value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1 or isinstance(value, bool) or (isinstance(value, float) and value != number):
        raise _refusal(f"{key} should be a whole number from 1 up, not {value!r}.")
    return number


def _refusal(what: str) -> EngineFailure:
    text = f"The resource specification of a task for GlobusMPIEngine can't be served: {what}"
    return EngineFailure(BAD_RESOURCE_SPECIFICATION, text, lost=False)
