from __future__ import annotations

import gc

import pytest

from parsl_globus.errors import NotSerializable
from parsl_globus.executor import by_value
from parsl_globus.executor.functions import Encoder
from parsl_globus.wire.payload import RunnerCall, from_text, split_buffers, unpack_runner_call


def test_a_function_is_pickled_once():
    class Counting:
        pickled = 0

        def __reduce__(self):
            Counting.pickled += 1
            return (int, ())

        def __call__(self):
            return None

    function = Counting()
    encoder = Encoder()
    assert encoder.encode(function, (), {}) == encoder.encode(function, (), {})
    assert Counting.pickled == 1


def test_a_function_is_forgotten_with_its_object():
    encoder = Encoder()
    encoder.encode(lambda: 1, (), {})
    gc.collect()
    assert len(encoder._known) == 0


def test_a_callable_without_a_hash_works():
    class Unhashable:
        __hash__ = None

        def __eq__(self, other):
            return self is other

        def __call__(self):
            return 1

    assert Encoder().encode(Unhashable(), (), {})


@pytest.mark.parametrize(
    ("args", "kwargs", "what"),
    [
        ((1, (i for i in [1])), {}, "argument 1"),
        ((), {"handle": (i for i in [1])}, "argument 'handle'"),
    ],
)
def test_the_argument_that_can_t_be_pickled_is_named(args, kwargs, what):
    with pytest.raises(NotSerializable) as caught:
        Encoder().encode(abs, args, kwargs)
    assert caught.value.what == what
    assert "cannot pickle" in caught.value.detail


def test_a_function_that_can_t_be_pickled_is_named():
    generator = (i for i in [1])

    def hold():
        return generator

    with pytest.raises(NotSerializable, match="'hold'"):
        Encoder().encode(hold, (), {})


def test_objects_that_raise_anything_are_told():
    class Nasty:
        def __reduce_ex__(self, protocol):
            raise SyntaxError("odd")

    with pytest.raises(NotSerializable, match="odd"):
        Encoder().encode(abs, (Nasty(),), {})


def test_calls_that_wait_share_their_function():
    encoder = Encoder()
    first, second = (encoder.encode(pow, (2, number), {}) for number in (1, 2))
    assert isinstance(first, RunnerCall)
    assert isinstance(second, RunnerCall)
    assert first.lead is second.lead
    assert str(first) != str(second)


def test_calls_without_arguments_are_alike():
    encoder = Encoder()
    texts = unpack_runner_call(split_buffers(str(encoder.encode(abs, (), {})), limit=2)[0])
    assert by_value.loads(from_text(texts[2])) == ((), {})
