"""An endpoint that root runs for several people: each one's tasks are in that one's own account, and in no other."""

from __future__ import annotations

import grp
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import accounts
import psutil
import pytest
import servers
from once import wait_until

from parsl_globus.endpoint.multiuser import account_files
from parsl_globus.errors import EndpointError, EndpointStartFailed
from parsl_globus.testing.site import LocalSite

DEADLINE_S = 120

CONFIG = """\
display_name: for all
heartbeat_period: 1
multi_user: true
identity_mapping_config_path: mapping.json
"""
TEMPLATE = """\
heartbeat_period: 1
{% include 'idle.j2' %}
engine:
  type: GlobusComputeEngine
  address: 127.0.0.1
  max_workers_per_node: 2
  cores_per_worker: 0.01
  provider:
    type: LocalProvider
    init_blocks: 1
    min_blocks: 1
    max_blocks: 1
    worker_init: "export MAPPED={{ mapped_identity.local.uname }}:{{ mapped_identity.globus.id }}"
"""
#: Runs one function as somebody: in a process of its own, as the public SDK keeps threads.
SUBMIT = """
import json, sys
import parsl_globus
from globus_compute_sdk import Executor

def whoami():
    import grp, os, subprocess
    status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
    with open(os.path.expanduser("~/written"), "w") as stream:
        stream.write("secret")
    os.umask(umask := os.umask(0))
    agent = os.environ["PARSL_GLOBUS_TREE"]
    return {
        "id": subprocess.check_output(["id", "-un"], text=True).strip(),
        "groups": sorted(int(g) for g in subprocess.check_output(["id", "-G"], text=True).split()),
        "uids": os.getresuid(), "gids": os.getresgid(), "umask": umask,
        "environment": dict(os.environ),
        "capabilities": [int(status[name], 16) for name in ("CapPrm", "CapEff", "CapAmb")],
        "no_new_privs": int(status["NoNewPrivs"]),
        "pid": os.getpid(), "sid": os.getsid(0),
    }

def attack(folders, pids):
    # Another user's files and processes, the endpoint's own, and secrets that anybody can see.
    import os
    got = []
    for folder in folders:
        for attempt in (os.listdir, lambda f: open(f + "/written").read(), lambda f: open(f + "/new", "w")):
            try:
                attempt(folder)
                got.append(folder)
            except OSError:
                pass
    for pid in pids:
        for number in (0, 9):
            try:
                os.kill(pid, number)
                got.append(pid)
            except PermissionError:
                pass
        for file in ("environ", "fd", "mem"):
            try:
                os.listdir(f"/proc/{pid}/fd") if file == "fd" else open(f"/proc/{pid}/{file}", "rb").read(1)
                got.append(f"/proc/{pid}/{file}")
            except OSError:
                pass
    for attempt in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: open("/etc/shadow")):
        try:
            attempt()
            got.append("root")
        except OSError:
            pass
    seen = b""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for file in ("cmdline", "environ"):
            try:
                seen += open(f"/proc/{pid}/{file}", "rb").read()
            except OSError:
                pass
    return {"got": got, "seen": seen.decode(errors="replace")}

def hold(begun, release):
    import os, time
    os.close(os.open(begun, os.O_CREAT | os.O_EXCL))
    deadline = time.monotonic() + 100
    while not os.path.exists(release) and time.monotonic() < deadline:
        time.sleep(0.05)

endpoint_id, name, arguments = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
with Executor(endpoint_id, client=parsl_globus.connect()) as executor:
    print(json.dumps(executor.submit(globals()[name], *arguments).result(timeout=110)))
"""


