"""Blobs, in parts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "blobs",
        sa.Column("upload_id", sa.Uuid(), nullable=False),
        sa.Column("blob_id", sa.Uuid(), nullable=True),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("created_s", sa.Double(), nullable=False),
        sa.Column("expires_s", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("upload_id"),
        sa.UniqueConstraint("blob_id"),
    )
    op.create_index(op.f("ix_blobs_expires_s"), "blobs", ["expires_s"], unique=False)
    op.create_index("ix_blobs_owner", "blobs", ["owner_id", "size_bytes"], unique=False)
    op.create_table(
        "blob_parts",
        sa.Column("upload_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("upload_id", "number"),
    )
    if op.get_context().dialect.name == "postgresql":
        # Values are pickles, often compressed ones: trying to compress each part costs more time than writing it.
        op.execute("ALTER TABLE blob_parts ALTER COLUMN data SET STORAGE EXTERNAL")


def downgrade() -> None:
    """Remove them again."""
    op.drop_table("blob_parts")
    op.drop_index("ix_blobs_owner", table_name="blobs")
    op.drop_index(op.f("ix_blobs_expires_s"), table_name="blobs")
    op.drop_table("blobs")
