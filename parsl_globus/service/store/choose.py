"""Which store a service uses: PostgreSQL where a URL is given, else the file in its folder."""

from __future__ import annotations

from pathlib import Path

from parsl_globus.service.store.sql import SqlStore


def choose_store(
    file: Path, url: str | None, *, alone: bool = True, migrate: bool = False, full_sync: bool = False
) -> SqlStore:
    """A store that is not open yet.

    Args:
        file: The SQLite database, for a service without a URL; it is brought up to date when it is opened.
        url: Of a PostgreSQL database.
        alone: Whether no other process may use it.
        migrate: Whether the PostgreSQL database is brought up to date, too, instead of being refused.
        full_sync: See `SqliteDatabase`.

    Raises:
        ConfigError: The URL is none.
    """
    if url is None:
        from parsl_globus.service.store.sqlite import sqlite_store

        return sqlite_store(file, full_sync=full_sync)
    from parsl_globus.service.store.postgres import postgres_store

    return postgres_store(url, alone=alone, migrate=migrate)


def migrate_store(folder: Path, url: str | None) -> tuple[str | None, str]:
    """Bring a database up to date that no service uses.

    Args:
        folder: The data folder of a service without a URL.
        url: Of a PostgreSQL database.

    Returns:
        The schema's versions before and after.

    Raises:
        ConfigError: It can't be used, a service uses it, or a newer version of this package wrote it.
    """
    if url is not None:
        from parsl_globus.service.store.postgres import PostgresDatabase

        database = PostgresDatabase(url)
        try:
            return database.migrate()
        finally:
            database.close()
    from parsl_globus.service.datadir import DataDir
    from parsl_globus.service.store.sqlite import SqliteDatabase

    with DataDir(folder) as data:
        file = SqliteDatabase(data.database)
        try:
            return file.migrate()
        finally:
            file.close()
