"""`service run --database` and `service migrate` as their user meets them: real processes, one sentence per failure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from service_thread import Rest

COMMAND = [sys.executable, "-m", "parsl_globus.cli", "service"]


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def empty(postgres, tmp_path):
    """A file with the URL of an empty database."""
    with postgres.database() as url:
        file = tmp_path / "database-url"
        file.touch(mode=0o600)
        file.write_text(url + "\n")
        yield file


def test_a_database_is_migrated_when_told_and_not_before(empty, postgres):
    refused = call("run", "--port", "0", "--amqp-port", "0", "--database-file", str(empty))
    assert refused.returncode == 1
    assert "has no tables yet" in refused.stderr
    assert "parsl-globus service migrate" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert postgres.password not in refused.stderr
    migrated = call("migrate", "--database-file", str(empty))
    assert (migrated.returncode, migrated.stderr) == (0, "")
    assert migrated.stdout.startswith("the database was brought from nothing to schema ")
    again = call("migrate", "--database-file", str(empty))
    assert again.stdout.startswith("the database is up to date (schema ")


def test_a_file_of_sqlite_is_migrated_too(tmp_path):
    done = call("migrate", "--data", str(tmp_path / "data"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "data" / "service.db").exists()


def test_a_password_that_others_can_read_is_refused(empty):
    empty.chmod(0o644)
    refused = call("migrate", "--database-file", str(empty))
    assert refused.returncode == 1
    assert f"chmod 600 {empty}" in refused.stderr


def test_tasks_are_kept_in_postgresql_and_the_password_nowhere_else(empty, postgres, monkeypatch, tmp_path):
    home = Path(os.environ["PARSL_GLOBUS_HOME"])
    monkeypatch.setenv("PARSL_GLOBUS_DATABASE_URL", empty.read_text().strip())
    process = subprocess.Popen(
        [*COMMAND, "run", "--port", "0", "--amqp-port", "0", "--migrate", "--log-level", "debug"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline().startswith("service ready")
        # With the embedded broker, one process is all: it says so, also from another folder.
        other = call("run", "--port", "0", "--amqp-port", "0", "--data", str(tmp_path / "other"))
        assert other.returncode == 1
        assert "started with the same --broker" in other.stderr
        (credentials,) = json.loads((home / "credentials.json").read_text()).values()
        url = json.loads((home / "service.json").read_text())["url"]
        rest = Rest(url, credentials["client_id"], credentials["client_secret"])
        manager = rest.endpoint()
        (ids,) = rest.submit(manager.endpoint_id, rest.function(), ["p"] * 3)["tasks"].values()
        manager.close()
        rest.close()
    finally:
        process.terminate()
        _, log = process.communicate(timeout=60)
    assert process.returncode == 0
    name = empty.read_text().strip().rpartition("/")[2]
    assert postgres.execute("SELECT count(*) FROM tasks", name) == [(3,)]
    assert not (home / "service" / "service.db").exists()
    assert postgres.password not in log
    for file in home.rglob("*"):
        assert not file.is_file() or postgres.password.encode() not in file.read_bytes()
