from __future__ import annotations

import json

import pytest
from globus_compute_sdk.serialize import ComputeSerializer
from globus_compute_sdk.serialize.concretes import JSONData, PureSourceTextInspect
from hypothesis import given
from hypothesis import strategies as st

from parsl_globus.errors import DecodeError
from parsl_globus.wire import payload

texts = st.text(max_size=200)


@given(st.lists(texts, max_size=5))
def test_buffers_come_back_and_are_the_sdk_s(buffers):
    packed = payload.pack_buffers(buffers)
    assert packed == ComputeSerializer.pack_buffers(buffers)
    assert payload.split_buffers(packed, limit=5) == buffers


@pytest.mark.parametrize("packed", ["x", "3\nab", "-1\na", "1", "²\nab", "99999999999999999999999\na", "1\nab"])
def test_bad_buffers_are_one_error(packed):
    with pytest.raises(DecodeError):
        payload.split_buffers(packed, limit=3)


def test_too_many_buffers_are_refused():
    with pytest.raises(DecodeError, match="more than 1"):
        payload.split_buffers("1\na1\nb", limit=1)


@given(texts)
def test_any_text_splits_or_is_that_error(packed):
    try:
        buffers = payload.split_buffers(packed, limit=3)
    except DecodeError:
        return
    assert len(buffers) <= 3
    assert all(buffer in packed for buffer in buffers)


def test_strategies_are_the_sdk_s():
    """Fails when the SDK changes what our prefixes mean."""
    assert JSONData.identifier == payload.JSON_STRATEGY
    assert PureSourceTextInspect.identifier == payload.SOURCE_STRATEGY


def test_the_public_worker_decodes_a_runner_call():
    code = payload.pack_runner_code("def parsl_globus_runner(*texts):\n    return list(texts)\n")
    call = payload.pack_runner_call(["{}", "a\nb", "ü"])
    function, args, kwargs = ComputeSerializer().unpack_and_deserialize(code + call)
    assert function(*args, **kwargs) == ["{}", "a\nb", "ü"]


def test_a_runner_call_comes_back():
    args_buffer, kwargs_buffer = payload.split_buffers(payload.pack_runner_call(["a", "b"]), limit=2)
    assert payload.unpack_runner_call(args_buffer) == ["a", "b"]
    assert ComputeSerializer().deserialize(kwargs_buffer) == {}


@pytest.mark.parametrize("buffer", ["", "00\nabc", "11\n{}", "11\n[1]", "11\n["])
def test_a_bad_runner_call_is_one_error(buffer):
    with pytest.raises(DecodeError):
        payload.unpack_runner_call(buffer)


@pytest.mark.parametrize("data", ["", "00\nabc", "11\n[]", "11\n{}", '11\n{"kind":1}', "11\n{"])
def test_a_bad_record_is_one_error(data):
    with pytest.raises(DecodeError):
        payload.unpack_runner_record(data)


def test_a_record_is_what_the_sdk_s_json_strategy_gives():
    record = {"kind": "value", "data": "QQ=="}
    assert payload.unpack_runner_record(JSONData().serialize(record)) == record
    assert JSONData().deserialize(payload.pack_runner_record(record)) == record


def test_base64_of_someone_else_is_one_error():
    assert payload.from_text(payload.to_text(b"\x00\xff")) == b"\x00\xff"
    with pytest.raises(DecodeError):
        payload.from_text("no base64!")


@pytest.mark.parametrize("arguments", ["", "aGVsbG8=", "A" * 100_000])
def test_a_call_that_waits_becomes_what_is_packed_at_once(arguments):
    texts = ['{"python": "3.11"}', "ü+/="]
    call = payload.RunnerCall(payload.runner_call_lead(texts), arguments)
    assert str(call) == payload.pack_runner_call([*texts, arguments])
    assert len(call) == len(str(call))


@pytest.mark.parametrize("arguments", ["QUJD", payload.LateText(lambda: b"QUJD", 10)])
@pytest.mark.parametrize("lead", ["", 'ü"\\\n\x00', "x" * 40_000, "half \ud800"])
def test_a_call_as_json_is_its_text(lead, arguments):
    call = payload.RunnerCall(lead, arguments)
    assert json.loads(b"".join(payload.json_parts(call))) == str(call)


def test_a_text_as_json():
    for text in ('"ü', "half \udcff"):
        assert json.loads(b"".join(payload.json_parts(text))) == text
