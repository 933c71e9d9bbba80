"""Identities to accounts, and what a configuration may say of it."""

from __future__ import annotations

import json
import os
import pwd
import stat
import uuid
from pathlib import Path
from typing import Any

import pytest

from parsl_globus.endpoint.folder import create
from parsl_globus.endpoint.multiuser import identity as identity_module
from parsl_globus.endpoint.multiuser import site as site_module
from parsl_globus.endpoint.multiuser import spawn
from parsl_globus.endpoint.multiuser.identity import Account, IdentityMap, NotMappedError
from parsl_globus.endpoint.multiuser.site import load_site
from parsl_globus.errors import ConfigError
from parsl_globus.wire.documents import StartArguments, StartCommand

ADA = uuid.uuid4()
ACCOUNTS = {"ada": 2001, "bob": 2002, "toor": 0}


@pytest.fixture(autouse=True)
def known_accounts(monkeypatch):
    def named(name):
        uid = ACCOUNTS[name]
        return Account(name, uid, uid, Path(f"/home/{name}"), "/bin/sh", "", (uid,))

    monkeypatch.setattr(identity_module, "account_named", named)


def command(*entries, effective=ADA):
    some_fields: Any = StartCommand.model_construct
    return some_fields(
        globus_username="ada@lab.example", globus_effective_identity=effective, globus_identity_set=list(entries)
    )


def entry(username, sub=ADA, **more):
    return {"sub": str(sub), "username": username, **more}


def expression(match, output, **more):
    mapping = {"source": "{username}", "match": match, "output": output, **more}
    return {"DATA_TYPE": "expression_identity_mapping#1.0.0", "mappings": [mapping]}


@pytest.fixture
def mapping(tmp_path):
    def mapping(*documents):
        path = tmp_path / "mapping.json"
        path.write_text(json.dumps(documents))
        return IdentityMap(path)

    return mapping


def test_the_first_expression_that_fits_names_the_account(mapping):
    found = mapping(expression("nobody", "x"), expression("(.*)@lab\\.example", "{0}"))
    mapped = found.account_for(command(entry("ada@lab.example")))
    assert (mapped.account.name, mapped.account.uid, mapped.identity_id) == ("ada", 2001, str(ADA))


def test_only_the_whole_text_fits(mapping):
    found = mapping(expression("(.*)@lab\\.example", "{0}"))
    for username in ("ada@lab.example.evil.com", "ada@labXexample", "ada"):
        with pytest.raises(NotMappedError, match="no account"):
            found.account_for(command(entry(username)))


def test_who_is_mapped_is_whoever_submitted(mapping):
    """An identity that was not logged in with, and is not the one that acts, is nobody's proof."""
    found = mapping(expression("(.*)@lab\\.example", "{0}"))
    other = uuid.uuid4()
    with pytest.raises(NotMappedError):
        found.account_for(command(entry("ada@home"), entry("bob@lab.example", other)))
    linked = command(entry("ada@home"), entry("bob@lab.example", other, status="used"))
    assert found.account_for(linked).account.name == "bob"
    with pytest.raises(NotMappedError):
        found.account_for(command())


@pytest.mark.parametrize(("name", "words"), [("toor", "may run no tasks"), ("gone", "doesn't exist")])
def test_root_by_any_name_and_accounts_that_are_gone_are_refused(mapping, name, words):
    with pytest.raises(NotMappedError, match=words):
        mapping(expression(".*", name)).account_for(command(entry("ada")))


def test_a_program_of_the_site_maps_too(mapping, tmp_path):
    program = tmp_path / "map"
    reply = {"DATA_TYPE": "identity_mapping_output#1.0.0", "result": [{"id": str(ADA), "output": "bob"}]}
    program.write_text(
        f"#!/bin/sh\ncat > {tmp_path}/asked\necho \"$@\" > {tmp_path}/arguments\necho '{json.dumps(reply)}'\n"
    )
    program.chmod(0o755)
    found = mapping({"DATA_TYPE": "external_identity_mapping#1.0.0", "command": [str(program), "--site"]})
    endpoint_id = uuid.uuid4()
    found.serve(endpoint_id)
    assert found.account_for(command(entry("ada@home"))).account.name == "bob"
    asked = json.loads((tmp_path / "asked").read_text())
    assert asked["identities"] == [{"id": str(ADA), "status": "used", **entry("ada@home")}]
    assert str(endpoint_id) in (tmp_path / "arguments").read_text()


