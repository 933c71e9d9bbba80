"""Endpoints that were stopped from afar, and are kept away for a while."""

from __future__ import annotations

import time
import uuid

from parsl_globus.service.store.base import Store

#: How long such an endpoint can't register: whatever restarts it gives up in this time.
LOCK_S = 300.0
_LOCK, _QUESTION = "lock", "registration"


async def lock(store: Store, endpoint_id: uuid.UUID, now_s: float) -> None:
    """Keep an endpoint away."""
    await store.lease(_name(endpoint_id), _LOCK, now_s, LOCK_S)


async def is_locked(store: Store, endpoint_id: uuid.UUID) -> bool:
    """Whether an endpoint is kept away."""
    # A lease that is over already, by clocks that differ as well: it is refused while another has it, and keeps nobody
    # out.
    return not await store.lease(_name(endpoint_id), _QUESTION, time.time(), -LOCK_S)


async def unlock(store: Store, endpoint_id: uuid.UUID) -> None:
    """Forget that it was."""
    for holder in (_LOCK, _QUESTION):
        await store.release(_name(endpoint_id), holder)


def _name(endpoint_id: uuid.UUID) -> str:
    return f"locked:{endpoint_id}"
