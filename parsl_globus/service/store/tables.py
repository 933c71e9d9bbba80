"""The tables of the SQL stores; `schema/versions` holds the steps that lead to them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

METADATA = sa.MetaData()


class Words(sa.types.TypeDecorator[str]):
    """Text that people wrote. PostgreSQL's can't hold the character NUL, which has no meaning in it anyway."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:  # noqa: ARG002 - the hook's signature
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}") if value else value


class Verbatim(sa.types.TypeDecorator[str]):
    """Text that must come back to the last character, whatever it holds: bytes, where the database restricts text."""

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        return dialect.type_descriptor(sa.LargeBinary() if dialect.name == "postgresql" else sa.Text())

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> Any:
        return value.encode() if value is not None and dialect.name == "postgresql" else value

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> str | None:
        return bytes(value).decode() if value is not None and dialect.name == "postgresql" else value


IDENTITIES = sa.Table(
    "identities",
    METADATA,
    sa.Column("identity_id", sa.Uuid, primary_key=True),
    sa.Column("username", Words, nullable=False),
)

CLIENTS = sa.Table(
    "clients",
    METADATA,
    sa.Column("client_id", sa.Uuid, primary_key=True),
    sa.Column("identity_id", sa.Uuid, nullable=False),
    sa.Column("secret_hash", sa.Text, nullable=False),
)

TOKENS = sa.Table(
    "tokens",
    METADATA,
    sa.Column("token_hash", sa.String(64), primary_key=True),
    sa.Column("identity_id", sa.Uuid, nullable=False),
    sa.Column("client_id", sa.Uuid, nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),
    sa.Column("expires_s", sa.Double, nullable=False),
)

ENDPOINTS = sa.Table(
    "endpoints",
    METADATA,
    sa.Column("endpoint_id", sa.Uuid, primary_key=True),
    sa.Column("owner_id", sa.Uuid, nullable=False),
    sa.Column("name", Words, nullable=False),
    sa.Column("display_name", Words),
    sa.Column("multi_user", sa.Boolean, nullable=False),
    sa.Column("public", sa.Boolean, nullable=False),
    sa.Column("allowed_functions", sa.Text),
    sa.Column("admins", sa.Text, nullable=False),
    sa.Column("metadata", sa.Text, nullable=False),
    sa.Column("registered_s", sa.Double, nullable=False),
)

# The three counters are kept here, one update per batch, so that nobody ever counts tasks.
USER_ENDPOINTS = sa.Table(
    "user_endpoints",
    METADATA,
    sa.Column("endpoint_id", sa.Uuid, primary_key=True),
    sa.Column("manager_id", sa.Uuid, nullable=False, index=True),
    sa.Column("identity_id", sa.Uuid, nullable=False),
    sa.Column("config", sa.Text, nullable=False),
    sa.Column("user_runtime", sa.Text, nullable=False),
    sa.Column("submitted", sa.BigInteger, nullable=False, default=0),
    sa.Column("done", sa.BigInteger, nullable=False, default=0),
    sa.Column("failed", sa.BigInteger, nullable=False, default=0),
    # When the last start command was sent; whoever sets it sends the next one.
    sa.Column("start_sent_s", sa.Double),
)

REPORTS = sa.Table(
    "reports",
    METADATA,
    sa.Column("endpoint_id", sa.Uuid, primary_key=True),
    sa.Column("received_s", sa.Double, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
)

FUNCTIONS = sa.Table(
    "functions",
    METADATA,
    sa.Column("function_id", sa.Uuid, primary_key=True),
    sa.Column("owner_id", sa.Uuid, nullable=False),
    sa.Column("name", Words, nullable=False),
    sa.Column("code", Verbatim, nullable=False),
    sa.Column("public", sa.Boolean, nullable=False),
    sa.Column("description", Words),
    sa.Column("python_version", Words),
    sa.Column("sdk_version", Words),
    sa.Column("deleted", sa.Boolean, nullable=False),
    sa.Column("group_id", sa.Uuid),
)

# `used_s` moves once per batch, which saves an index over the ending times of all tasks.
GROUPS = sa.Table(
    "task_groups",
    METADATA,
    sa.Column("group_id", sa.Uuid, primary_key=True),
    sa.Column("owner_id", sa.Uuid, nullable=False),
    sa.Column("has_queue", sa.Boolean, nullable=False),
    sa.Column("created_s", sa.Double, nullable=False),
    sa.Column("used_s", sa.Double, nullable=False),
)

_COUNTING = sa.BigInteger().with_variant(sa.Integer, "sqlite")

SUBMISSIONS = sa.Table(
    "submissions",
    METADATA,
    sa.Column("number", _COUNTING, primary_key=True, autoincrement=True),
    sa.Column("submission_id", sa.Uuid, nullable=False),
    sa.Column("owner_id", sa.Uuid, nullable=False),
    sa.Column("group_id", sa.Uuid, nullable=False, index=True),
    sa.Column("user_endpoint_id", sa.Uuid, nullable=False),
    sa.Column("key", sa.Text),
    sa.Column("resource_specification", sa.Text, nullable=False),
    sa.Column("result_serializers", sa.Text, nullable=False),
    sa.Column("reply", sa.Text, nullable=False),
    sa.Column("submitted_s", sa.Double, nullable=False),
    # The service process that has yet to hand its tasks to the broker; NULL once it has.
    sa.Column("sender", sa.Text),
    sa.UniqueConstraint("owner_id", "key", name="uq_submissions_owner_key"),
    sa.Index("ix_submissions_submitted_s", "submitted_s", "number"),
    sa.Index("ix_submissions_owner", "owner_id", "number"),
    sa.Index(
        "ix_submissions_unsent",
        "sender",
        sqlite_where=sa.text("sender IS NOT NULL"),
        postgresql_where=sa.text("sender IS NOT NULL"),
    ),
    sqlite_autoincrement=True,
)

TASKS = sa.Table(
    "tasks",
    METADATA,
    sa.Column("sequence", _COUNTING, primary_key=True, autoincrement=True),
    sa.Column("task_id", sa.Uuid, nullable=False, unique=True),
    sa.Column("submission", _COUNTING, nullable=False, index=True),
    sa.Column("function_id", sa.Uuid, nullable=False),
    sa.Column("payload", Verbatim),
    sa.Column("stage", sa.String(16), nullable=False),
    sa.Column("completed_s", sa.Double),
    sa.Column("body", sa.LargeBinary),
    # Unfinished tasks are few; without this, finding them would read every task there ever was.
    sa.Index(
        "ix_tasks_unfinished",
        "sequence",
        sqlite_where=sa.text("completed_s IS NULL"),
        postgresql_where=sa.text("completed_s IS NULL"),
    ),
    # For the page: how the last hour went, and the newest failures.
    sa.Index(
        "ix_tasks_completed_s",
        "completed_s",
        "submission",
        "stage",
        sqlite_where=sa.text("completed_s IS NOT NULL"),
        postgresql_where=sa.text("completed_s IS NOT NULL"),
    ),
    sa.Index(
        "ix_tasks_failed",
        "sequence",
        sqlite_where=sa.text("stage = 'failed'"),
        postgresql_where=sa.text("stage = 'failed'"),
    ),
    sqlite_autoincrement=True,
)

# What the processes of one service have in common: their keys, and who does what none should do twice.
SETTINGS = sa.Table(
    "settings",
    METADATA,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

LEASES = sa.Table(
    "leases",
    METADATA,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("holder", sa.String(64), nullable=False),
    sa.Column("until_s", sa.Double, nullable=False),
)
