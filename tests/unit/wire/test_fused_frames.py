from __future__ import annotations

import struct
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsl_globus.errors import DecodeError
from parsl_globus.wire.fused import FusedResult, pack_bodies, pack_result, split_bodies, split_results

BODIES = st.lists(st.binary(max_size=50), max_size=6)
#: Long ones of few different bytes, parts of which are the same.
ALIKE = st.lists(st.lists(st.sampled_from([b"a" * 100, b"b" * 130, b"a", b"b"]), max_size=6).map(b"".join), max_size=6)


@given(BODIES | ALIKE)
def test_bodies_come_back(bodies):
    assert split_bodies(pack_bodies(bodies)) == bodies


def test_what_bodies_share_is_sent_once():
    bodies = [b'{"task_id": "%s", "code": "%s"' % (b"%032d" % n, b"c" * 5000) + b"%d, end}" % n for n in range(30)]
    packed = pack_bodies(bodies)
    assert split_bodies(packed) == bodies
    assert len(packed) < 5000 + 30 * 180
    assert packed.count(b"c" * 1000) == 5


def test_bodies_that_share_too_much_are_refused():
    first = pack_bodies([b"x" * 200])
    with pytest.raises(DecodeError, match="more than there is"):
        split_bodies(first + struct.pack(">III", 40, 33, 1) + b"x")


@given((BODIES | ALIKE).filter(bool), st.data())
def test_bodies_that_are_cut_short_are_refused(bodies, data):
    packed = pack_bodies(bodies)
    whole = {len(pack_bodies(bodies[:count])) for count in range(len(bodies) + 1)}
    end = data.draw(st.sampled_from([end for end in range(len(packed)) if end not in whole]))
    with pytest.raises(DecodeError, match="cut short"):
        split_bodies(packed[:end])


@given(BODIES, st.data())
def test_whole_results_come_back_however_it_ends(bodies, data):
    results = [FusedResult(uuid.uuid4(), number, body) for number, body in enumerate(bodies)]
    parts = [pack_result(result) for result in results]
    packed = b"".join(parts)
    end = data.draw(st.integers(0, len(packed)))
    count = max(count for count in range(len(parts) + 1) if len(b"".join(parts[:count])) <= end)
    assert list(split_results(packed[:end])) == results[:count]


@given(BODIES, st.data())
def test_nothing_comes_of_a_hole_or_after_it(bodies, data):
    results = [FusedResult(uuid.uuid4(), number, body) for number, body in enumerate([*bodies, b"\x01"])]
    parts = [pack_result(result) for result in results]
    hole = data.draw(st.integers(0, len(parts) - 1))
    parts[hole] = bytes(len(parts[hole]))
    assert list(split_results(b"".join(parts))) == results[:hole]


def test_a_result_that_is_not_what_was_written():
    packed = pack_result(FusedResult(uuid.uuid4(), 1, b"abc"))
    assert list(split_results(packed[:-1] + b"\0")) == []
