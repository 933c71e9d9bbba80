"""Work that is done in turns: by a thread of its own all that waits at once, and what comes alone by who brings it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

#: How long a stop waits for what is being done, in seconds.
_STOP_S = 5.0


class Turns(Generic[_T]):
    """Gathers items and works on them, never on two batches at once.

    Waking a thread costs a lone item as much as a lot of work: it goes on at another processor, where nothing of it is
    in the caches.

    Args:
        work: Works on items, in the order in which they came. Nothing is worked on any more once it has raised.
        name: Of the thread.
        on_failure: Called with what it raised, as text.
        wait_s: Tells the thread how long to wait for items before it works on none, in seconds; `None` for ever.
    """

    def __init__(
        self,
        work: Callable[[list[_T]], None],
        *,
        name: str,
        on_failure: Callable[[str], None],
        wait_s: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._work = work
        self._name = name
        self._on_failure = on_failure
        self._wait_s = wait_s
        self._queue: SimpleQueue[tuple[_T] | None] = SimpleQueue()
        self._count = threading.Lock()  # of the next one
        #: Items that the thread has yet to work on, or is at.
        self._waiting = 0
        self._turn = threading.Lock()  # of who works, and of the next one
        self._over = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread; until then, what comes waits."""
        self._thread.start()

    def put(self, item: _T) -> None:
        """Have the thread work on `item`; returns at once. Thread-safe."""
        with self._count:
            self._waiting += 1
        self._queue.put((item,))

    def put_alone(self, item: _T) -> None:
        """Work on `item` here, if nothing is being worked on and nothing waits; otherwise as `put`. Thread-safe."""
        if not self._work_here(item):
            self.put(item)

    def stop(self, *, finish: bool) -> None:
        """End the thread, and wait for that, but not for ever.

        Args:
            finish: Whether it works on what waits first.
        """
        if not finish:
            self._over = True
        self._queue.put(None)
        until_s = time.monotonic() + _STOP_S
        if self._thread.is_alive():
            self._thread.join(_STOP_S)
        if self._turn.acquire(timeout=max(0.0, until_s - time.monotonic())):  # it may be somebody else's
            self._over = True
            self._turn.release()

    def _work_here(self, item: _T) -> bool:
        if not self._thread.is_alive() or not self._turn.acquire(blocking=False):
            return False
        try:
            # What the thread has taken and waits with for its turn came first.
            if self._over or self._waiting:
                return False
            try:
                self._work([item])
            except Exception as exc:  # noqa: BLE001 - whatever it is, it is not for whoever brought the item
                self._fail(exc)
        finally:
            self._turn.release()
        return True

    def _fail(self, exc: BaseException) -> None:
        self._over = True
        logger.exception("The %s ends", self._name)
        self._on_failure(str(exc))

    # ---- on the thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        ending = False
        while not ending:
            waiting = self._next()
            ending = None in waiting
            with self._turn:
                if self._over:
                    return
                items = [one[0] for one in waiting if one is not None]
                try:
                    self._work(items)
                    with self._count:
                        self._waiting -= len(items)
                except BaseException as exc:
                    # The outermost loop of this thread: others depend on it, and must hear of its end.
                    self._fail(exc)
                    raise

    def _next(self) -> list[tuple[_T] | None]:
        waiting: list[tuple[_T] | None] = []
        try:
            waiting.append(self._queue.get(timeout=self._wait_s()))
            while True:
                waiting.append(self._queue.get_nowait())
        except Empty:
            return waiting
