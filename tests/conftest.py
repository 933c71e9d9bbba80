"""What all tests share."""

from __future__ import annotations

import os
import signal

import pytest
from lanes import Lanes, heavy_first
from postgres import Postgres


def pytest_configure():
    # A shell without job control has what it starts in the background ignore Ctrl-C, and the commands that tests
    # interrupt would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return Lanes(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    if hasattr(config, "workerinput"):  # one of several processes
        heavy_first(items)


@pytest.fixture(autouse=True)
def _home_of_its_own(tmp_path, monkeypatch):
    """No test reads or writes the user's own folder, nor uses the user's own login."""
    monkeypatch.setenv("PARSL_GLOBUS_HOME", str(tmp_path / "home"))
    for name in list(os.environ):
        if name.startswith(("GLOBUS_", "PARSL_GLOBUS_")) and name != "PARSL_GLOBUS_HOME":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def postgres():
    """A real PostgreSQL, the same for all tests; each takes a database of its own, see `database_url`."""
    server = Postgres()
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture(scope="session")
def migrated_database(postgres):
    """The name of a database with the newest schema, to be a template for others."""
    from parsl_globus.service.store.postgres import PostgresDatabase

    with postgres.database() as url:
        database = PostgresDatabase(url)
        database.migrate()
        database.close()
        yield url.rpartition("/")[2]


@pytest.fixture
def database_url(postgres, migrated_database):
    """The URL of a PostgreSQL database of the test's own, with the newest schema."""
    with postgres.database(template=migrated_database) as url:
        yield url
