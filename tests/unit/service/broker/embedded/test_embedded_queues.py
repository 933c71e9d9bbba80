"""Routing, order and limits of queues, without a socket."""

from __future__ import annotations

import asyncio
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsl_globus.service.broker.embedded.queues import MESSAGE_OVERHEAD_BYTES, Message, Queue, QueueTable, matches

_words = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=5)
_patterns = st.lists(st.sampled_from(["a", "b", "*", "#"]), min_size=1, max_size=5)


def _reference(pattern: list[str], words: list[str]) -> bool:
    regex = "".join({"*": r"\w\.", "#": r"(\w\.)*"}.get(part, part + r"\.") for part in pattern)
    return re.fullmatch(regex, "".join(word + "." for word in words)) is not None


@given(_patterns, _words)
def test_topic_patterns(pattern, words) -> None:
    assert matches(pattern, words) == _reference(pattern, words)


def _message(body: bytes = b"x") -> Message:
    return Message("", "q", b"\0\0", body)


@given(st.data())
def test_what_is_put_back_in_any_order_is_where_it_was(data) -> None:
    async def scenario() -> None:
        queue = Queue("q", 10**9)
        for number in range(20):
            queue.put(_message(b"%d" % number))
        out = []
        for _ in range(12):
            entry = queue.pop()
            assert entry is not None
            out.append(entry)
        shuffled = data.draw(st.permutations(out))
        cut = data.draw(st.integers(0, 12))
        queue.put_back(shuffled[:cut])
        queue.put_back(shuffled[cut:])
        assert [entry.message.body for entry in queue.ready] == [b"%d" % number for number in range(20)]
        assert [entry.redelivered for entry in queue.ready] == [True] * 12 + [False] * 8

    asyncio.run(scenario())


def test_the_limit_counts_what_is_out() -> None:
    queue = Queue("q", 2 * (MESSAGE_OVERHEAD_BYTES + 12))
    table = QueueTable(0)
    big = _message(b"0123456789")
    assert table.publish([queue], big)
    assert table.publish([queue], big)
    assert not table.publish([queue], big)
    entry = queue.pop()
    assert entry is not None
    assert not table.publish([queue], big)
    queue.done(entry)
    assert table.publish([queue], big)


def test_a_message_for_two_queues_goes_to_both_or_none() -> None:
    small, large = Queue("s", 0), Queue("l", 10**6)
    assert not QueueTable(0).publish([large, small], _message())
    assert not large.ready


def test_a_key_that_fits_twice_is_delivered_once() -> None:
    table = QueueTable(10**6)
    table.declare_exchange("e")
    queue = table.declare_queue("q")
    table.bind(queue, "e", "*.results")
    table.bind(queue, "e", "#")
    assert table.route("e", "a.results") == (queue,)
    table.delete_queue("q")
    assert table.route("e", "a.results") == ()


@pytest.mark.parametrize("exchange", ["", "e"])
def test_nothing_fits(exchange) -> None:
    table = QueueTable(10**6)
    table.declare_exchange("e")
    assert table.route(exchange, "x") == ()
