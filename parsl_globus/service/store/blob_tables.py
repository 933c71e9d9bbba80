"""The tables of blobs."""

from __future__ import annotations

import sqlalchemy as sa

from parsl_globus.service.store.tables import METADATA

# One row per upload; `blob_id` comes with the last part, and goes first when it is removed.
BLOBS = sa.Table(
    "blobs",
    METADATA,
    sa.Column("upload_id", sa.Uuid, primary_key=True),
    sa.Column("blob_id", sa.Uuid, unique=True),
    sa.Column("owner_id", sa.Uuid, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("created_s", sa.Double, nullable=False),
    sa.Column("expires_s", sa.Double, nullable=False, index=True),
    # With the size: what an owner has is summed up at each part, from this index alone.
    sa.Index("ix_blobs_owner", "owner_id", "size_bytes"),
)

BLOB_PARTS = sa.Table(
    "blob_parts",
    METADATA,
    sa.Column("upload_id", sa.Uuid, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
)
