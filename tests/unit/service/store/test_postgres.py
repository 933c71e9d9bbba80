from __future__ import annotations

import asyncio
import sys
import uuid

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from postgres import Postgres
from tcp_proxy import TcpProxy

from parsl_globus.errors import ConfigError, MissingExtra
from parsl_globus.service.store import schema
from parsl_globus.service.store.base import (
    ClientRecord,
    Ending,
    GroupRecord,
    IdentityRecord,
    NewTask,
    StoreUnavailable,
    SubmissionRecord,
    UserEndpointRecord,
)
from parsl_globus.service.store.people import UserGroupRecord, UserRecord
from parsl_globus.service.store.postgres import PostgresDatabase, postgres_store
from parsl_globus.service.store.tables import METADATA
from parsl_globus.wire.states import TaskStage


def open_and_close(store):
    async def main():
        await store.open()
        await store.close()

    asyncio.run(main())


def migrate(url):
    database = PostgresDatabase(url)
    try:
        return database.migrate()
    finally:
        database.close()


@pytest.fixture
def empty_url(postgres):
    with postgres.database() as url:
        yield url


def test_the_migrations_lead_to_the_tables_step_by_step(empty_url):
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(schema.__path__[0]))
    engine = sa.create_engine(empty_url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(
            sa.text("INSERT INTO functions VALUES (:id, :id, 'f', 'code \\ é', false, null, null, null, false)"),
            {"id": uuid.uuid4()},
        )
    assert migrate(empty_url) == ("0001", schema.HEAD)
    assert migrate(empty_url) == (schema.HEAD, schema.HEAD)
    with engine.begin() as connection:
        assert bytes(connection.execute(sa.text("SELECT code FROM functions")).scalar_one()).decode() == "code \\ é"
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
        assert connection.execute(sa.text("SELECT code FROM functions")).scalar_one() == "code \\ é"
    engine.dispose()


def test_two_that_migrate_at_once_take_turns(empty_url):
    async def main():
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(None, migrate, empty_url) for _ in range(3)))

    assert sorted(asyncio.run(main()), key=str) == [(schema.HEAD, schema.HEAD)] * 2 + [(None, schema.HEAD)]


def test_a_schema_that_is_not_this_versions_is_refused_with_what_to_do(postgres, empty_url):
    name = empty_url.rpartition("/")[2]
    with pytest.raises(ConfigError, match="has no tables yet.*parsl-globus service migrate"):
        open_and_close(postgres_store(empty_url))
    open_and_close(postgres_store(empty_url, migrate=True))
    open_and_close(postgres_store(empty_url))
    postgres.execute("UPDATE alembic_version SET version_num = '0001'", name)
    with pytest.raises(ConfigError, match="has the schema 0001.*parsl-globus service migrate"):
        open_and_close(postgres_store(empty_url))
    postgres.execute("UPDATE alembic_version SET version_num = '9999'", name)
    for store in (postgres_store(empty_url), postgres_store(empty_url, migrate=True)):
        with pytest.raises(ConfigError, match="newer version of parsl-globus"):
            open_and_close(store)


def test_no_error_shows_the_password(postgres, database_url):
    wrong = database_url.replace(postgres.password, "hunter2")
    for url, what in (
        (wrong, "password authentication failed"),
        (database_url.replace(f":{postgres.port}/", ":1/").replace(postgres.password, "hunter2"), "can't be used"),
        ("postgresql://me:hunter2@", "can't be read"),
        ("postgresql://me:hunter2@host:port/x", "can't be read"),
        ("mysql://me:hunter2@host/x", "can't be read"),
        ("hunter2", "can't be read"),
    ):
        with pytest.raises(ConfigError, match=what) as caught:
            open_and_close(postgres_store(url))
        assert "hunter2" not in str(caught.value)
        assert caught.value.__cause__ is None
    assert postgres.password not in repr(PostgresDatabase(database_url))


