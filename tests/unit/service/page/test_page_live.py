from __future__ import annotations

import asyncio
import json
import uuid

import pytest

from parsl_globus.errors import LinkError
from parsl_globus.service.page.live import Live, TooManyStreams, changed, fragment

ADA = uuid.uuid4()


async def always() -> bool:
    return True


def test_only_what_changed_is_sent():
    row = fragment("<p id='row'>1</p>")
    new = {"list": fragment("<div>1</div>", parts={"row": ""}), "row": row}
    have = {"list": new["list"].mark, "row": "old"}
    assert changed(have, new) == {"row": "<p id='row'>1</p>"}
    assert changed({name: piece.mark for name, piece in new.items()}, new) == {}
    # A list that is sent has its rows in it.
    assert changed({}, new) == {"list": "<div>1</div>"}


def test_a_list_changes_only_with_what_is_in_it():
    one, other = fragment("a", parts={"x": ""}), fragment("b", parts={"x": ""})
    assert one.mark == other.mark
    assert fragment("a", parts={"y": ""}).mark != one.mark


def test_a_stream_tells_changes_and_ends_when_the_service_does():
    async def main():
        live = Live(period_s=0.01)
        text = "one"

        async def render():
            return {"piece": fragment(text)}

        stream = live.open(ADA, "page", render, always, {"piece": fragment("one").mark})
        assert (await anext(stream)).startswith(b"retry: ")
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.wait([waiting], timeout=0.05)
        assert not waiting.done()
        text = "two"
        event = await asyncio.wait_for(waiting, 5)
        assert json.loads(event.decode().removeprefix("data: ")) == {"piece": "two"}
        live.stop()
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(anext(stream), 1)
        assert live.streams == 0
        with pytest.raises(TooManyStreams):
            live.open(ADA, "page", render, always, {})

    asyncio.run(main())


def test_streams_are_counted_each_and_together():
    async def main():
        live = Live(most=3, most_each=2, period_s=0.01)

        async def render():
            return {}

        async def opened(viewer_id):
            stream = live.open(viewer_id, "page", render, always, {})
            await anext(stream)
            return stream

        streams = [await opened(ADA) for _ in range(2)]
        with pytest.raises(TooManyStreams):
            live.open(ADA, "page", render, always, {})
        streams.append(await opened(uuid.uuid4()))
        with pytest.raises(TooManyStreams):
            live.open(uuid.uuid4(), "page", render, always, {})
        await streams[0].aclose()
        assert live.streams == 2

    asyncio.run(main())


def test_several_who_look_at_the_same_cost_one_rendering():
    async def main():
        live = Live(period_s=5)
        rendered = 0

        async def render():
            nonlocal rendered
            rendered += 1
            await asyncio.sleep(0)
            return {"piece": fragment("text")}

        streams = [live.open(ADA, "page", render, always, {}) for _ in range(3)]
        for stream in streams:
            await anext(stream)
        events = await asyncio.gather(*(anext(stream) for stream in streams))
        assert len(set(events)) == rendered == 1
        for stream in streams:
            await stream.aclose()

    asyncio.run(main())


def test_a_closed_session_ends_its_streams(monkeypatch):
    monkeypatch.setattr("parsl_globus.service.page.live._CHECK_S", 0.0)

    async def main():
        live = Live(period_s=0.01)

        async def render():
            return {}

        async def never() -> bool:
            return False

        stream = live.open(ADA, "page", render, never, {})
        assert [part async for part in stream][-1] == b"event: ended\ndata: {}\n\n"

    asyncio.run(main())


def test_a_store_that_is_away_ends_the_stream_and_nothing_else():
    async def main():
        live = Live(period_s=0.01)

        async def render():
            raise LinkError("The store is away.")

        stream = live.open(ADA, "page", render, always, {})
        assert len([part async for part in stream]) == 1
        assert live.streams == 0

    asyncio.run(main())
