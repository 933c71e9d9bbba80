"""The queries about blobs, for the SQL stores."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa

from parsl_globus.service.store import changes
from parsl_globus.service.store.blob_tables import BLOB_PARTS, BLOBS
from parsl_globus.service.store.blobs import (
    BlobPart,
    BlobQuota,
    BlobQuotaExceeded,
    BlobRecord,
    BlobTaken,
    UploadGone,
)

_T = TypeVar("_T")

#: First half of the names of advisory locks, one per owner; any number that nobody else uses.
_QUOTA_LOCK = 7_214_003


class SqlBlobs:
    """See `BlobStore`; a part of `SqlStore`, whose transactions it uses."""

    if TYPE_CHECKING:

        async def _write(self, work: Callable[[sa.Connection], _T]) -> _T: ...

        async def _read(self, work: Callable[[sa.Connection], _T]) -> _T: ...

    async def write_blob(self, part: BlobPart, quota: BlobQuota) -> None:
        try:
            await self._write(lambda c: _write_part(c, part, quota))
        except sa.exc.IntegrityError as exc:
            if part.end is None:
                raise
            raise BlobTaken(blob_id=part.end.blob_id) from exc

    async def blob(self, blob_id: uuid.UUID) -> BlobRecord | None:
        query = sa.select(BLOBS).where(BLOBS.c.blob_id == blob_id)
        row = await self._read(lambda c: c.execute(query).one_or_none())
        return None if row is None else BlobRecord(**row._mapping)

    async def blob_part(self, upload_id: uuid.UUID, number: int) -> bytes | None:
        here = (BLOB_PARTS.c.upload_id == upload_id) & (BLOB_PARTS.c.number == number)
        query = sa.select(BLOB_PARTS.c.data).where(here)
        return await self._read(lambda c: c.execute(query).scalar_one_or_none())

    async def drop_blob(self, blob_id: uuid.UUID, owner_id: uuid.UUID) -> bool:
        dropped: set[uuid.UUID] = set()
        here = (BLOBS.c.blob_id == blob_id) & (BLOBS.c.owner_id == owner_id)
        query = sa.select(BLOBS.c.upload_id).where(here).with_for_update()

        def work(connection: sa.Connection) -> bool:
            # Remembered, as the answer of a commit may be lost, and the id then be free already.
            dropped.update(connection.execute(query).scalars())
            _drop(connection, BLOBS.c.upload_id.in_(dropped))
            return bool(dropped)

        return await self._write(work)

    async def drop_upload(self, upload_id: uuid.UUID) -> None:
        await self._write(lambda c: _drop(c, BLOBS.c.upload_id == upload_id))

    async def sweep_blobs(self, now_s: float, *, owner_id: uuid.UUID | None = None, limit: int = 4) -> bool:
        # One that is locked is being swept by another process.
        query = sa.select(BLOBS.c.upload_id).where(BLOBS.c.expires_s <= now_s)
        query = query.order_by(BLOBS.c.expires_s).limit(1).with_for_update(skip_locked=True)
        if owner_id is not None:
            query = query.where(BLOBS.c.owner_id == owner_id)

        def work(connection: sa.Connection) -> bool:
            upload_id = connection.execute(query).scalar_one_or_none()
            if upload_id is None:
                return False
            _sweep(connection, upload_id, limit)
            return True

        return await self._write(work)


def _write_part(connection: sa.Connection, part: BlobPart, quota: BlobQuota) -> None:
    # Each statement may have been carried out before, when the answer of a commit was lost.
    if part.number == 0:
        upload = {
            "upload_id": part.upload_id,
            "owner_id": part.owner_id,
            "size_bytes": 0,
            "sha256": "",
            "created_s": part.now_s,
            "expires_s": part.expires_s,
        }
        connection.execute(changes.insert(connection, BLOBS).on_conflict_do_nothing(), upload)
    row = {"upload_id": part.upload_id, "number": part.number, "data": part.data}
    connection.execute(changes.insert(connection, BLOB_PARTS).on_conflict_do_nothing(), row)
    if connection.dialect.name == "postgresql":
        # From here to the commit, an owner's uploads take turns: none sees a sum without what another one adds.
        turn = int.from_bytes(part.owner_id.bytes[:4], "big", signed=True)
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_QUOTA_LOCK, turn)))
    values: dict[str, Any] = {"size_bytes": part.size_bytes, "expires_s": part.expires_s}
    if part.end is not None:
        over = (BLOBS.c.blob_id == part.end.blob_id) & (BLOBS.c.expires_s <= part.now_s)
        connection.execute(sa.update(BLOBS).where(over).values(blob_id=None))
        values |= {"blob_id": part.end.blob_id, "sha256": part.end.sha256}
    going_on = (BLOBS.c.upload_id == part.upload_id) & (BLOBS.c.expires_s > part.now_s)
    if connection.execute(sa.update(BLOBS).where(going_on).values(values)).rowcount == 0:
        raise UploadGone
    sums = sa.select(sa.func.count(), sa.func.sum(BLOBS.c.size_bytes)).where(BLOBS.c.owner_id == part.owner_id)
    count, total_bytes = connection.execute(sums).one()
    if count > quota.count or total_bytes > quota.total_bytes:
        raise BlobQuotaExceeded(count=count, total_bytes=int(total_bytes))


def _drop(connection: sa.Connection, which: sa.ColumnElement[bool]) -> None:
    connection.execute(sa.update(BLOBS).where(which).values(blob_id=None, expires_s=0.0))


def _sweep(connection: sa.Connection, upload_id: uuid.UUID, limit: int) -> None:
    # First of all it is gone for readers: nobody gets half of it.
    connection.execute(sa.update(BLOBS).where(BLOBS.c.upload_id == upload_id).values(blob_id=None))
    here = BLOB_PARTS.c.upload_id == upload_id
    query = sa.select(BLOB_PARTS.c.number).where(here).order_by(BLOB_PARTS.c.number).limit(limit)
    numbers = list(connection.execute(query).scalars())
    if numbers:
        connection.execute(sa.delete(BLOB_PARTS).where(here, BLOB_PARTS.c.number <= numbers[-1]))
    if len(numbers) < limit:
        connection.execute(sa.delete(BLOBS).where(BLOBS.c.upload_id == upload_id))