class Stage:
    """A service, an endpoint that root runs, and people."""

    def __init__(self, site: LocalSite, folder: Path, names: dict[str, str], tmp_path: Path) -> None:
        self.site, self.folder, self.names, self._tmp_path = site, folder, names, tmp_path
        self.python = accounts.python_for_all(folder / "venv")
        site.start_service()
        site._wrap = lambda command: [str(self.python), *command[1:]]
        source = tmp_path / "config.yaml"
        source.write_text(CONFIG)
        site.run("endpoint", "configure", "all", "--config", str(source))
        self.files = site.home / "endpoints" / "all"
        (self.files / "user_config_template.yaml.j2").write_text(TEMPLATE)
        (self.files / "idle.j2").write_text("idle_heartbeats_soft: 0\n")
        (self.files / "user_environment.yaml").write_text("SITE: here\nHOME: /elsewhere\n")
        self.map("ada", "bob")
        for person in ("ada", "bob", "eve", "mallory"):
            site.run("service", "add-user", person, "--out", str(tmp_path / f"{person}.json"))
            subprocess.run(
                [sys.executable, "-m", "parsl_globus.cli", "login", "--credentials", str(tmp_path / f"{person}.json")],
                env=self._environment(person),
                check=True,
                capture_output=True,
            )
        site.run("endpoint", "start", "all")
        self.endpoint_id = site.endpoint_id("all")
        site.run("service", "share", "all", "--with", "everyone")

    def map(self, *people: str) -> None:
        """Map these to their accounts, and Mallory to root."""
        mappings = [{"source": "{username}", "match": p, "output": self.names[p]} for p in people]
        mappings.append({"source": "{username}", "match": "mallory", "output": "root"})
        document = [{"DATA_TYPE": "expression_identity_mapping#1.0.0", "mappings": mappings}]
        (self.files / "mapping.json").write_text(json.dumps(document))

    def _environment(self, person: str) -> dict[str, str]:
        return {**os.environ, "PARSL_GLOBUS_HOME": str(self._tmp_path / person)}

    def start(self, name: str) -> uuid.UUID:
        """Another endpoint with the same files, shared with everyone."""
        source = self._tmp_path / f"{name}.yaml"
        source.write_text(CONFIG)
        self.site.run("endpoint", "configure", name, "--config", str(source))
        for path in (*self.files.glob("*.j2"), self.files / "mapping.json"):
            shutil.copy(path, self.site.home / "endpoints" / name)
        self.site.run("endpoint", "start", name)
        self.site.run("service", "share", name, "--with", "everyone")
        return self.site.endpoint_id(name)

    def submitting(
        self, person: str, function: str, *arguments: object, to: uuid.UUID | None = None
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", SUBMIT, str(to or self.endpoint_id), function, json.dumps(arguments)],
            env=self._environment(person),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def submit(
        self, person: str, function: str, *arguments: object, to: uuid.UUID | None = None
    ) -> subprocess.CompletedProcess[str]:
        with self.submitting(person, function, *arguments, to=to) as process:
            try:
                out, err = process.communicate(timeout=DEADLINE_S + 30)
            finally:
                process.kill()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def result(self, person: str, function: str, *arguments: object) -> dict:
        done = self.submit(person, function, *arguments)
        assert done.returncode == 0, (done.stderr[-3000:], (self.files / "endpoint.log").read_text()[-3000:])
        return json.loads(done.stdout)

    def agent(self, person: str, endpoint: str = "all") -> psutil.Process:
        """The user endpoint's own process."""
        name = self.user_folder(person, endpoint).name
        (found,) = [
            p
            for p in accounts.processes_of(self.names[person])
            if "user_endpoint import" in " ".join(p.cmdline()) and p.environ()["PARSL_GLOBUS_TREE"].endswith(name)
        ]
        return found

    def records(self, endpoint: str = "all") -> dict[str, Path]:
        """The folders of its user endpoints, by account, as its manager has them on record."""
        paths = (self.site.home / "endpoints" / endpoint).glob("uep.*/account.json")
        records = [json.loads(path.read_text()) for path in paths]
        return {record["account"]: Path(record["log"]).parent for record in records}

    def user_folder(self, person: str, endpoint: str = "all") -> Path:
        """The folder of somebody's user endpoint."""
        return self.records(endpoint)[self.names[person]]

    def secrets(self) -> list[str]:
        return [json.loads(path.read_text())["client_secret"] for path in self._tmp_path.glob("*.json")]


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    servers.require(accounts.missing())
    tmp_path = tmp_path_factory.mktemp("accounts")
    names = {person: f"pgt{os.getpid() % 100000}{person}" for person in ("ada", "bob")}
    with (
        accounts.accounts(list(names.values())) as folder,
        accounts.group(f"pgt{os.getpid() % 100000}lab", [names["ada"]]),
        LocalSite(tmp_path / "site") as site,
    ):
        yield Stage(site, folder, names, tmp_path)
        site.stop()
        assert [p for name in names.values() for p in accounts.processes_of(name)] == []


@pytest.mark.parametrize("person", ["ada", "bob"])
def test_tasks_run_in_the_account_of_whoever_submitted_them(stage, person):
    account = pwd.getpwnam(stage.names[person])
    seen = stage.result(person, "whoami")
    assert seen["id"] == account.pw_name
    assert seen["uids"] == [account.pw_uid] * 3
    assert seen["gids"] == [account.pw_gid] * 3
    assert seen["groups"] == sorted(set(os.getgrouplist(account.pw_name, account.pw_gid)))
    lab = grp.getgrnam(f"pgt{os.getpid() % 100000}lab").gr_gid
    assert (lab in seen["groups"]) == (person == "ada")
    assert seen["umask"] == 0o077
    assert seen["capabilities"] == [0, 0, 0]
    assert seen["no_new_privs"] == 1
    assert seen["sid"] != os.getsid(stage.site.service_pid)
    written = Path(account.pw_dir) / "written"
    assert (written.stat().st_uid, written.stat().st_mode & 0o777) == (account.pw_uid, 0o600)


def test_its_environment_is_the_site_s_and_the_account_s(stage):
    environment = stage.result("ada", "whoami")["environment"]
    account = pwd.getpwnam(stage.names["ada"])
    assert environment["SITE"] == "here"
    assert environment["HOME"] == account.pw_dir  # whatever the site's file says
    assert environment["USER"] == environment["LOGNAME"] == account.pw_name
    assert environment["MAPPED"].startswith(f"{account.pw_name}:")
    assert not [name for name in environment if name.startswith(("PARSL_GLOBUS_HOME", "GLOBUS_COMPUTE", "PYTEST"))]
    assert os.environ.get("TMPDIR") is None or "TMPDIR" not in environment


def test_its_files_are_in_its_home(stage):
    stage.result("ada", "whoami")
    account = pwd.getpwnam(stage.names["ada"])
    folder = stage.user_folder("ada")
    assert folder.parent == Path(account.pw_dir) / ".parsl_globus" / "user_endpoints"
    for path in (folder, *folder.rglob("*")):
        status = path.lstat()
        assert status.st_uid == account.pw_uid, path
        assert path.is_symlink() or not status.st_mode & 0o077, path
    process = stage.agent("ada")
    assert process.cwd() == account.pw_dir
    assert "amqp" not in " ".join(process.cmdline()) + str(process.environ())
    # In the manager's own folder there is but a note of it.
    assert {path.name for path in stage.files.glob("uep.*/*")} == {"account.json"}


def test_nobody_reaches_anybody_else(stage):
    stage.result("ada", "whoami")
    ada = pwd.getpwnam(stage.names["ada"])
    folder = stage.user_folder("ada")
    manager = int((stage.files / "manager.pid").read_text())
    pids = [process.pid for process in accounts.processes_of(ada.pw_name)]
    assert len(pids) > 2
    folders = [ada.pw_dir, str(folder), str(stage.files), str(stage.site.home)]
    tried = stage.result("bob", "attack", folders, [*pids, manager, stage.site.service_pid])
    assert tried["got"] == []
    assert "PARSL_GLOBUS_TREE" in tried["seen"]  # bob's own
    for secret in (*stage.secrets(), "amqp://", "connection_url"):
        assert secret not in tried["seen"]
    assert {process.pid for process in accounts.processes_of(ada.pw_name)} >= set(pids[:1])
    assert not (Path(ada.pw_dir) / "new").exists()


@pytest.mark.parametrize(("person", "words"), [("eve", "mapped to no account"), ("mallory", "may run no tasks")])
def test_who_has_no_account_is_told(stage, person, words):
    done = stage.submit(person, "whoami")
    assert done.returncode != 0
    assert words in done.stderr
    assert stage.names["ada"] not in done.stderr


def test_a_killed_user_endpoint_is_reaped_and_started_again(stage):
    stage.result("bob", "whoami")
    stage.result("ada", "whoami")
    neighbours = {process.pid for process in accounts.processes_of(stage.names["ada"])}
    first = stage.agent("bob")
    first.send_signal(signal.SIGKILL)
    assert stage.result("bob", "whoami")["id"] == stage.names["bob"]
    assert stage.agent("bob").pid != first.pid
    deadline = time.monotonic() + DEADLINE_S
    while psutil.pid_exists(first.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(first.pid)
    # What ends with one user endpoint is its own.
    assert {process.pid for process in accounts.processes_of(stage.names["ada"])} >= neighbours


def test_root_sees_what_runs_as_whom(stage):
    for person in ("ada", "bob"):
        stage.result(person, "whoami")
    told: dict = {}

    def blocks_run() -> bool:  # Parsl asks a provider for the state of its blocks now and then only
        status = json.loads(stage.site.run("endpoint", "status", "all", "--json"))
        told.update((one["account"], one) for one in status["user_endpoints"])
        states = [block["status"] for one in told.values() for block in one["blocks"].values()]
        return states == ["RUNNING"] * 2

    wait_until(blocks_run, "the blocks should run")
    assert set(told) == set(stage.names.values())
    text = stage.site.run("endpoint", "status", "all")
    for person, name in stage.names.items():
        one = told[name]
        assert (one["status"], one["error"]) == ("running", None)
        assert one["pid"] == stage.agent(person).pid
        assert one["pid"] in one["processes"]
        assert one["workers"]["total"] == 2
        assert one["tasks"]["waiting"] == one["tasks"]["running"] == 0
        assert one["tasks"]["done"] >= 1
        assert Path(one["log"]).stat().st_uid == pwd.getpwnam(name).pw_uid
        assert f"in the account {name}: process {one['pid']}, " in text

    logs = stage.site.run("endpoint", "logs", "all")
    for one in told.values():
        assert Path(one["log"]).read_text().splitlines()[0] in logs


def test_nobody_submits_to_another_s_user_endpoint(stage):
    stage.result("ada", "whoami")
    log = (stage.user_folder("ada") / "endpoint.log").read_text()
    hers = uuid.UUID(re.findall(r"Endpoint (\S+) takes tasks", log)[-1])
    done = stage.submit("bob", "whoami", to=hers)
    assert done.returncode != 0
    assert "ENDPOINT_NOT_FOUND" in done.stderr, done.stderr[-2000:]


def test_root_deletes_an_endpoint_of_several_accounts(stage):
    doomed = stage.start("doomed")
    files = stage.site.home / "endpoints" / "doomed"
    assert json.loads(stage.submit("bob", "whoami", to=doomed).stdout)["id"] == stage.names["bob"]
    begun = Path(pwd.getpwnam(stage.names["ada"]).pw_dir) / "begun"
    with stage.submitting("ada", "hold", str(begun), str(begun.with_name("never")), to=doomed) as process:
        try:
            wait_until(begun.exists, "ada's task should begin")
            with pytest.raises(EndpointStartFailed, match="1 tasks outstanding"):
                stage.site.run("endpoint", "delete", "doomed", "--yes")
            folders = stage.records("doomed")
            told = stage.site.run("endpoint", "delete", "doomed", "--yes", "--force")
            _, err = process.communicate(timeout=DEADLINE_S)
        finally:
            process.kill()
    assert "was stopped while it had the task" in err or "was deleted" in err
    assert not files.exists()
    assert set(folders) == set(stage.names.values())
    for folder in folders.values():
        assert f"\n  {folder}\n" in told
        assert (folder / "endpoint.log").exists()
    assert "doomed" not in stage.site.run("endpoint", "list")
    assert not [process for process in stage.site.processes() if str(doomed) in " ".join(process.cmdline())]


def test_jobs_of_an_account_are_not_forgotten(stage):
    """A user endpoint that was killed has left its record of blocks in its account."""
    again = stage.start("again")
    stage.submit("bob", "whoami", to=again)
    account = pwd.getpwnam(stage.names["bob"])
    # One that ends in order has no blocks any more, and no record of them.
    agent = stage.agent("bob", "again")
    agent.kill()
    psutil.wait_procs([agent], DEADLINE_S)
    blocks = stage.user_folder("bob", "again") / "blocks.json"
    blocks.write_text('["4711.login"]')
    os.chown(blocks, account.pw_uid, account.pw_gid)
    with pytest.raises(EndpointStartFailed, match=r"may still run: 4711\.login"):
        stage.site.run("endpoint", "delete", "again", "--yes")
    blocks.unlink()
    stage.site.run("endpoint", "delete", "again", "--yes")


@pytest.mark.parametrize("kind", ["link", "pipe", "words"])
def test_root_follows_nothing_of_an_account_s(stage, tmp_path, monkeypatch, kind):
    """Whatever an account has in place of its files, it is read as that account, and nothing is waited for long."""
    monkeypatch.setattr(sys, "executable", str(stage.python))
    monkeypatch.setattr(account_files, "_START_S", 8.0)
    account = pwd.getpwnam(stage.names["bob"])
    folder = Path(account.pw_dir) / f"odd-{kind}"
    folder.mkdir()
    blocks, secret = folder / account_files.BLOCKS_FILE, tmp_path / "secret"
    secret.write_text('["secret"]')
    if kind == "link":
        blocks.symlink_to(secret)
    elif kind == "pipe":
        os.mkfifo(blocks)
    else:
        blocks.write_text(json.dumps(["\x1b[2J" + "x" * 5000]))
    for path in (folder, blocks):
        os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)
    record = {"account": account.pw_name, "uid": account.pw_uid, "log": str(folder / "endpoint.log")}
    if kind == "words":
        (job,) = account_files.ask(record, jobs=True).jobs
        assert job == "[2J" + "x" * 97
    else:
        with pytest.raises(EndpointError, match="can't be read as"):
            account_files.ask(record, jobs=True)
    with pytest.raises(EndpointError, match="another one than it was"):
        account_files.ask({**record, "uid": 0}, jobs=True)


def test_a_mapping_that_was_withdrawn_starts_nothing_more(stage):
    stage.result("bob", "whoami")
    stage.map("ada")
    try:
        stage.agent("bob").send_signal(signal.SIGKILL)
        assert "mapped to no account" in stage.submit("bob", "whoami").stderr
    finally:
        stage.map("ada", "bob")
    assert stage.result("bob", "whoami")["id"] == stage.names["bob"]


def test_an_account_that_cannot_be_entered_is_told(stage):
    home = Path(pwd.getpwnam(stage.names["bob"]).pw_dir)
    for process in accounts.processes_of(stage.names["bob"]):
        process.kill()
    home.chmod(0)
    try:
        assert "can't enter its home" in stage.submit("bob", "whoami").stderr
    finally:
        home.chmod(0o700)
