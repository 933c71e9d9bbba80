"""Finding what the page shows: the last hour, the newest failures, one owner's newest tasks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the indexes; each grows at its end, where adding to it costs little."""
    op.create_index(
        "ix_tasks_completed_s",
        "tasks",
        ["completed_s", "submission", "stage"],
        unique=False,
        sqlite_where=sa.text("completed_s IS NOT NULL"),
        postgresql_where=sa.text("completed_s IS NOT NULL"),
    )
    op.create_index(
        "ix_tasks_failed",
        "tasks",
        ["sequence"],
        unique=False,
        sqlite_where=sa.text("stage = 'failed'"),
        postgresql_where=sa.text("stage = 'failed'"),
    )
    op.create_index("ix_submissions_owner", "submissions", ["owner_id", "number"], unique=False)


def downgrade() -> None:
    """Remove them again."""
    op.drop_index("ix_submissions_owner", table_name="submissions")
    op.drop_index("ix_tasks_failed", table_name="tasks")
    op.drop_index("ix_tasks_completed_s", table_name="tasks")
