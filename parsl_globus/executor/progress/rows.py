"""What all views show: a row for each executor, at a moment."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

from parsl_globus.executor.endpoint_status import EndpointStatus
from parsl_globus.executor.progress.asking import Asking
from parsl_globus.executor.progress.tally import UNSEEN, Tally

#: The rate is that of the last seconds, so many.
RATE_WINDOW_S = 5.0


@dataclass(frozen=True)
class Row:
    """An executor, or a join_app.

    Attributes:
        label: Its name.
        waiting: Tasks that don't run yet, as far as is known: held back by Parsl, or in a queue.
        running: Tasks that run; at most so many if not `exact`, as no one tells which of those sent have begun.
        exact: Whether `running` is known.
        done: Ended with a value.
        failed: Ended with an exception.
        rate: Tasks that ended per second, of late; in the last row of all, on average.
        endpoint: What runs them, `None` if nothing is known or there is nothing to tell.
    """

    label: str
    waiting: int
    running: int
    exact: bool
    done: int
    failed: int
    rate: float = field(compare=False)
    endpoint: EndpointStatus | None


@dataclass(frozen=True)
class Frame:
    """All rows at a moment, so many seconds after the view began."""

    elapsed_s: float
    rows: tuple[Row, ...]


class Frames:
    """Makes frames of what a tally and the executors tell.

    Args:
        tally: Counts the tasks.
        asking: Knows the executors.
    """

    def __init__(self, tally: Tally, asking: Asking) -> None:
        self._tally = tally
        self._asking = asking
        self._began_s = time.monotonic()
        self._ended: dict[str, deque[tuple[float, int]]] = {}

    def now(self, *, last: bool = False) -> Frame:
        """The state now; with the average rate instead of the latest if it is the `last` frame."""
        now_s = time.monotonic()
        elapsed_s = now_s - self._began_s
        rows = []
        for label, count in self._tally.counts().items():
            answer = self._asking.answer(label, count.sent)
            exact = answer.running is not None or not count.sent
            running = count.sent if answer.running is None else answer.running
            ended = count.done + count.failed
            # What ended before it was seen ended some time: its rate would say when it was missed.
            rate = 0.0 if label == UNSEEN else self._rate(label, ended, now_s)
            if last:
                rate = ended / elapsed_s if elapsed_s > 0 else 0.0
            waiting = count.held + count.sent - running
            rows.append(Row(label, waiting, running, exact, count.done, count.failed, rate, answer.endpoint))
        return Frame(elapsed_s, tuple(rows))

    def _rate(self, label: str, ended: int, now_s: float) -> float:
        seen = self._ended.setdefault(label, deque([(self._began_s, 0)]))
        seen.append((now_s, ended))
        while len(seen) > 2 and seen[1][0] <= now_s - RATE_WINDOW_S:
            seen.popleft()
        since_s, before = seen[0]
        return max(0.0, (ended - before) / (now_s - since_s)) if now_s > since_s else 0.0


def rate_text(rate: float) -> str:
    """Two digits that mean something, as `0.25` or `12`; empty for none."""
    if rate < 0.005:
        return ""
    return f"{rate:.2f}" if rate < 1 else f"{rate:.1f}" if rate < 10 else f"{rate:.0f}"
