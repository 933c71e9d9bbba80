from __future__ import annotations

import asyncio
import sqlite3
import stat
import uuid

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from parsl_globus.errors import ConfigError
from parsl_globus.service.store import schema
from parsl_globus.service.store.base import IdentityRecord
from parsl_globus.service.store.sqlite import sqlite_store
from parsl_globus.service.store.tables import METADATA


def open_and_close(store):
    async def main():
        await store.open()
        await store.close()

    asyncio.run(main())


def test_the_migrations_lead_to_the_tables(tmp_path):
    path = tmp_path / "store.db"
    open_and_close(sqlite_store(path))
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        assert schema.current(connection) == schema.HEAD
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
    engine.dispose()


def test_the_first_step_leads_to_the_newest(tmp_path):
    from alembic import command

    path = tmp_path / "store.db"
    config = Config()
    config.set_main_option("script_location", str(schema.__path__[0]))
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    open_and_close(sqlite_store(path))
    with engine.begin() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
    engine.dispose()


def test_the_newest_migration_is_the_one_that_is_named():
    config = Config()
    config.set_main_option("script_location", str(schema.__path__[0]))
    assert ScriptDirectory.from_config(config).get_current_head() == schema.HEAD


def test_only_the_owner_can_read_the_file(tmp_path):
    path = tmp_path / "folder" / "store.db"
    open_and_close(sqlite_store(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_what_was_kept_is_there_at_the_next_start(tmp_path):
    identity = IdentityRecord(uuid.uuid4(), "ada")

    async def main():
        for _ in range(2):
            store = sqlite_store(tmp_path / "100%.db", full_sync=True)
            await store.open()
            known = await store.identities([identity.identity_id])
            await store.add_identity(identity)
            await store.close()
        assert known == [identity]

    asyncio.run(main())


def test_a_file_that_is_no_database_is_a_clear_error(tmp_path):
    path = tmp_path / "store.db"
    path.write_bytes(b"this is no database, whatever it may be" * 100)
    with pytest.raises(ConfigError, match=r"store\.db: The service's database can't be used"):
        open_and_close(sqlite_store(path))


def test_a_database_of_a_newer_version_is_a_clear_error(tmp_path):
    path = tmp_path / "store.db"
    open_and_close(sqlite_store(path))
    connection = sqlite3.connect(path)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    with pytest.raises(ConfigError, match="another version of parsl-globus"):
        open_and_close(sqlite_store(path))
