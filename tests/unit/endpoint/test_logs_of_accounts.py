"""`endpoint logs` where user endpoints run in other accounts: what may be read is shown, for the rest it is told."""

from __future__ import annotations

import json
import os

import pytest
from click.testing import CliRunner

from parsl_globus.cli.endpoint_logs import logs

WHEN = "2026-01-02 03:04:0{},000 INFO "


@pytest.fixture
def endpoint(tmp_path, monkeypatch):
    """Makes user endpoints in 'other' accounts, which are this one unless told; shows the logs."""
    monkeypatch.setenv("PARSL_GLOBUS_HOME", str(tmp_path / "ours"))
    folder = tmp_path / "ours" / "endpoints" / "all"
    folder.mkdir(parents=True)
    (folder / "config.yaml").touch()
    (folder / "endpoint.log").write_text(WHEN.format(2) + "manager\n")

    class Endpoint:
        def add(self, name, uid=None):
            log = tmp_path / "home" / name / "endpoint.log"
            log.parent.mkdir(parents=True)
            (folder / f"uep.x.{name}").mkdir()
            record = {"account": name, "uid": os.getuid() if uid is None else uid, "log": str(log)}
            (folder / f"uep.x.{name}" / "account.json").write_text(json.dumps(record))
            return log

        def logs(self, *arguments):
            return CliRunner().invoke(logs, ["all", *arguments], catch_exceptions=False)

    return Endpoint()


def test_the_logs_of_accounts_are_merged_by_time(endpoint):
    endpoint.add("ada").write_text(WHEN.format(1) + "one\n" + WHEN.format(3) + "three\n  more\n")
    endpoint.add("bob").write_text(WHEN.format(0) + "nought\n")
    endpoint.add("new")  # has not logged anything yet
    shown = endpoint.logs()
    words = [line.split()[-1] for line in shown.stdout.splitlines()]
    assert words == ["nought", "one", "manager", "three", "more"]
    assert shown.stdout.startswith("bob: ")
    assert shown.stderr == ""
    only = endpoint.logs("--user-endpoint", "uep.x.ada").stdout.splitlines()
    assert {line.split(":")[0] for line in only} == {"ada"}
    assert len(only) == 3


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "other's"])
def test_what_is_no_file_of_the_account_s_own_is_told_and_not_read(endpoint, tmp_path, kind):
    log = endpoint.add("ada", uid=os.getuid() + 1 if kind == "other's" else None)
    secret = tmp_path / "secret"
    secret.write_text("secret\n")
    if kind == "link":
        log.symlink_to(secret)
    elif kind == "pipe":
        os.mkfifo(log)
    elif kind == "folder":
        log.mkdir()
    else:
        log.write_text("secret\n")
    shown = endpoint.logs()
    assert (shown.exit_code, "secret" in shown.stdout, "manager" in shown.stdout) == (0, False, True)
    assert shown.stderr.count(f"ada: its log {log} can't be read") == 1


def test_what_an_account_has_written_steers_no_terminal(endpoint):
    endpoint.add("ada").write_text(WHEN.format(1) + "\x1b[2Jx\ty\n")
    assert "\ufffd[2Jx\ty\n" in endpoint.logs().stdout


def test_a_line_without_end_is_cut(endpoint, monkeypatch):
    monkeypatch.setattr("parsl_globus.cli.endpoint_logs._PIECE_BYTES", 10)
    endpoint.add("ada").write_text("x" * 25 + "\n")
    shown = [line for line in endpoint.logs().stdout.splitlines() if line.startswith("ada")]
    assert "".join(line.removeprefix("ada: ") for line in shown) == "x" * 25
