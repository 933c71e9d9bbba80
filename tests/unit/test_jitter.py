"""Pauses differ, and leave the process's own random numbers alone."""

from __future__ import annotations

import random

from parsl_globus import jitter


def test_pauses_differ_within_their_bounds():
    around = {jitter.around(2.0) for _ in range(100)}
    up_to = {jitter.up_to(2.0) for _ in range(100)}
    assert len(around) == len(up_to) == 100
    assert all(1.0 <= pause_s <= 3.0 for pause_s in around)
    assert all(0.0 <= pause_s <= 2.0 for pause_s in up_to)


def test_a_seeded_workflow_keeps_its_numbers():
    before = random.getstate()
    jitter.around(1.0)
    jitter.up_to(1.0)
    assert random.getstate() == before
