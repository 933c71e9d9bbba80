from __future__ import annotations

import uuid

import pytest

from parsl_globus.service.auth.logins import BrokerLogins, Role
from parsl_globus.wire import names

OWNER = uuid.UUID(int=1)
NOBODY = uuid.UUID(int=2)


@pytest.fixture
def logins():
    return BrokerLogins(b"k" * 32, control=True)


def test_each_role_may_do_its_part_only(logins):
    def grant(role):
        login = logins.login(role, OWNER)
        return logins.authorize(login.username, login.password)

    heartbeat, result = ("heartbeats", f"{OWNER}.heartbeats"), ("results", f"{OWNER}.results")
    manager, site, identity = grant(Role.MANAGER), grant(Role.USER_ENDPOINT), grant(Role.IDENTITY)
    assert manager.may_consume(names.commands_queue(OWNER))
    assert not manager.may_consume(names.tasks_queue(OWNER))
    assert manager.publish_keys == {heartbeat}
    assert site.may_consume(names.tasks_queue(OWNER))
    assert site.may_consume(names.control_queue(OWNER))
    assert not site.may_consume(names.commands_queue(OWNER))
    assert site.publish_keys == {heartbeat, result}
    assert identity.may_consume(names.group_queue(OWNER, uuid.uuid4()))
    assert not identity.may_consume(names.group_queue(uuid.uuid4(), OWNER))
    assert not identity.publish_keys


@pytest.mark.parametrize("username", ["", "m.", f"x.{OWNER}", "m.nonsense", "guest", f"m.{NOBODY}"])
def test_other_names_are_refused(logins, username):
    assert logins.authorize(username, logins.login(Role.MANAGER, OWNER).password) is None


@pytest.mark.parametrize("password", ["", "x", "\u00e9\ud800"])
def test_other_passwords_are_refused(logins, password):
    assert logins.authorize(f"m.{OWNER}", password) is None


def test_passwords_hold_in_every_process_and_follow_the_key(logins):
    login = logins.login(Role.MANAGER, OWNER)
    assert BrokerLogins(b"k" * 32, control=True).authorize(login.username, login.password) is not None
    assert BrokerLogins(b"o" * 32, control=True).authorize(login.username, login.password) is None
    assert login.password not in repr(login)


def test_without_the_extension_there_is_no_control_queue():
    logins = BrokerLogins(b"k" * 32, control=False)
    login = logins.login(Role.USER_ENDPOINT, OWNER)
    assert not logins.authorize(login.username, login.password).may_consume(names.control_queue(OWNER))
