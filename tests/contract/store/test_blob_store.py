"""What every store promises about blobs (`BlobStore`), over all of them."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from test_store import new_store, run  # noqa: F401

from parsl_globus.service.store.blobs import (
    BlobEnd,
    BlobPart,
    BlobQuota,
    BlobQuotaExceeded,
    BlobRecord,
    BlobTaken,
    UploadGone,
)

OWNER, OTHER = uuid.uuid4(), uuid.uuid4()
AMPLE = BlobQuota(count=100, total_bytes=10**9)


async def put(store, *parts: bytes, owner_id=OWNER, blob_id=None, quota=AMPLE, now_s=100.0, life_s=50.0) -> BlobRecord:
    """Store a blob; returns what should be known about it."""
    blob_id, upload_id = blob_id or uuid.uuid4(), uuid.uuid4()
    size = 0
    for number, data in enumerate(parts):
        size += len(data)
        end = BlobEnd(blob_id, "f" * 64) if number == len(parts) - 1 else None
        expires_s = now_s + life_s if end else now_s + 10
        await store.write_blob(BlobPart(upload_id, owner_id, number, data, size, now_s, expires_s, end), quota)
    return BlobRecord(blob_id, upload_id, owner_id, size, "f" * 64, now_s, now_s + life_s)


async def begin(store, *, owner_id=OWNER, data=b"begun", now_s=100.0, quota=AMPLE) -> uuid.UUID:
    upload_id = uuid.uuid4()
    await store.write_blob(BlobPart(upload_id, owner_id, 0, data, len(data), now_s, now_s + 10), quota)
    return upload_id


async def sweep(store, now_s: float, **more) -> int:
    for count in range(100):
        if not await store.sweep_blobs(now_s, limit=2, **more):
            return count
    raise AssertionError("it came to no end")


def test_a_blob_is_there_once_its_last_part_is(run):  # noqa: F811
    async def scenario(store, other_process):
        blob_id = uuid.uuid4()
        upload_id = await begin(store, data=b"\0one\xff")
        assert await store.blob(blob_id) is None
        last = BlobPart(upload_id, OWNER, 1, b"two", 8, 100.0, 150.0, BlobEnd(blob_id, "a" * 64))
        for _ in range(2):  # the answer to the first may have been lost
            await store.write_blob(last, AMPLE)
        for one in (store, other_process):
            assert await one.blob(blob_id) == BlobRecord(blob_id, upload_id, OWNER, 8, "a" * 64, 100.0, 150.0)
            assert [await one.blob_part(upload_id, number) for number in range(3)] == [b"\0one\xff", b"two", None]
        empty = await put(store, b"")
        assert await store.blob(empty.blob_id) == empty
        assert await store.blob_part(empty.upload_id, 0) == b""
        assert await sweep(store, 105.0) == 0

    run(scenario)


def test_an_id_is_one_blobs_only(run):  # noqa: F811
    async def scenario(store):
        first = await put(store, b"first")
        for owner_id in (OWNER, OTHER):
            with pytest.raises(BlobTaken):
                await put(store, b"x", b"second", blob_id=first.blob_id, owner_id=owner_id)
        assert await store.blob(first.blob_id) == first
        # What was taken back leaves nothing.
        await sweep(store, 120.0)
        assert await store.blob(first.blob_id) == first
        # One whose life is over holds its id no longer, swept or not.
        late = await put(store, b"third", blob_id=first.blob_id, owner_id=OTHER, now_s=150.0)
        assert await store.blob(first.blob_id) == late
        await sweep(store, 150.0)
        assert await store.blob(first.blob_id) == late
        assert await store.blob_part(first.upload_id, 0) is None

    run(scenario)


def test_an_owner_has_a_quota_of_blobs_and_of_bytes(run):  # noqa: F811
    async def scenario(store):
        quota = BlobQuota(count=3, total_bytes=10)
        await put(store, b"1234", quota=quota)
        with pytest.raises(BlobQuotaExceeded) as caught:
            await put(store, b"1234567", quota=quota)
        assert (caught.value.count, caught.value.total_bytes) == (2, 11)
        upload_id = await begin(store, data=b"123", quota=quota)
        # Parts count as they come.
        with pytest.raises(BlobQuotaExceeded):
            await store.write_blob(BlobPart(upload_id, OWNER, 1, b"1234", 7, 101.0, 110.0), quota)
        third = await put(store, b"123", quota=quota)
        with pytest.raises(BlobQuotaExceeded) as caught:
            await put(store, b"", quota=quota)
        assert (caught.value.count, caught.value.total_bytes) == (4, 10)
        await put(store, b"1234567890", owner_id=OTHER, quota=quota)
        # What is dropped counts until it is swept.
        await store.drop_blob(third.blob_id, OWNER)
        with pytest.raises(BlobQuotaExceeded):
            await put(store, b"", quota=quota)
        await sweep(store, 100.0, owner_id=OTHER)
        with pytest.raises(BlobQuotaExceeded):
            await put(store, b"", quota=quota)
        await sweep(store, 100.0, owner_id=OWNER)
        await put(store, b"123", quota=quota)

    run(scenario)


def test_uploads_at_once_stay_within_the_quota_together(run):  # noqa: F811
    async def scenario(first, second):
        quota = BlobQuota(count=5, total_bytes=10**9)
        tries = [put(store, b"part", b"end", quota=quota) for store in (first, second) for _ in range(5)]
        outcomes = await asyncio.gather(*tries, return_exceptions=True)
        failed = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        assert {type(failure) for failure in failed} == {BlobQuotaExceeded}
        assert len(failed) == 5

    run(scenario)


def test_dropped_ones_are_gone_at_once_and_swept_in_steps(run):  # noqa: F811
    async def scenario(store):
        kept = await put(store, b"kept")
        gone = await put(store, b"a", b"b", b"c", b"d", b"e")
        assert not await store.drop_blob(gone.blob_id, OTHER)
        assert await store.drop_blob(gone.blob_id, OWNER)
        assert not await store.drop_blob(gone.blob_id, OWNER)
        assert await store.blob(gone.blob_id) is None
        parts = [await store.blob_part(gone.upload_id, number) for number in range(5)]
        assert parts == [b"a", b"b", b"c", b"d", b"e"]
        assert await store.sweep_blobs(100.0, limit=2)
        parts = [await store.blob_part(gone.upload_id, number) for number in range(5)]
        assert parts == [None, None, b"c", b"d", b"e"]
        assert 1 <= await sweep(store, 100.0) <= 3
        assert await store.blob_part(gone.upload_id, 4) is None
        assert await store.blob(kept.blob_id) == kept
        # Its id is free.
        await put(store, b"new", blob_id=gone.blob_id)

    run(scenario)


def test_an_upload_that_was_dropped_or_left_takes_no_more_parts(run):  # noqa: F811
    async def scenario(store):
        left, dropped, going_on = [await begin(store) for _ in range(3)]
        await store.drop_upload(dropped)
        await store.drop_upload(uuid.uuid4())
        await store.write_blob(BlobPart(going_on, OWNER, 1, b"more", 9, 105.0, 115.0), AMPLE)
        for upload_id, now_s in ((dropped, 101.0), (left, 110.0), (uuid.uuid4(), 101.0)):
            with pytest.raises(UploadGone):
                part = BlobPart(upload_id, OWNER, 1, b"more", 9, now_s, 200.0, BlobEnd(uuid.uuid4(), ""))
                await store.write_blob(part, AMPLE)
        await sweep(store, 110.0)
        assert [await store.blob_part(upload_id, 0) for upload_id in (left, dropped)] == [None, None]
        assert [await store.blob_part(going_on, number) for number in (0, 1)] == [b"begun", b"more"]

    run(scenario)


def test_blobs_end(run):  # noqa: F811
    async def scenario(store):
        short, long = await put(store, b"x", life_s=10.0), await put(store, b"x", life_s=20.0)
        assert await sweep(store, 109.9) == 0
        await sweep(store, 110.0)
        assert await store.blob(short.blob_id) is None
        assert await store.blob(long.blob_id) == long

    run(scenario)
