"""Alembic's entry point; it runs inside the transaction that `migrate` hands over."""

from __future__ import annotations

from alembic import context

from parsl_globus.service.store import blob_tables, people_tables  # noqa: F401 - they add their tables
from parsl_globus.service.store.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    render_as_batch=True,
    # SQLite changes schemas inside transactions just as well; Alembic would commit in between.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
