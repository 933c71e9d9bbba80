from __future__ import annotations

import uuid

import pytest

from parsl_globus.service.rules.presence import Presence
from parsl_globus.service.store.base import ReportRecord

ENDPOINT = uuid.uuid4()


@pytest.mark.parametrize(
    ("state", "age_s", "online"),
    [
        ({"heartbeat_period": 10}, 24.0, True),
        ({"heartbeat_period": 10}, 26.0, False),
        ({}, 74.0, True),
        ({}, 76.0, False),
        ({"heartbeat_period": 0}, 0.0, False),
        ({"heartbeat_period": 10, "active": False}, 0.0, False),
        ({"heartbeat_period": 10, "active": True}, 0.0, True),
        ({"heartbeat_period": 3, "error": "no"}, 0.0, False),
        ({"heartbeat_period": "soon"}, 10.0, True),
    ],
)
def test_online_by_the_last_report(state, age_s, online):
    presence = Presence(missed_heartbeats=2.5)
    presence.note([ReportRecord(ENDPOINT, 1000.0, state)])
    assert presence.online(ENDPOINT, 1000.0 + age_s) is online


def test_a_manager_that_registered_is_reachable_before_it_reports():
    presence = Presence(missed_heartbeats=2.5)
    assert not presence.reachable(ENDPOINT, 1000.0)
    presence.note_registration(ENDPOINT, 1000.0)
    assert presence.reachable(ENDPOINT, 1001.0)
    assert not presence.online(ENDPOINT, 1001.0)
    assert not presence.reachable(ENDPOINT, 2000.0)
