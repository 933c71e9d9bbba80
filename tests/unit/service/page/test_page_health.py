from __future__ import annotations

import asyncio
from typing import Any

import pytest

from parsl_globus.errors import LinkError
from parsl_globus.service.page import page
from parsl_globus.service.page.metrics import Metrics
from parsl_globus.service.store.memory import MemoryStore


class AwayBroker:
    """Doesn't answer, or says why not."""

    def __init__(self, how: str) -> None:
        self.how = how

    async def queue_length(self, name: str) -> int:
        if self.how == "silent":
            await asyncio.Event().wait()
        raise LinkError("The broker is away.")


@pytest.mark.parametrize("how", ["silent", "refuses"])
def test_a_broker_that_is_away_is_told(how, monkeypatch):
    monkeypatch.setattr(page, "_HEALTH_S", 0.05)

    async def main():
        broker: Any = AwayBroker(how)
        made = page.Page(MemoryStore(), broker, None, None, None, None, Metrics())
        assert await made.health() == {"store": "ok", "broker": "away"}

    asyncio.run(main())
