"""Waiting with a limit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

_T = TypeVar("_T")


async def within(limit_s: float, awaited: Awaitable[_T]) -> _T:
    """Wait for `awaited`, which is cancelled when it takes longer.

    As `asyncio.wait_for`, but that one, before Python 3.12, goes on as if nothing had been said when it is cancelled at
    the moment in which what it waits for is done: a task that is to end never does.

    Raises:
        TimeoutError: It took longer; `asyncio.TimeoutError`, which is another class before Python 3.11.
    """
    future = asyncio.ensure_future(awaited)
    try:
        await asyncio.wait([future], timeout=limit_s)
        if not future.done():
            raise asyncio.TimeoutError
        return future.result()
    finally:
        future.cancel()  # which a done one takes no notice of
        del future  # it may hold an exception that holds this frame, and all that called it
