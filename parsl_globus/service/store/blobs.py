"""What the service asks of a store about blobs: values of any size, kept in parts, by an id that clients choose."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Protocol

from parsl_globus.errors import ServiceError

#: Size of all parts of a blob but the last, which may be smaller. One is what a transfer holds in memory.
PART_BYTES = 1024 * 1024


class BlobTaken(ServiceError):
    """There is a blob of this id already; the part was not kept."""

    def __init__(self, *, blob_id: uuid.UUID) -> None:
        super().__init__(f"There is a blob {blob_id} already.", blob_id=blob_id)


class BlobQuotaExceeded(ServiceError):
    """The owner's blobs would be too many or too large together; the part was not kept.

    Attributes:
        count: How many there would be.
        total_bytes: How large they would be together.
    """

    count: int
    total_bytes: int

    def __init__(self, *, count: int, total_bytes: int) -> None:
        super().__init__(f"That would be {count} blobs of {total_bytes} bytes.", count=count, total_bytes=total_bytes)


class UploadGone(ServiceError):
    """The upload was removed before this part came, as it had not gone on for too long; the part was not kept."""

    def __init__(self) -> None:
        super().__init__("This upload of a blob was given up. Send the blob again.")


@dataclass(frozen=True)
class BlobRecord:
    """A blob that is there as a whole.

    Attributes:
        blob_id: Its id.
        upload_id: The upload that brought it, by which its parts are kept.
        owner_id: Who put it.
        size_bytes: Its size.
        sha256: SHA-256 of it, in hex.
        created_s: When it came, in seconds since the epoch.
        expires_s: When it ends, likewise; it may be there for a while longer, but counts as gone.
    """

    blob_id: uuid.UUID
    upload_id: uuid.UUID
    owner_id: uuid.UUID
    size_bytes: int
    sha256: str
    created_s: float
    expires_s: float


@dataclass(frozen=True)
class BlobEnd:
    """What the last part of an upload makes a blob.

    Attributes:
        blob_id: The blob's id.
        sha256: SHA-256 of the whole, in hex.
    """

    blob_id: uuid.UUID
    sha256: str


@dataclass(frozen=True)
class BlobPart:
    """A part of an upload, to be stored.

    Attributes:
        upload_id: The upload.
        owner_id: Whose it is.
        number: Its place, from 0.
        data: Of `PART_BYTES`; the last part may be smaller, or empty.
        size_bytes: Size of the upload up to and with this part.
        now_s: The present, in seconds since the epoch.
        expires_s: When the upload is given up unless another part comes; with `end`, when the blob ends.
        end: Given with the last part.
    """

    upload_id: uuid.UUID
    owner_id: uuid.UUID
    number: int
    data: bytes = field(repr=False)
    size_bytes: int
    now_s: float
    expires_s: float
    end: BlobEnd | None = None


@dataclass(frozen=True)
class BlobQuota:
    """What one identity may have, uploads that are going on included.

    Attributes:
        count: Number of blobs.
        total_bytes: Their size together.
    """

    count: int
    total_bytes: int


class BlobStore(Protocol):
    """This part of a `Store`; its promises hold here as well.

    A blob is there once its last part is stored, not before. What is dropped or has expired goes in steps, by
    `sweep_blobs`, and counts for its owner's quota until then: nobody can fill the disk faster than it is emptied.
    """

    async def write_blob(self, part: BlobPart, quota: BlobQuota) -> None:
        """Keep a part; storing the same one again changes nothing.

        Raises:
            BlobTaken: It is the last part, and there is another blob of this id.
            BlobQuotaExceeded: The owner would have more than `quota`.
            UploadGone: The upload has been dropped, or has expired.
        """

    async def blob(self, blob_id: uuid.UUID) -> BlobRecord | None:
        """Look up a blob; also one that has expired and was not swept yet."""

    async def blob_part(self, upload_id: uuid.UUID, number: int) -> bytes | None:
        """A part of a blob."""

    async def drop_blob(self, blob_id: uuid.UUID, owner_id: uuid.UUID) -> bool:
        """Have a blob of this owner's count as gone; whether there was one."""

    async def drop_upload(self, upload_id: uuid.UUID) -> None:
        """Have an upload, or what has become of it, count as gone."""

    async def sweep_blobs(self, now_s: float, *, owner_id: uuid.UUID | None = None, limit: int = 4) -> bool:
        """Remove up to `limit` parts of what was dropped or has expired by `now_s`, of one owner or of all.

        Args:
            now_s: The present, in seconds since the epoch.
            owner_id: Whose.
            limit: Most parts to remove at once, since tasks may have to wait as long.

        Returns:
            Whether there may be more to remove.
        """
