"""Users with names and roles, groups, shared endpoints, functions for a group."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables of people."""
    op.create_table(
        "users",
        sa.Column("identity_id", sa.Uuid(), nullable=False),
        sa.Column("username", sa.String(length=255), nullable=False),
        sa.Column("admin", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("identity_id"),
        sa.UniqueConstraint("username"),
    )
    op.create_table(
        "user_groups",
        sa.Column("group_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.PrimaryKeyConstraint("group_id"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "user_group_members",
        sa.Column("identity_id", sa.Uuid(), nullable=False),
        sa.Column("group_id", sa.Uuid(), nullable=False),
        sa.PrimaryKeyConstraint("identity_id", "group_id"),
    )
    op.create_table(
        "endpoint_shares",
        sa.Column("grantee_id", sa.Uuid(), nullable=False),
        sa.Column("endpoint_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.PrimaryKeyConstraint("grantee_id", "endpoint_id"),
    )
    op.create_index(op.f("ix_endpoint_shares_endpoint_id"), "endpoint_shares", ["endpoint_id"], unique=False)
    op.add_column("functions", sa.Column("group_id", sa.Uuid(), nullable=True))


def downgrade() -> None:
    """Remove them again."""
    op.drop_column("functions", "group_id")
    op.drop_index(op.f("ix_endpoint_shares_endpoint_id"), table_name="endpoint_shares")
    op.drop_table("endpoint_shares")
    op.drop_table("user_group_members")
    op.drop_table("user_groups")
    op.drop_table("users")
