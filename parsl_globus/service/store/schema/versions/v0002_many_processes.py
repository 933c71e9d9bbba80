"""Many service processes on one database; text that PostgreSQL's own can't hold; finding what is old."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

#: Columns that hold other people's bytes: PostgreSQL's text takes no NUL.
_VERBATIM = (("functions", "code"), ("tasks", "payload"))


def upgrade() -> None:
    """Add what processes share."""
    op.create_table(
        "settings",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("holder", sa.String(length=64), nullable=False),
        sa.Column("until_s", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.add_column("user_endpoints", sa.Column("start_sent_s", sa.Double(), nullable=True))
    op.add_column("submissions", sa.Column("sender", sa.Text(), nullable=True))
    op.create_index("ix_submissions_submitted_s", "submissions", ["submitted_s", "number"], unique=False)
    op.create_index(
        "ix_submissions_unsent",
        "submissions",
        ["sender"],
        unique=False,
        sqlite_where=sa.text("sender IS NOT NULL"),
        postgresql_where=sa.text("sender IS NOT NULL"),
    )
    if op.get_bind().dialect.name == "postgresql":
        for table, column in _VERBATIM:
            op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} TYPE bytea USING convert_to({column}, 'UTF8')")


def downgrade() -> None:
    """Remove it again."""
    if op.get_bind().dialect.name == "postgresql":
        for table, column in _VERBATIM:
            op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} TYPE text USING convert_from({column}, 'UTF8')")
    op.drop_index("ix_submissions_unsent", table_name="submissions")
    op.drop_index("ix_submissions_submitted_s", table_name="submissions")
    op.drop_column("submissions", "sender")
    op.drop_column("user_endpoints", "start_sent_s")
    op.drop_table("leases")
    op.drop_table("settings")
