"""Blobs of the store in memory."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from parsl_globus.service.store.blobs import (
    BlobPart,
    BlobQuota,
    BlobQuotaExceeded,
    BlobRecord,
    BlobTaken,
    UploadGone,
)


@dataclass
class _Upload:
    owner_id: uuid.UUID
    created_s: float
    expires_s: float
    size_bytes: int = 0
    blob_id: uuid.UUID | None = None
    sha256: str = ""
    parts: dict[int, bytes] = field(default_factory=dict)


class MemoryBlobs:
    """See `BlobStore`; a part of `MemoryStore`."""

    def __init__(self) -> None:
        super().__init__()
        self._uploads: dict[uuid.UUID, _Upload] = {}

    async def write_blob(self, part: BlobPart, quota: BlobQuota) -> None:
        upload = self._uploads.get(part.upload_id)
        if upload is None and part.number == 0:
            upload = _Upload(part.owner_id, part.now_s, part.expires_s)
        if upload is None or upload.expires_s <= part.now_s:
            raise UploadGone
        mine = [u for i, u in self._uploads.items() if u.owner_id == part.owner_id and i != part.upload_id]
        count, total_bytes = len(mine) + 1, sum(u.size_bytes for u in mine) + part.size_bytes
        if count > quota.count or total_bytes > quota.total_bytes:
            raise BlobQuotaExceeded(count=count, total_bytes=total_bytes)
        if part.end is not None:
            self._give_id(part.end.blob_id, upload, part.now_s)
            upload.sha256 = part.end.sha256
        upload.parts[part.number] = part.data
        upload.size_bytes, upload.expires_s = part.size_bytes, part.expires_s
        self._uploads[part.upload_id] = upload

    def _give_id(self, blob_id: uuid.UUID, upload: _Upload, now_s: float) -> None:
        for other in self._uploads.values():
            if other.blob_id == blob_id and other is not upload:
                if other.expires_s > now_s:
                    raise BlobTaken(blob_id=blob_id)
                other.blob_id = None
        upload.blob_id = blob_id

    async def blob(self, blob_id: uuid.UUID) -> BlobRecord | None:
        for upload_id, upload in self._uploads.items():
            if upload.blob_id == blob_id:
                return BlobRecord(
                    blob_id,
                    upload_id,
                    upload.owner_id,
                    upload.size_bytes,
                    upload.sha256,
                    upload.created_s,
                    upload.expires_s,
                )
        return None

    async def blob_part(self, upload_id: uuid.UUID, number: int) -> bytes | None:
        upload = self._uploads.get(upload_id)
        return None if upload is None else upload.parts.get(number)

    async def drop_blob(self, blob_id: uuid.UUID, owner_id: uuid.UUID) -> bool:
        record = await self.blob(blob_id)
        if record is None or record.owner_id != owner_id:
            return False
        await self.drop_upload(record.upload_id)
        return True

    async def drop_upload(self, upload_id: uuid.UUID) -> None:
        upload = self._uploads.get(upload_id)
        if upload is not None:
            upload.blob_id, upload.expires_s = None, 0.0

    async def sweep_blobs(self, now_s: float, *, owner_id: uuid.UUID | None = None, limit: int = 4) -> bool:
        for upload_id, upload in self._uploads.items():
            if upload.expires_s <= now_s and owner_id in (None, upload.owner_id):
                upload.blob_id = None
                numbers = sorted(upload.parts)[:limit]
                for number in numbers:
                    del upload.parts[number]
                if len(numbers) < limit:
                    del self._uploads[upload_id]
                return True
        return False