def test_one_alone_keeps_others_of_its_kind_out(database_url):
    async def main():
        first = postgres_store(database_url, alone=True)
        await first.open()
        assert not first.shared
        with pytest.raises(ConfigError, match="Another service uses the database"):
            await postgres_store(database_url, alone=True).open()
        await first.close()
        second = postgres_store(database_url, alone=True)
        await second.open()
        await second.close()

    asyncio.run(main())


def test_a_missing_driver_is_told_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtra, match=r"parsl-globus\[postgres\]"):
        postgres_store("postgresql://me@host/x")


def test_calls_wait_for_a_server_that_comes_back_and_fail_when_it_does_not(monkeypatch):
    server = Postgres()
    identity = IdentityRecord(uuid.uuid4(), "ada")

    async def main():
        loop = asyncio.get_running_loop()
        with server.database() as url:
            store = postgres_store(url, migrate=True)
            await store.open()
            await store.add_identity(identity)
            server.stop()
            waiting = [asyncio.ensure_future(store.identities([identity.identity_id])) for _ in range(5)]
            await loop.run_in_executor(None, server.start)
            assert await asyncio.gather(*waiting) == [[identity]] * 5
            server.stop(immediately=True)
            monkeypatch.setattr("parsl_globus.service.store.sql._PATIENCE_S", 0.2)
            with pytest.raises(StoreUnavailable, match="can't be reached"):
                await store.add_identity(identity)
            await loop.run_in_executor(None, server.start)
            assert await store.identities([identity.identity_id]) == [identity]
            await store.close()

    try:
        server.start()
        asyncio.run(main())
    finally:
        server.close()


def test_a_change_that_was_committed_is_told_as_made_though_the_answer_was_lost(postgres, database_url):
    owner, manager = uuid.uuid4(), uuid.uuid4()
    user_endpoint = UserEndpointRecord(uuid.uuid4(), manager, owner, {}, {})
    here = user_endpoint.endpoint_id
    task = NewTask(uuid.uuid4(), uuid.uuid4(), "payload")
    group = GroupRecord(uuid.uuid4(), owner, has_queue=True, created_s=1.0)
    submission = SubmissionRecord(
        submission_id=uuid.uuid4(),
        owner_id=owner,
        group=group,
        user_endpoint_id=here,
        key="key",
        resource_specification="{}",
        result_serializers=(),
        reply="{}",
        submitted_s=1.0,
        sender="gone",
    )

    async def main(proxy):
        store = postgres_store(database_url.replace(f":{postgres.port}/", f":{proxy.port}/"))
        await store.open()
        try:
            await scenario(store, proxy)
        finally:
            await store.close()

    async def scenario(store, proxy):
        async def losing(call, request=b"COMMIT"):
            before = proxy.accepted
            proxy.lose_answer(request)
            outcome = await call
            assert proxy.accepted > before, "the connection was broken"
            return outcome

        user, users = UserRecord(uuid.uuid4(), "ada"), UserGroupRecord(uuid.uuid4(), "lab")
        await losing(store.add_user(user, ClientRecord(uuid.uuid4(), user.identity_id, "hash")))
        await losing(store.add_user_group(users))
        assert (await store.users(), await store.user_groups()) == ([user], [users])
        await losing(store.put_user_endpoint(user_endpoint))
        assert await losing(store.claim_start(here, 5.0, 1.0))
        assert not await store.claim_start(here, 5.0, 1.0)
        await losing(store.add_submission(submission, [task]))
        assert await losing(store.adopt_unsent("me", "process:", 10.0)) == [submission.submission_id]
        assert await store.adopt_unsent("me", "process:", 10.0) == []
        ending = Ending(task.task_id, here, TaskStage.SUCCESS, 20.0, b"\x01result")
        first, second = await losing(store.finish_tasks([ending, ending]))
        assert (first.new, second.new) == (True, False)
        late = Ending(task.task_id, here, TaskStage.SUCCESS, 30.0, b"\x01")
        (again,) = await losing(store.finish_tasks([late]), b"unnest(")
        assert (again.new, again.completed_s) == (False, 20.0)
        counts = (await store.counts())[here]
        assert (counts.submitted, counts.done, counts.failed) == (1, 1, 0)

    with TcpProxy(postgres.port) as proxy:
        asyncio.run(main(proxy))
