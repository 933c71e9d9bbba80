"""Two tests at a time: which have the machine's other processor to themselves."""

from __future__ import annotations

from collections import Counter
from typing import Any, Protocol, TypeVar

import pytest
from xdist.scheduler import LoadScopeScheduling

#: Whole workflows, endpoints of several accounts, clusters, outages, and what is told by how long it takes: one after
#: another, beside tests that need little. All others go file by file.
HEAVY = (
    "tests/compat/",
    "tests/contract/engine/",
    "tests/integration/schedulers/",
    "tests/integration/test_all_at_once.py",
    "tests/integration/test_bench_bounds.py",
    "tests/integration/test_broker_restarted.py",
    "tests/integration/test_demo.py",
    "tests/integration/test_large_data.py",
    "tests/integration/test_network_link.py",
    "tests/integration/test_outages.py",
    "tests/integration/test_service_killed.py",
    "tests/integration/test_service_rabbitmq.py",
    "tests/integration/test_several_accounts.py",
    "tests/integration/test_two_services.py",
    "tests/soak/",
)
_HEAVY_LANE = "heavy"


def lane(nodeid: str) -> str:
    """What of the tests is run by one process, in its order, by a test's ID: its file, or all that are heavy."""
    return _HEAVY_LANE if nodeid.startswith(HEAVY) else nodeid.partition("::")[0]


class _HasID(Protocol):
    """What of a `pytest.Item` says where it belongs."""

    @property
    def nodeid(self) -> str: ...


_T = TypeVar("_T", bound=_HasID)


def heavy_first(items: list[_T]) -> None:
    """Put the longest lane first, for it to end no later than the others; what is in it stays in its order.

    Raises:
        pytest.UsageError: Tests share an ID. Those are one to `LoadScopeScheduling`, and all but one would be left out.
    """
    often = [nodeid for nodeid, count in Counter(item.nodeid for item in items).items() if count > 1]
    if often:
        raise pytest.UsageError(f"Several tests have the ID {often[0]}; give each its own, or run them with -n 0.")
    items.sort(key=lambda item: lane(item.nodeid) != _HEAVY_LANE)


class Lanes(LoadScopeScheduling):
    """Gives a lane to each process that has nothing to do."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        # By number of tests otherwise, which says little of how long they take.
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return lane(nodeid)
