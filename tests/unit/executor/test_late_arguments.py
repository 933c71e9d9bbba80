"""Large arguments that wait as they are until they are sent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsl_globus.executor.functions import Encoder, late_arguments, pickled_value
from parsl_globus.executor.late_arguments import LATE_BYTES, late_size
from parsl_globus.wire import payload

LARGE = bytes(LATE_BYTES)


def use(*_args, **_kwargs):
    pass


class Text(str):
    pass


@pytest.mark.parametrize(
    "args",
    [
        (bytes(LATE_BYTES),),
        ("x" * LATE_BYTES, 1, None, 2.5, True),
        ((bytes(LATE_BYTES), 1), (bytes(LATE_BYTES),)),
        (1 << 8 * LATE_BYTES,),
    ],
)
def test_they_wait_as_they_are_and_are_the_same_in_the_end(args):
    late = Encoder().encode(use, args, {"name": LARGE})
    assert isinstance(late, payload.RunnerCall)
    assert isinstance(late.arguments, payload.LateText)
    arguments = payload.unpack_runner_call(payload.split_buffers(str(late), limit=2)[0])
    assert arguments[2] == payload.to_text(pickled_value((args, {"name": LARGE})))
    assert hash(late) == hash(Encoder().encode(use, args, {"name": LARGE}))  # by which a call that goes again is known
    assert len(str(late)) <= len(late) < len(str(late)) + 1000


@pytest.mark.parametrize(
    "args", [(LARGE, []), (LARGE, {}), (bytearray(LARGE),), (LARGE, (1, [2])), ("ü" * LATE_BYTES,), (LARGE, Text("x"))]
)
def test_what_may_change_is_encoded_at_once(args):
    assert late_arguments(args, {}) is None
    assert late_arguments((), {"name": args}) is None


def test_so_is_what_is_small():
    assert late_arguments((b"x", 1), {}) is None


def test_so_is_what_takes_long_to_look_at():
    shared: tuple = (LARGE,)
    for _ in range(2000):
        shared = (shared, shared)
    assert late_arguments(shared, {}) is None
    assert late_arguments((LARGE, (None,) * 1000), {}) is None
    assert late_arguments((LARGE, *(None,) * 1000), {}) is None


def test_so_is_what_may_be_too_large():
    assert late_arguments((bytes(9_000_000),), {}) is None


PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.binary(), st.text(st.characters(codec="ascii"))
)
VALUES = st.one_of(PLAIN, st.lists(PLAIN).map(tuple))


@given(st.lists(VALUES, max_size=6), st.dictionaries(st.text(), VALUES, max_size=4))
def test_the_bound_holds(args, kwargs):
    args = [LARGE, *args]
    size = late_size(args, kwargs)
    assert size is not None
    assert len(pickled_value((tuple(args), kwargs))) <= size
