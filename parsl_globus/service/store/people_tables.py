"""The tables of users, their logins elsewhere, groups and shares."""

from __future__ import annotations

import sqlalchemy as sa

from parsl_globus.service.store.tables import METADATA

USERS = sa.Table(
    "users",
    METADATA,
    sa.Column("identity_id", sa.Uuid, primary_key=True),
    sa.Column("username", sa.String(255), nullable=False, unique=True),
    sa.Column("admin", sa.Boolean, nullable=False),
)

LOGINS = sa.Table(
    "user_logins",
    METADATA,
    sa.Column("issuer", sa.String(255), primary_key=True),
    sa.Column("subject", sa.String(255), primary_key=True),
    sa.Column("identity_id", sa.Uuid, nullable=False, index=True),
)

# `task_groups` are another matter.
USER_GROUPS = sa.Table(
    "user_groups",
    METADATA,
    sa.Column("group_id", sa.Uuid, primary_key=True),
    sa.Column("name", sa.String(255), nullable=False, unique=True),
)

MEMBERS = sa.Table(
    "user_group_members",
    METADATA,
    sa.Column("identity_id", sa.Uuid, primary_key=True),
    sa.Column("group_id", sa.Uuid, primary_key=True),
)

SHARES = sa.Table(
    "endpoint_shares",
    METADATA,
    sa.Column("grantee_id", sa.Uuid, primary_key=True),
    sa.Column("endpoint_id", sa.Uuid, primary_key=True, index=True),
    sa.Column("kind", sa.String(16), nullable=False),
)
