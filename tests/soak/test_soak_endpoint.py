"""A tenth of what `make soak-endpoint` does: one round for each part that can be killed, but the service.

That one is killed in test_outages.py.
"""

from __future__ import annotations

import pytest
from soak_endpoint import Soak


@pytest.mark.timeout(600)
def test_no_task_is_lost_or_run_twice_whatever_is_killed(tmp_path):
    soak = Soak(tmp_path)
    rounds = []
    with soak.running():
        for seed in range(1, 6):
            rounds.append(soak.round(seed))
            print(rounds[-1])
        assert soak.late_problems() == []
    assert [str(seen) for seen in rounds if seen.problems] == []
    assert soak.outages.site.processes() == []
