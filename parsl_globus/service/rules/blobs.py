"""Blobs: who may put, get and delete them, how large they may be, and how they pass through in parts."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from parsl_globus.errors import ServiceError, TooManyRequests
from parsl_globus.service.auth.base import Identity
from parsl_globus.service.rules import refusals
from parsl_globus.service.rules.registry import Registry
from parsl_globus.service.store.base import Store
from parsl_globus.service.store.blobs import (
    PART_BYTES,
    BlobEnd,
    BlobPart,
    BlobQuota,
    BlobQuotaExceeded,
    BlobRecord,
    BlobTaken,
    UploadGone,
)

logger = logging.getLogger(__name__)

#: How many transfers of one identity go on at once in this process, each with up to three parts in memory.
_TRANSFERS = 16
#: How long another one waits for its turn, before its client is told to come again.
_TURN_WAIT_S = 20.0
_RETRY_AFTER_S = 2.0
#: How many parts are read or written at once, so that tasks never wait for more of them.
_PARTS_AT_ONCE = 2
#: How long an upload whose process was killed is kept; longer than one may take between two parts.
_UPLOAD_LIFE_S = 600.0


class BlobLost(ServiceError):
    """A blob was removed while it was read."""

    def __init__(self, *, blob_id: uuid.UUID) -> None:
        super().__init__(f"Blob {blob_id} was removed while it was read.", blob_id=blob_id)


@dataclass(frozen=True)
class BlobLimits:
    """Settings of blobs.

    Attributes:
        size_bytes: Largest blob.
        quota: What one identity may have.
        life_s: How long each is kept.
    """

    size_bytes: int
    quota: BlobQuota
    life_s: float


class BlobRules:
    """What may happen to blobs; none is ever held as a whole.

    Args:
        store: Where they are.
        registry: Knows who runs endpoints for whom.
        limits: Settings.
    """

    def __init__(self, store: Store, registry: Registry, limits: BlobLimits) -> None:
        self._store = store
        self._registry = registry
        self._limits = limits
        self._parts = asyncio.Semaphore(_PARTS_AT_ONCE)
        self._transfers: dict[uuid.UUID, asyncio.Semaphore] = {}

    @asynccontextmanager
    async def transfer(self, caller: Identity) -> AsyncIterator[None]:
        """One of the caller's turns.

        Raises:
            TooManyRequests: None became free for a while.
        """
        turns = self._transfers.setdefault(caller.identity_id, asyncio.Semaphore(_TRANSFERS))
        try:
            await asyncio.wait_for(turns.acquire(), _TURN_WAIT_S)
        except asyncio.TimeoutError:
            reason = f"At most {_TRANSFERS} blobs go to or from one identity at once. Wait, and try again."
            raise TooManyRequests(retry_after_s=_RETRY_AFTER_S, reason=reason) from None
        try:
            yield
        finally:
            turns.release()

    # ---- put ----------------------------------------------------------------------------------------------------

    async def put(
        self, caller: Identity, blob_id: uuid.UUID, body: AsyncIterator[bytes], *, declared_bytes: int | None
    ) -> BlobRecord:
        """Keep a blob; once more with the same content is as good as once.

        Args:
            caller: Who will own it.
            blob_id: Its id.
            body: Its content, in pieces of any size.
            declared_bytes: How large the client says it is, if it does.

        Raises:
            RequestRefused: It is too large, or there are too many, or another blob has this id. Nothing is left.
            TooManyRequests: See `transfer`.
        """
        if declared_bytes is not None and declared_bytes > self._limits.size_bytes:
            raise refusals.blob_too_large(self._limits.size_bytes)
        known = await self._known(blob_id)
        if known is not None and known.owner_id != caller.identity_id:
            raise refusals.blob_taken(blob_id)
        async with self.transfer(caller):
            if known is not None:
                # Perhaps the answer to the first was lost: its content decides.
                return await self._same(known, body)
            return await self._take(caller, blob_id, body)

    async def _same(self, known: BlobRecord, body: AsyncIterator[bytes]) -> BlobRecord:
        digest = hashlib.sha256()
        async for data, _ in self._cut(body):
            await _add(digest, data)
        if digest.hexdigest() != known.sha256:
            raise refusals.blob_taken(known.blob_id)
        return known

    async def _take(self, caller: Identity, blob_id: uuid.UUID, body: AsyncIterator[bytes]) -> BlobRecord:
        now_s = time.time()
        part = BlobPart(uuid.uuid4(), caller.identity_id, -1, b"", 0, now_s, now_s)
        digest = hashlib.sha256()
        try:
            async for data, last in self._cut(body):
                await _add(digest, data)
                now_s = time.time()
                part = replace(
                    part,
                    number=part.number + 1,
                    data=data,
                    size_bytes=part.size_bytes + len(data),
                    now_s=now_s,
                    expires_s=now_s + (self._limits.life_s if last else _UPLOAD_LIFE_S),
                    end=BlobEnd(blob_id, digest.hexdigest()) if last else None,
                )
                await self._write(part)
        except BlobTaken:
            await self._forget(part)
            known = await self._known(blob_id)
            same = known is not None and known.owner_id == caller.identity_id and known.sha256 == digest.hexdigest()
            if known is None or not same:
                raise refusals.blob_taken(blob_id) from None
            return known
        except Exception:
            # Not at a cancellation, which comes with the end of the process: an upload that was left ends by itself.
            await self._forget(part)
            raise
        return BlobRecord(
            blob_id, part.upload_id, caller.identity_id, part.size_bytes, digest.hexdigest(), now_s, part.expires_s
        )

    async def _cut(self, body: AsyncIterator[bytes]) -> AsyncIterator[tuple[bytes, bool]]:
        """The content in parts as the store takes them, each with whether it is the last."""
        waiting = bytearray()
        size_bytes = 0
        async for piece in body:
            size_bytes += len(piece)
            if size_bytes > self._limits.size_bytes:
                raise refusals.blob_too_large(self._limits.size_bytes)
            waiting += piece
            while len(waiting) > PART_BYTES:
                yield bytes(waiting[:PART_BYTES]), False
                del waiting[:PART_BYTES]
        yield bytes(waiting), True

    async def _write(self, part: BlobPart) -> None:
        try:
            try:
                await self._write_once(part)
            except BlobQuotaExceeded:
                # Some of what counts may have ended since the last purge.
                await self._sweep(part.owner_id)
                await self._write_once(part)
        except BlobQuotaExceeded as exc:
            quota = self._limits.quota
            raise refusals.blob_quota(exc.count, exc.total_bytes, quota.count, quota.total_bytes) from exc
        except UploadGone as exc:
            raise refusals.upload_stalled(_UPLOAD_LIFE_S) from exc

    async def _write_once(self, part: BlobPart) -> None:
        async with self._parts:
            await self._store.write_blob(part, self._limits.quota)

    async def _forget(self, part: BlobPart) -> None:
        """Remove an upload, now rather than at its end."""
        if part.number < 0:
            return
        try:
            await self._store.drop_upload(part.upload_id)
            await self._sweep(part.owner_id)
        except ServiceError as exc:
            logger.warning("An upload that came to nothing is removed later: %s", exc)

    # ---- get ----------------------------------------------------------------------------------------------------

    async def get(self, caller: Identity, blob_id: uuid.UUID) -> BlobRecord:
        """A blob that the caller may read.

        Raises:
            RequestRefused: It is unknown, or nothing to the caller.
        """
        record = await self._known(blob_id)
        if record is None or not await self._may_read(caller.identity_id, record.owner_id):
            raise refusals.unknown_blob(blob_id)
        return record

    async def parts(self, record: BlobRecord) -> AsyncIterator[bytes]:
        """The content of a blob.

        Raises:
            BlobLost: It was removed meanwhile.
        """
        for number in range(max(1, -(-record.size_bytes // PART_BYTES))):
            async with self._parts:
                data = await self._store.blob_part(record.upload_id, number)
            if data is None:
                raise BlobLost(blob_id=record.blob_id)
            yield data

    async def _may_read(self, reader: uuid.UUID, owner: uuid.UUID) -> bool:
        if reader == owner:
            return True
        for _ in range(2):
            # Arguments go to whoever runs an endpoint, results come back from there.
            if self._runs_for(reader, owner) or self._runs_for(owner, reader):
                return True
            # Perhaps by another process, just now.
            await self._registry.refresh()
        return False

    def _runs_for(self, runner: uuid.UUID, user: uuid.UUID) -> bool:
        """Whether `user` has sent tasks to an endpoint that `runner` runs."""
        used = {u.manager_id for u in self._registry.user_endpoints() if u.identity_id == user}
        managers = (self._registry.manager(endpoint_id) for endpoint_id in used)
        return any(manager is not None and runner in (manager.owner_id, *manager.admins) for manager in managers)

    # ---- end ----------------------------------------------------------------------------------------------------

    async def delete(self, caller: Identity, blob_id: uuid.UUID) -> None:
        """Remove a blob of the caller's.

        Raises:
            RequestRefused: There is none of this id.
        """
        record = await self._known(blob_id)
        if record is None or not await self._store.drop_blob(blob_id, caller.identity_id):
            raise refusals.unknown_blob(blob_id)
        await self._sweep(caller.identity_id)

    async def purge_some(self, now_s: float) -> bool:
        """Remove a little of what has ended; whether there may be more."""
        return await self._store.sweep_blobs(now_s)

    async def _sweep(self, owner_id: uuid.UUID) -> None:
        more = True
        while more:
            async with self._parts:
                more = await self._store.sweep_blobs(time.time(), owner_id=owner_id)

    async def _known(self, blob_id: uuid.UUID) -> BlobRecord | None:
        record = await self._store.blob(blob_id)
        return None if record is None or record.expires_s <= time.time() else record


async def _add(digest: hashlib._Hash, data: bytes) -> None:
    # In a thread: a part takes a millisecond or more, in which nobody else would be answered.
    if len(data) > PART_BYTES // 16:
        await asyncio.get_running_loop().run_in_executor(None, digest.update, data)
    else:
        digest.update(data)
