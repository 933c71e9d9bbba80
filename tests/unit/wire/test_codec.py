from __future__ import annotations

import uuid

import pytest
from globus_compute_common.messagepack import pack as public_pack
from hypothesis import given
from hypothesis import strategies as st

from parsl_globus.errors import DecodeError
from parsl_globus.wire.codec import pack, says_error, unpack
from parsl_globus.wire.messages import (
    ActorName,
    EPStatusReport,
    Result,
    ResultErrorDetails,
    Task,
    TaskState,
    TaskTransition,
)

TASK_ID = uuid.UUID("1f0c7e6e-3f57-4a3e-9c3e-6d9d9f0a4b11")


def test_a_message_comes_back_as_it_was():
    task = Task(task_id=TASK_ID, task_buffer="3\nabc")
    assert unpack(pack(task), Task) == task
    assert pack(task) == public_pack(task)


@given(st.text(), st.dictionaries(st.text(), st.none() | st.integers(-(2**60), 2**60) | st.floats() | st.text()))
def test_messages_are_packed_as_the_public_ones(text, details):
    transition = TaskTransition(timestamp=1, state=TaskState.EXEC_START, actor=ActorName.WORKER)
    messages = [
        Task(task_id=TASK_ID, task_buffer=text),
        Result(task_id=TASK_ID, data=text, details=details, task_statuses=[transition, transition]),
        Result(task_id=TASK_ID, data=text, error_details=ResultErrorDetails(code=text, user_message=text)),
        EPStatusReport(endpoint_id=TASK_ID, global_state=details, task_statuses={text: [transition]}),
    ]
    for message in messages:
        assert pack(message) == public_pack(message)


@pytest.mark.parametrize("packer", [pack, public_pack])
def test_half_of_a_character_is_a_value_error(packer):
    with pytest.raises(ValueError, match="surrogates not allowed"):
        packer(Task(task_id=TASK_ID, task_buffer="\ud800"))


def test_golden_task_bytes():
    """As the public agent reads them (PROTOCOL.md section 6)."""
    golden = (
        b'\x01{"message_type":"task","data":{"task_id":"1f0c7e6e-3f57-4a3e-9c3e-6d9d9f0a4b11",'
        b'"container_id":null,"container":null,"task_buffer":"3\\nabc"}}'
    )
    assert unpack(golden, Task).task_buffer == "3\nabc"


def test_a_status_report_is_read_under_both_names():
    body = b'\x01{"message_type":"ep_status_report","data":{"endpoint_id":"%s","%s":{"a":1},"task_statuses":{}}}'
    for key in (b"global_state", b"ep_status_report"):
        report = unpack(body % (str(TASK_ID).encode(), key), EPStatusReport)
        assert report.global_state == {"a": 1}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x01",
        b"\x02{}",
        b"\x01[]",
        b"\x01null",
        b'\x01{"message_type":"task"}',
        b'\x01{"message_type":"unknown","data":{}}',
        b'\x01{"message_type":"task","data":{"task_id":"x","task_buffer":""}}',
        b"\x01\xff\xfe",
        b"\x01" + b"[" * 100_000,
    ],
)
def test_bad_bytes_are_one_error(body):
    with pytest.raises(DecodeError) as caught:
        unpack(body, Task)
    assert caught.value.size_bytes == len(body)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_that_error(body):
    with pytest.raises(DecodeError):
        unpack(b"\x01" + body, Result)


def test_another_message_is_refused():
    with pytest.raises(DecodeError, match="it is a Task message"):
        unpack(pack(Task(task_id=TASK_ID, task_buffer="")), Result)


def test_an_error_is_seen_without_decoding():
    details = ResultErrorDetails(code="X", user_message="text")
    good = Result(task_id=uuid.uuid4(), data='{"error_details":{}}', task_statuses=[], details={"os": "x"})
    assert not says_error(pack(good))
    assert says_error(pack(good.model_copy(update={"error_details": details})))
    assert not says_error(b"anything")
