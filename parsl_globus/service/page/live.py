"""Server-sent events: pieces of a page as they change."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from parsl_globus.errors import ParslGlobusError

logger = logging.getLogger(__name__)

#: How often a page that somebody looks at is compared with what was sent.
PERIOD_S = 1.0
#: After so long without news a comment is sent, so that proxies keep the connection and lost ones are noticed.
HEARTBEAT_S = 15.0
#: Every so often it is asked whether the viewer's session still holds.
_CHECK_S = 10.0
#: How long a browser waits before it connects again, in milliseconds.
_RETRY_MS = 3000


@dataclass(frozen=True)
class Fragment:
    """A piece of a page: the element whose id is the fragment's name.

    Attributes:
        html: The element.
        mark: Tells two versions apart; a list's is made of what is in it, as each item is a fragment of its own.
        parts: Names of the fragments in it.
    """

    html: str
    mark: str
    parts: frozenset[str] = field(default_factory=frozenset)


def fragment(html: str, *, parts: Mapping[str, str] | None = None) -> Fragment:
    """A fragment of this text; with `parts`, of these names, its version changes only when they are others."""
    text = html if parts is None else "\n".join(parts)
    mark = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return Fragment(html, mark, frozenset(parts or ()))


def changed(old: Mapping[str, str], new: Mapping[str, Fragment]) -> dict[str, str]:
    """What must be sent to someone who has `old`: marks by name. A part is left out when its list is sent whole."""
    names = {name for name, piece in new.items() if old.get(name) != piece.mark}
    inside = {part for name in names for part in new[name].parts}
    return {name: new[name].html for name in new if name in names - inside}


Render = Callable[[], Awaitable[Mapping[str, Fragment]]]


class TooManyStreams(Exception):
    """So many streams are open that another one is refused."""


class Live:
    """All open streams of a process.

    Args:
        most: So many streams at a time.
        most_each: So many of one viewer.
        period_s: How often changes are looked for.
    """

    def __init__(self, most: int = 200, most_each: int = 12, period_s: float = PERIOD_S) -> None:
        self._most = most
        self._most_each = most_each
        self._period_s = period_s
        self._open: Counter[uuid.UUID] = Counter()
        self._stopping = asyncio.Event()
        self._rendered: dict[object, tuple[float, asyncio.Future[Mapping[str, Fragment]]]] = {}

    @property
    def streams(self) -> int:
        """How many are open."""
        return self._open.total()

    def stop(self) -> None:
        """End all streams now."""
        self._stopping.set()

    def open(
        self,
        viewer_id: uuid.UUID,
        key: object,
        render: Render,
        allowed: Callable[[], Awaitable[bool]],
        have: Mapping[str, str],
    ) -> AsyncIterator[bytes]:
        """A stream for one page.

        Args:
            viewer_id: Who looks at it.
            key: Streams of the same key share one rendering.
            render: Makes the page's fragments.
            allowed: Whether the viewer may still look.
            have: Marks of the fragments that the browser has.

        Raises:
            TooManyStreams: There are too many.
        """
        if self._stopping.is_set() or self.streams >= self._most or self._open[viewer_id] >= self._most_each:
            raise TooManyStreams
        return self._stream(viewer_id, key, render, allowed, dict(have))

    async def _stream(
        self,
        viewer_id: uuid.UUID,
        key: object,
        render: Render,
        allowed: Callable[[], Awaitable[bool]],
        have: dict[str, str],
    ) -> AsyncIterator[bytes]:
        # Counted here, as a stream that is never begun never ends either.
        self._open[viewer_id] += 1
        try:
            yield f"retry: {_RETRY_MS}\n\n".encode()
            spoke_s = checked_s = time.monotonic()
            while not self._stopping.is_set():
                now_s = time.monotonic()
                if now_s - checked_s >= _CHECK_S:
                    checked_s = now_s
                    if not await allowed():
                        yield b"event: ended\ndata: {}\n\n"
                        return
                pieces = await self._shared(key, render)
                news = changed(have, pieces)
                have = {name: piece.mark for name, piece in pieces.items()}
                if news:
                    spoke_s = now_s
                    yield f"data: {json.dumps(news)}\n\n".encode()
                elif now_s - spoke_s >= HEARTBEAT_S:
                    spoke_s = now_s
                    yield b": still here\n\n"
                await self._pause()
        except ParslGlobusError as exc:
            logger.warning("A live page ends, its browser will ask again: %s", exc)
        finally:
            self._open[viewer_id] -= 1
            if self._open[viewer_id] <= 0:
                del self._open[viewer_id]

    async def _pause(self) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), self._period_s)
        except (TimeoutError, asyncio.TimeoutError):
            return

    async def _shared(self, key: object, render: Render) -> Mapping[str, Fragment]:
        """The page's fragments, at most a period old, rendered once for all who look at it."""
        now_s = time.monotonic()
        made_s, task = self._rendered.get(key, (0.0, None))
        if task is None or (task.done() and now_s - made_s >= self._period_s * 0.9):
            old = [k for k, (s, done) in self._rendered.items() if done.done() and now_s - s > HEARTBEAT_S]
            for stale in old:
                del self._rendered[stale]
            task = asyncio.ensure_future(render())
            # All who wanted it may have left when it fails; then nobody asks why.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._rendered[key] = (now_s, task)
        # One of them may leave; the others still want it.
        return await asyncio.shield(task)
