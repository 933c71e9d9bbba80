"""PostgreSQL: one database for any number of service processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import IsolationLevel

from parsl_globus.errors import ConfigError, MissingExtra
from parsl_globus.service.store import schema
from parsl_globus.service.store.sql import SqlStore, Trouble
from parsl_globus.service.store.statements import KeptStatements, LoneStatements

if TYPE_CHECKING:
    import psycopg

#: Writers of one process: while one waits for the disk at its commit, others work.
_WRITE_THREADS = 4
_READ_THREADS = 2
_CONNECT_TIMEOUT_S = 10
#: Names of advisory locks: any numbers that nobody else uses.
_MIGRATION_LOCK = 7_214_001
_ALONE_LOCK = 7_214_002

#: SQLSTATEs (or their classes, of two characters) that pass by themselves.
_COLLISIONS = ("40001", "40P01")
_AWAY = ("08", "53", "57P")


class PostgresDatabase:
    """A database on a server. See `Database`.

    Args:
        url: `postgresql://user:password@host:port/database`, with libpq's own parameters behind a `?`.
        alone: Refuse to open it while another process has it open like this; then nothing else may change it.
        migrate: Bring the schema up to date, instead of refusing one that is not.
    """

    at_once = None
    write_threads = _WRITE_THREADS
    read_threads = _READ_THREADS

    def __init__(self, url: str, *, alone: bool = False, migrate: bool = False) -> None:
        self._url = _parse(url)
        self._migrate = migrate
        self._alone: sa.Connection | None = None
        self._wants_alone = alone
        self.shared = not alone
        self.single = KeptStatements(self._engine(_WRITE_THREADS))
        self.lone = LoneStatements(self._connect)
        self.writer: sa.Engine = self._engine(_WRITE_THREADS, isolation_level="READ COMMITTED")
        # One more connection is for the page, whose queries may be slow, and one for the lock of `alone`.
        self.reader: sa.Engine = self._engine(_READ_THREADS + 2)

    def __repr__(self) -> str:
        return f"PostgresDatabase({self._place})"

    @property
    def _place(self) -> str:
        return f"{self._url.host or 'localhost'}:{self._url.port or 5432}/{self._url.database or ''}"

    def _engine(self, size: int, *, isolation_level: IsolationLevel = "AUTOCOMMIT") -> sa.Engine:
        """Connections; what is one statement needs no transaction, which would take two more round trips."""
        return sa.create_engine(
            self._url,
            isolation_level=isolation_level,
            pool_size=size,
            max_overflow=0,
            connect_args=self._connect_args,
        )

    @property
    def _connect_args(self) -> dict[str, Any]:
        """Defaults; the URL's own parameters win."""
        return {
            name: value
            for name, value in (
                ("connect_timeout", _CONNECT_TIMEOUT_S),
                # A server that vanished without a word is given up after half a minute, not after hours.
                ("tcp_user_timeout", 30_000),
                ("keepalives_idle", 30),
                ("application_name", "parsl-globus"),
            )
            if name not in self._url.query
        }

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        import psycopg

        positional, named = self.writer.dialect.create_connect_args(self._url)
        given = {**self._connect_args, **named}
        return await psycopg.AsyncConnection.connect(*positional, **given, autocommit=True)

    def open(self) -> None:
        try:
            if self._migrate:
                self.migrate()
            with self.reader.connect() as connection:
                self._check_schema(schema.current(connection))
            if self._wants_alone:
                self._take_alone()
        except sa.exc.DBAPIError as exc:
            self.close()
            raise ConfigError(
                f"The database at {self._place} can't be used ({str(exc.orig).strip()}). "
                "See that the server runs and that the URL is right."
            ) from None  # Its own text may hold what the URL holds.
        except ConfigError:
            self.close()
            raise

    def _check_schema(self, version: str | None) -> None:
        if version == schema.HEAD:
            return
        if version is not None and version > schema.HEAD:
            raise ConfigError(
                f"The database at {self._place} was written by a newer version of parsl-globus (its schema is "
                f"{version}, this version's {schema.HEAD}). Install that version here, too."
            )
        state = "has no tables yet" if version is None else f"has the schema {version}, and this version {schema.HEAD}"
        raise ConfigError(
            f"The database at {self._place} {state}. Stop all processes of the service, and run: "
            "parsl-globus service migrate (with the same database)"
        )

    def _take_alone(self) -> None:
        # Held by the connection: it ends with the process, however that ends.
        connection = self.reader.connect()
        if connection.execute(sa.select(sa.func.pg_try_advisory_lock(_ALONE_LOCK))).scalar_one():
            self._alone = connection
            return
        connection.close()
        raise ConfigError(
            f"Another service uses the database at {self._place}. Any number of service processes may, when all are "
            "started with the same --broker; with the embedded broker, it is one."
        )

    def migrate(self) -> tuple[str | None, str]:
        """Bring the schema up to date; one process at a time.

        Returns:
            The versions before and after.

        Raises:
            ConfigError: It can't be reached, or was written by a newer version of this package.
        """
        try:
            with self.writer.begin() as connection:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
                before = schema.current(connection)
                if before is not None and before > schema.HEAD:
                    self._check_schema(before)
                schema.migrate(connection)
                return before, schema.HEAD
        except sa.exc.DBAPIError as exc:
            raise ConfigError(
                f"The database at {self._place} can't be migrated ({str(exc.orig).strip()}). Nothing was changed."
            ) from None

    def trouble(self, exc: sa.exc.DBAPIError) -> Trouble | None:
        state = getattr(exc.orig, "sqlstate", None)
        if state in _COLLISIONS:
            return Trouble.COLLISION
        if exc.connection_invalidated or (state is not None and state.startswith(_AWAY)):
            return Trouble.AWAY
        # A connection that could not be made has no state.
        return Trouble.AWAY if state is None and isinstance(exc, sa.exc.OperationalError) else None

    def close(self) -> None:
        if self._alone is not None:
            self._alone.close()
            self._alone = None
        self.reader.dispose()
        self.writer.dispose()
        self.single.dispose()


def _parse(text: str) -> sa.URL:
    try:
        import psycopg  # noqa: F401 - SQLAlchemy imports it later, and its error names no extra
    except ImportError as exc:
        raise MissingExtra(extra="postgres", module="psycopg") from exc
    wrong = ConfigError(
        "The database's URL can't be read. It looks like postgresql://user:password@host/database, "
        "with %40 for an @ in the password."
    )
    try:
        url = sa.make_url(text.strip())
    except (sa.exc.ArgumentError, ValueError):
        raise wrong from None  # Nothing of it is shown: it holds a password.
    if url.get_backend_name() not in ("postgresql", "postgres") or not url.database:
        raise wrong
    return url.set(drivername="postgresql+psycopg")


def postgres_store(url: str, *, alone: bool = False, migrate: bool = False) -> SqlStore:
    """A store in a PostgreSQL database; see `PostgresDatabase`."""
    return SqlStore(PostgresDatabase(url, alone=alone, migrate=migrate))
