"""Brings a database to the current schema; each step is a file in `versions`."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from parsl_globus.errors import ConfigError

#: The newest step. A test holds it against the files.
HEAD = "0006"


def current(connection: sa.Connection) -> str | None:
    """The step at which the database is; `None` for an empty one."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    version: str | None = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    return version


def migrate(connection: sa.Connection) -> None:
    """Apply the steps that are missing, in the connection's transaction.

    Raises:
        ConfigError: The database was written by a newer version of this package, or by another program.
    """
    found = current(connection)
    if found == HEAD:
        return  # Alembic takes a moment to import, and there is nothing to do at nearly every start.
    if found is None and sa.inspect(connection).get_table_names():
        url = connection.engine.url.render_as_string(hide_password=True)
        raise ConfigError(
            f"The database {url} holds another program's tables. Choose another one, or another folder with --data."
        )
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    # The folder's name may hold a percent sign, which the ini format would interpolate.
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, HEAD)
    except CommandError as exc:
        raise ConfigError(
            f"The service's database was written by another version of parsl-globus ({exc}). "
            "Use that version, or another folder with --data."
        ) from exc
