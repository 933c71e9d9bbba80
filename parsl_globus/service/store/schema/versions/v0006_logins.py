"""Users who log in elsewhere, with OpenID Connect."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "user_logins",
        sa.Column("issuer", sa.String(length=255), nullable=False),
        sa.Column("subject", sa.String(length=255), nullable=False),
        sa.Column("identity_id", sa.Uuid(), nullable=False),
        sa.PrimaryKeyConstraint("issuer", "subject"),
    )
    op.create_index(op.f("ix_user_logins_identity_id"), "user_logins", ["identity_id"], unique=False)


def downgrade() -> None:
    """Remove it again."""
    op.drop_index(op.f("ix_user_logins_identity_id"), table_name="user_logins")
    op.drop_table("user_logins")
