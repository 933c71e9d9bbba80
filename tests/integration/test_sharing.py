"""People on one service, by its commands: logins, groups, tokens, and an endpoint that is shared."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys

import pytest
import requests

from parsl_globus.testing.site import LocalSite

COMMAND = [sys.executable, "-m", "parsl_globus.cli"]


class Person:
    """Someone with a home folder, and commands."""

    def __init__(self, home) -> None:
        self.home = home
        home.mkdir(exist_ok=True)
        self.environment = {**os.environ, "PARSL_GLOBUS_HOME": str(home)}

    def call(self, *arguments: str, said: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments],
            env=self.environment,
            input=said,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def good(self, *arguments: str, said: str = "") -> str:
        done = self.call(*arguments, said=said)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    def refused(self, *arguments: str, said: str = "") -> str:
        done = self.call(*arguments, said=said)
        assert done.returncode != 0, done.stdout
        assert "Traceback" not in done.stderr
        return done.stderr


@pytest.fixture
def root(tmp_path):
    """Whoever runs the service."""
    person = Person(tmp_path / "root")
    person.url = person.good("service", "start", "--port", "0", "--amqp-port", "0").strip()
    yield person
    assert "stopped" in person.good("service", "stop")


@pytest.fixture
def ada(root, tmp_path):
    file = tmp_path / "ada.json"
    root.good("service", "add-user", "ada", "--out", str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    person = Person(tmp_path / "ada")
    person.file = file
    person.good("login", "--credentials", str(file))
    return person


def test_a_service_in_the_background(root):
    log = root.home / "service" / "service.log"
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    status = json.loads(root.good("service", "status", "--json"))
    assert (status["status"], status["url"]) == ("online", root.url)
    assert "uses the data folder" in root.refused("service", "start", "--port", "0", "--amqp-port", "0")
    assert "No such option" in root.refused("service", "start", "--nonsense")
    port = root.url.rpartition(":")[2]
    other = str(root.home / "other")
    message = root.refused("service", "start", "--port", port, "--data", other)
    assert f"can't listen on 127.0.0.1:{port}" in message
    assert "No service runs" in root.good("service", "stop", "--data", other)


def test_logging_in_and_out(root, ada):
    about = json.loads(ada.good("whoami", "--json"))
    assert (about["username"], about["admin"], about["url"]) == ("ada", False, root.url)
    stored = ada.home / "credentials.json"
    assert stat.S_IMODE(stored.stat().st_mode) == 0o600
    known = json.loads(ada.file.read_text())
    ada.good("logout")
    assert "No service is known" in ada.refused("whoami")
    client_id = ("--url", root.url, "--client-id", known["client_id"])
    assert "does not accept" in ada.refused("login", *client_id, said="wrong\n")
    assert json.loads(stored.read_text()) == {}
    assert "Logged in" in ada.good("login", *client_id, said=known["client_secret"] + "\n")
    ada.file.chmod(0o644)
    assert "chmod 600" in ada.refused("login", "--credentials", str(ada.file))
    token = ada.good("service", "token", "create", "--life", "10m").strip()
    assert "Logged in" in ada.good("login", "--url", root.url, "--token", said=token + "\n")
    assert "ada" in ada.good("whoami")
    (made,) = [t for t in json.loads(ada.good("service", "token", "list", "--json")) if not t["login"]]
    ada.good("service", "token", "revoke", made["token_id"])
    assert "revoked" in ada.refused("whoami")


def test_tokens_for_one_thing_only(root, ada):
    ada.good("service", "token", "create", "--scope", "blobs")
    (made,) = [t for t in json.loads(ada.good("service", "token", "list", "--json")) if not t["login"]]
    assert [scope.rpartition(":")[2] for scope in made["scopes"]] == ["blobs"]
    ada.refused("service", "token", "create", "--scope", "metrics")
    token = root.good("service", "token", "create", "--scope", "metrics").strip()
    for path, status in (("/metrics", 200), ("/v3/tokens", 403)):
        headers = {"Authorization": f"Bearer {token}"}
        assert requests.get(root.url + path, headers=headers, timeout=30).status_code == status


def test_users_and_groups(root, ada):
    assert "administrators" in ada.refused("service", "users")
    group_id = root.good("service", "add-group", "devs").strip()
    root.good("service", "group", "add", "devs", "ada")
    assert group_id in ada.good("whoami")
    (group,) = json.loads(root.good("service", "groups", "--json"))
    assert group["members"] == ["ada"]
    assert [u["username"] for u in json.loads(root.good("service", "users", "--json"))] == ["ada", "owner@localhost"]
    root.good("service", "group", "remove", "devs", "ada")
    root.good("service", "remove-group", "devs")
    assert "There is no group" in root.good("service", "groups")
    assert "There is a user 'ada' already" in root.refused("service", "add-user", "ada")
    assert "name a new one" in root.refused("service", "add-user", "eve", "--out", str(ada.file))
    assert "eve" not in root.good("service", "users")
    root.good("service", "remove-user", "ada")
    assert "does not accept" in ada.refused("whoami")


#: The public SDK in a process of its own: it keeps threads, and those keep looking for their service.
SUBMIT = """
import sys
import parsl_globus
from globus_compute_sdk import Executor
with Executor(sys.argv[1], client=parsl_globus.connect()) as executor:
    print(executor.submit(abs, -2).result(timeout=60))
"""


def submit(home, endpoint_id) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SUBMIT, str(endpoint_id)],
        env={**os.environ, "PARSL_GLOBUS_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def test_a_shared_endpoint_runs_tasks_of_others(tmp_path):
    """Its manager follows identities of whoever registered it only, and the submitter's is none of these."""
    with LocalSite(tmp_path / "site") as site:
        site.start_service()
        endpoint_id = site.start_endpoint("shared")
        file = tmp_path / "ada.json"
        site.run("service", "add-user", "ada", "--out", str(file))
        ada = Person(tmp_path / "ada")
        ada.good("login", "--credentials", str(file))
        assert "has not shared it" in submit(ada.home, endpoint_id).stderr
        site.run("service", "share", "shared", "--with", "ada")
        assert "ada" in site.run("service", "shares", "shared")
        for home in (ada.home, site.home):
            done = submit(home, endpoint_id)
            assert done.stdout.strip() == "2", done.stderr
        folders = {path.name for path in (site.home / "endpoints").rglob("uep.*") if path.is_dir()}
        assert len(folders) == 2, "each has a user endpoint of its own"
        site.run("service", "unshare", "shared", "--with", "ada")
        assert "has not shared it" in submit(ada.home, endpoint_id).stderr
