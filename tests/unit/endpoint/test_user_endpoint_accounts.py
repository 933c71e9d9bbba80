"""A manager and user endpoints in other accounts: what passes between them, and what doesn't."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from parsl_globus.endpoint import user_endpoint
from parsl_globus.endpoint.multiuser import child as child_module
from parsl_globus.endpoint.multiuser.child import Child, discard
from parsl_globus.endpoint.multiuser.identity import Account, Mapped
from parsl_globus.endpoint.processes import Known, end_orphans, tree_environment, tree_mark
from parsl_globus.endpoint.spool import SPOOL_FILE, Spool, SpooledTask, outstanding
from parsl_globus.wire.documents import StartArguments


def _queue(name):
    return {"connection_url": f"amqp://u:secret@127.0.0.1:1/{name}", "queue": name, "exchange": "e"}


def _start(**more):
    queues = {f"{kind}_queue_info": _queue(kind) for kind in ("task", "result", "heartbeat")}
    credentials = {"endpoint_id": str(uuid.uuid4()), **queues}
    return StartArguments.model_validate({"name": "uep.x", "amqp_creds": credentials, **more})


@pytest.fixture
def account(tmp_path):
    home = tmp_path / "home-of-ada"
    home.mkdir()
    return Account("ada", os.getuid(), os.getgid(), home, "/bin/sh", "", ())


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "endpoint"
    (path / "uep.x").mkdir(parents=True)
    return path


@pytest.fixture
def child(monkeypatch, folder, account):
    """A user endpoint of another account by name, whose process never reads."""
    made = []

    def start_as(self, _account, environment):
        process = subprocess.Popen(
            [sys.executable, "-c", "import signal; signal.pause()"],
            stdin=subprocess.PIPE,
            env={**environment, **tree_environment(self._mark)},
        )
        os.set_blocking(process.stdin.fileno(), False)
        made.append(process)
        return process

    monkeypatch.setattr(Child, "_start_as", start_as)

    def child(config="engine: {}", **more):
        mapped = Mapped(account, str(uuid.uuid4()))
        return Child(folder, _start(), config, config_file="t", environment={}, mapped=mapped, **more)

    yield child
    for process in made:
        process.kill()
        process.wait()
        process.stdin.close()


def test_one_that_does_not_read_keeps_nobody_waiting_and_is_killed(child):
    running = child()
    for _ in range(1000):
        running.renew(_start().amqp_creds)
        if running._process.poll() is not None:
            break
    assert running._process.wait(60) < 0


def test_a_configuration_that_does_not_fit_is_told(child):
    with pytest.raises(child_module.EndpointStartFailed, match="too large"):
        child("x" * 2_000_000)


@pytest.mark.parametrize("kind", ["link", "fifo", "folder", "none"])
def test_last_words_are_read_from_the_account_s_own_log_only(child, tmp_path, kind):
    running = child()
    running.log.parent.mkdir(parents=True)
    secret = tmp_path / "shadow"
    secret.write_text("root's secret")
    if kind == "link":
        running.log.symlink_to(secret)
    elif kind == "fifo":
        os.mkfifo(running.log)
    elif kind == "folder":
        running.log.mkdir()
    assert running.last_words() == "it said nothing"


def test_a_log_that_is_another_s_is_not_read_and_a_long_one_from_its_end(child, account, monkeypatch):
    running = child()
    running.log.parent.mkdir(parents=True)
    running.log.write_text("x" * 100_000 + "\nthe last line\n")
    assert running.last_words() == "the last line"
    object.__setattr__(account, "uid", account.uid + 1)
    assert running.last_words() == "it said nothing"


def test_the_manager_s_folder_says_whose_it_is_and_no_secret(child, folder, account):
    child()
    record = folder / "uep.x" / "account.json"
    known = json.loads(record.read_text())
    assert (known["account"], known["uid"], known["discard"]) == ("ada", account.uid, None)
    assert "secret" not in record.read_text()
    assert Path(known["log"]).is_relative_to(account.home)


def test_tasks_that_were_told_to_have_failed_are_forgotten_once(child, folder, tmp_path):
    child()
    discard(folder, "uep.x")
    told = json.loads((folder / "uep.x" / "account.json").read_text())["discard"]
    assert told
    directory = tmp_path / "its"
    directory.mkdir()
    for expected in (0, 1):  # what it takes after it has forgotten stays
        spool = Spool(directory / SPOOL_FILE)
        spool.accept([SpooledTask(uuid.uuid4(), b"", {}, 0, 0)])
        spool.close()
        user_endpoint._forget_failed({"discard": told, "directory": str(directory)})
        assert outstanding(directory)[0] == expected
    user_endpoint._forget_failed({"discard": None, "directory": str(directory)})
    assert outstanding(directory)[0] == 1


def test_orphans_of_one_that_runs_are_not_ended(tmp_path):
    known = Known([1], tree_mark(tmp_path))
    assert 1 in known
    assert os.getpid() not in known
    ours = subprocess.Popen(["sleep", "60"], env={**os.environ, **tree_environment(tree_mark(tmp_path, "uep.x"))})
    try:
        end_orphans(Known({p for p in _children() if p != ours.pid}, tree_mark(tmp_path)), grace_s=0.1)
        assert ours.poll() is None
        end_orphans(Known({p for p in _children() if p != ours.pid}, tree_mark(tmp_path / "other")), grace_s=0.1)
        assert ours.wait(60) < 0
    finally:
        ours.kill()
        ours.wait()


def _children():
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}
