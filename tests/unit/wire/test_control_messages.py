"""Messages of control queues."""

from __future__ import annotations

import json
import uuid

import pytest

from parsl_globus.wire.control import CANCEL, pack_control, unpack_control


def test_a_message_tells_its_command_and_the_tasks():
    ids = [uuid.uuid4(), uuid.uuid4()]
    body = pack_control(CANCEL, ids)
    assert json.loads(body) == {"command": "cancel", "task_ids": [str(one) for one in ids]}
    assert unpack_control(body) == ("cancel", ids)


@pytest.mark.parametrize(
    "body",
    [b"\xff", b"{", b"[]", b"null", b'{"command": "cancel"}', b'{"command": "cancel", "task_ids": [1]}'],
    ids=["no text", "no JSON", "a list", "nothing", "no tasks", "no ids"],
)
def test_what_is_no_such_message_is_a_value_error(body):
    with pytest.raises(ValueError, match=r"."):
        unpack_control(body)