def test_a_program_that_fails_leaves_it_to_the_next_mapper(mapping):
    failing = {"DATA_TYPE": "external_identity_mapping#1.0.0", "command": ["/bin/false"]}
    assert mapping(failing, expression(".*", "ada")).account_for(command(entry("a"))).account.name == "ada"
    with pytest.raises(NotMappedError):
        mapping(failing).account_for(command(entry("a")))


def test_a_file_that_changes_counts_at_once_and_maps_nobody_while_it_is_broken(mapping):
    found = mapping(expression(".*", "ada"))
    asks = command(entry("a"))
    assert found.account_for(asks).account.name == "ada"
    found.path.write_text("[")
    for _ in range(2):
        with pytest.raises(ConfigError, match="valid JSON"):
            found.account_for(asks)
    found.path.write_text(json.dumps([expression(".*", "bob")]))
    assert found.account_for(asks).account.name == "bob"
    found.path.unlink()
    with pytest.raises(ConfigError, match="can't be read"):
        found.account_for(asks)


@pytest.mark.parametrize(
    ("documents", "words"),
    [
        ([], "list of objects"),
        ([{"DATA_TYPE": "magic#1.0.0"}], "DATA_TYPE is unknown"),
        ([{}], "can't be used"),
        ([{"DATA_TYPE": "expression_identity_mapping#9"}], "can't be used"),
        ([expression("(", "x")], "can't be used"),
    ],
)
def test_a_mapping_that_says_nothing_is_refused_at_the_start(mapping, documents, words):
    with pytest.raises(ConfigError, match=words):
        mapping(*documents)


@pytest.mark.parametrize("mode", [stat.S_IWGRP, stat.S_IWOTH])
def test_a_mapping_that_others_can_write_is_refused(mapping, mode):
    found = mapping(expression(".*", "ada"))
    found.path.chmod(0o600 | mode)
    with pytest.raises(ConfigError, match="only root"):
        found.account_for(command(entry("a")))


def test_a_python_that_others_cannot_reach_is_seen(tmp_path):
    open_folder, closed = tmp_path / "open", tmp_path / "open" / "closed"
    closed.mkdir(parents=True)
    closed.chmod(0o700)
    open_folder.chmod(0o755)
    (open_folder / "python").symlink_to(closed / "python3")
    # Whatever keeps others out of the tests' own folder comes first.
    expected = identity_module.closed_to_others(open_folder / "file") or closed
    assert identity_module.closed_to_others(open_folder / "python") == expected
    assert identity_module.closed_to_others(Path("/bin/sh")) is None


@pytest.fixture
def as_uid(monkeypatch):
    def as_uid(uid):
        monkeypatch.setattr(site_module.os, "geteuid", lambda: uid)

    return as_uid


def _folder(text):
    folder = create("all", text, force=True)
    (folder.path / "user_config_template.yaml.j2").write_text("engine: {type: ThreadPoolEngine}\n")
    return folder


def test_root_without_a_mapping_and_a_mapping_without_root_are_refused(as_uid):
    as_uid(0)
    with pytest.raises(ConfigError, match=r"config\.yaml: multi_user: .* run as root"):
        load_site(_folder("multi_user: true\n"))
    as_uid(1000)
    with pytest.raises(ConfigError, match="Only root"):
        load_site(_folder("identity_mapping_config_path: x\n"))
    assert load_site(_folder("multi_user: true\n")).identities is None


def test_what_goes_to_the_account_is_the_template_and_its_neighbours(mapping):
    folder = _folder("display_name: all\n")
    (folder.path / "part.j2").write_text("part")
    (folder.path / "secret.txt").write_text("secret")
    mapped = mapping(expression(".*", "ada")).account_for(command(entry("a")))
    some_fields: Any = StartArguments.model_construct
    start = some_fields(name="uep.x", user_opts={"a": 1}, user_runtime={})
    document = load_site(folder).unrendered(start, mapped)["template"]
    assert document["neighbours"] == {"part.j2": "part"}
    assert document["identity"]["local"]["uname"] == "ada"
    assert document["identity"]["globus"] == {"id": str(ADA)}


def test_who_still_is_root_is_not_let_through():
    if os.geteuid() != 0:
        pytest.skip("an ordinary user could not become root in the first place")
    with pytest.raises(spawn.NotStartedError, match="privileges"):
        spawn.prove(0, 0, set(os.getgroups()))


def test_an_account_that_is_another_one_by_now_is_not_become():
    own = pwd.getpwuid(os.getuid())
    with pytest.raises(spawn.NotStartedError, match="another one"):
        spawn.become(own.pw_name, own.pw_uid + 1)
    with pytest.raises(spawn.NotStartedError, match="no account"):
        spawn.become("no-such-account", 4711)
