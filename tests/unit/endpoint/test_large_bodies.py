from __future__ import annotations

import uuid

from parsl_globus.endpoint.engine import EngineTask
from parsl_globus.endpoint.large_bodies import LARGE_BODY_BYTES, LargeBodies

LONG = bytes(LARGE_BODY_BYTES + 1)


def test_each_hand_over_has_its_own_file(tmp_path):
    bodies = LargeBodies(tmp_path / "bodies")
    bodies.start()
    task_id = uuid.uuid4()
    first, second = (bodies.put(EngineTask(task_id, LONG, attempt=attempt)) for attempt in (1, 2))
    assert first != second
    assert first.read_bytes() == second.read_bytes() == LONG
    assert first.stat().st_mode & 0o777 == 0o600


def test_short_ones_have_none(tmp_path):
    bodies = LargeBodies(tmp_path)
    assert bodies.put(EngineTask(uuid.uuid4(), LONG[:-1])) is None
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_agent_left_is_removed(tmp_path):
    (tmp_path / "old").touch()
    LargeBodies(tmp_path).start()
    assert list(tmp_path.iterdir()) == []


def test_where_none_can_be_written_there_is_none(tmp_path, caplog):
    assert LargeBodies(tmp_path / "missing").put(EngineTask(uuid.uuid4(), LONG)) is None
    assert "No such file" in caplog.text
