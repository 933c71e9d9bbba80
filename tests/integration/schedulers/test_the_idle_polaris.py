"""After all others: what the endpoint of `test_a_polaris_endpoint` left when it had nothing to do."""

from __future__ import annotations

from cluster_scene import DEADLINE_S, none_left
from polaris import LABEL


def test_polaris_blocks_that_were_idle_for_two_minutes_are_gone(scene, polaris):
    none_left(scene, LABEL, 120 + DEADLINE_S)
