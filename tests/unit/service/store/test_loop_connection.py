from __future__ import annotations

import asyncio

import psycopg
import pytest
import uvloop
from psycopg.waiting import Ready, Wait

from parsl_globus.service.store.loop_connection import LoopConnection

DEADLINE_S = 60


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request, database_url):
    def run_with_connection(scenario):
        async def main():
            connection = await LoopConnection.connect(database_url, autocommit=True)
            try:
                await asyncio.wait_for(scenario(connection), DEADLINE_S)
            finally:
                await connection.close()

        with asyncio.Runner(loop_factory=request.param) if hasattr(asyncio, "Runner") else _Runner(request) as runner:
            runner.run(main())

    return run_with_connection


class _Runner:
    """`asyncio.Runner` as far as it is needed here, for Python 3.10."""

    def __init__(self, request):
        self._loop = request.param()

    def __enter__(self):
        return self

    def run(self, main):
        self._loop.run_until_complete(main)

    def __exit__(self, *_exc):
        self._loop.close()


async def one(connection, statement, values=None):
    return (await (await connection.execute(statement, values)).fetchall())[0][0]


async def own_pid(connection):
    return await one(connection, "SELECT pg_backend_pid()")


def test_statements_are_answered_while_the_loop_looks_at_one_socket_all_the_time(run):
    async def scenario(connection):
        sizes = [await one(connection, "SELECT length(%s)", ["x" * size]) for size in (1, 10, 3_000_000, 2)]
        assert sizes == [1, 10, 3_000_000, 2]
        watched = connection._watched
        assert watched == connection.pgconn.socket
        for number in range(20):  # some of them are prepared by then
            assert await one(connection, "SELECT %s::int", [number]) == number
            assert connection._watched == watched
        assert await one(connection, "SELECT repeat('x', 3000000)") == "x" * 3_000_000
        with pytest.raises(psycopg.errors.DivisionByZero):
            await one(connection, "SELECT 1 / 0")
        assert await one(connection, "SELECT 1") == 1

    run(scenario)


def test_others_of_the_loop_go_on_meanwhile(run):
    async def scenario(connection):
        asked = asyncio.ensure_future(one(connection, "SELECT pg_sleep(0.2) IS NULL"))
        turns = 0
        while not asked.done():
            await asyncio.sleep(0.01)
            turns += 1
        assert turns > 3

    run(scenario)


@pytest.mark.parametrize("idle", [True, False])
def test_a_connection_that_the_server_ends_is_closed(run, database_url, idle):
    async def scenario(connection):
        pid = await own_pid(connection)
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as other:
            if idle:
                await other.execute("SELECT pg_terminate_backend(%s, 60000)", [pid])
                while connection._watched is not None:
                    await asyncio.sleep(0.01)
                asked = asyncio.ensure_future(own_pid(connection))
            else:
                asked = asyncio.ensure_future(one(connection, "SELECT pg_sleep(600)"))
                query = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND state = 'active'"
                while not await one(other, query, [pid]):
                    await asyncio.sleep(0.01)
                await other.execute("SELECT pg_terminate_backend(%s)", [pid])
            with pytest.raises(psycopg.OperationalError):
                await asked
        assert connection.closed
        assert connection._watched is None

    run(scenario)


def test_it_is_closed_when_whoever_waits_is_cancelled(run):
    async def scenario(connection):
        await own_pid(connection)
        asked = asyncio.ensure_future(one(connection, "SELECT pg_sleep(600)"))
        while connection._waiting is None:
            await asyncio.sleep(0.01)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert connection.closed
        assert connection._watched is None

    run(scenario)


def test_what_psycopg_s_waits_are_made_of():
    """Fails when it moves."""
    assert (int(Wait.R), int(Wait.RW), int(Ready.R)) == (1, 3, 1)
    assert asyncio.iscoroutinefunction(psycopg.AsyncConnection.wait)
