"""What the manager makes of start commands, and the command line of endpoints."""

from __future__ import annotations

import json
import time
import uuid

import click
import pytest
from click.testing import CliRunner

from parsl_globus.amqp import Delivery
from parsl_globus.cli.endpoint import endpoint
from parsl_globus.endpoint.folder import create, find
from parsl_globus.endpoint.multiuser import manager as manager_module
from parsl_globus.endpoint.multiuser.manager import Manager
from parsl_globus.endpoint.multiuser.site import load_site
from parsl_globus.errors import ConfigError, EndpointError, EndpointNotFound

OWNER = uuid.uuid4()


def _queue(name):
    return {"connection_url": "amqp://u:secret@127.0.0.1:1/", "queue": name, "exchange": "e"}


def _command(**changes):
    endpoint_id = uuid.uuid4()
    return {
        "command": "cmd_start_endpoint",
        "args": [],
        "kwargs": {
            "name": "uep.x.y",
            "user_opts": {},
            "user_runtime": {},
            "amqp_creds": {
                "endpoint_id": str(endpoint_id),
                "task_queue_info": _queue("t"),
                "result_queue_info": _queue("r"),
                "heartbeat_queue_info": _queue("h"),
            },
        },
        "globus_username": "someone",
        "globus_effective_identity": str(OWNER),
        "globus_identity_set": [{"sub": str(OWNER)}],
        **changes,
    }


def _delivery(document, *, age_s=0.0, content_type="application/json"):
    return Delivery(
        body=document if isinstance(document, bytes) else json.dumps(document).encode(),
        headers={},
        routing_key="c",
        redelivered=False,
        content_type=content_type,
        timestamp_s=int(time.time() - age_s),
        tag=1,
        channel=None,
    )


class _Child:
    """Notes what it was started with."""

    pid = 0
    account = None

    def __init__(self, directory, start, config, **settings):
        self.start, self.config, self.settings, self.renewed = start, config, settings, []

    def renew(self, credentials):
        self.renewed.append(credentials)


@pytest.fixture
def manager(monkeypatch):
    folder = create("laptop", None, force=False)
    monkeypatch.setattr(manager_module, "Child", _Child)
    manager = Manager(folder, load_site(folder), None, lambda _id: None)
    manager._identities = frozenset({OWNER})
    manager.told = []
    monkeypatch.setattr(manager, "_tell", lambda credentials, state: manager.told.append(state))
    return manager


def test_a_command_starts_a_user_endpoint_and_its_repetition_renews_the_credentials(manager):
    manager._follow(_delivery(_command()))
    (child,) = manager._children.values()
    assert child.config == find("laptop").config.read_text()
    manager._follow(_delivery(_command()))
    assert len(child.renewed) == 1
    assert list(manager._children) == ["uep.x.y"]
    assert manager.told == []


@pytest.mark.parametrize(
    ("document", "options"),
    [
        (_command(), {"age_s": 200}),
        (_command(), {"age_s": -200}),
        (_command(), {"content_type": "text/plain"}),
        (_command(command="cmd_other"), {}),
        (b"\xff{", {}),
        (b"[]", {}),
        ({"command": "cmd_start_endpoint"}, {}),
    ],
)
def test_what_is_no_fresh_command_starts_nothing(manager, document, options, caplog):
    manager._follow(_delivery(document, **options))
    assert manager._children == {}
    assert "refused" in caplog.text
    assert "secret" not in caplog.text


def test_strangers_start_nothing_and_are_told(manager):
    manager._follow(_delivery(_command(globus_identity_set=[{"sub": str(uuid.uuid4())}])))
    assert manager._children == {}
    assert "may not use this endpoint" in manager.told[0]["error"]


@pytest.mark.parametrize("name", ["../x", "uep./../../x", ".uep", "config.yaml"])
def test_names_that_would_leave_the_folder_are_refused(manager, name):
    command = _command()
    command["kwargs"]["name"] = name
    manager._follow(_delivery(command))
    assert manager._children == {}
    assert "can't be the name" in manager.told[0]["error"]


def _run(*arguments):
    result = CliRunner().invoke(endpoint, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_configure_check_and_list():
    assert "endpoint start laptop" in _run("configure", "laptop")
    text = _run("check", "laptop")
    for word in ("type: GlobusComputeEngine", "HighThroughputExecutor(", "LocalProvider(", "process_worker_pool"):
        assert word in text
    assert json.loads(_run("list", "--json")) == [{"name": "laptop", "endpoint_id": None, "status": "stopped"}]
    assert "never registered" in _run("list")
    assert "was not running" in _run("stop", "laptop")


def test_configure_takes_a_file_only_if_it_is_in_order(tmp_path):
    source = tmp_path / "site.yaml"
    source.write_text("engine:\n  type: GlobusComputeEngine\n  providr: {}\n")
    with pytest.raises(ConfigError, match=r"site\.yaml:3: engine\.providr"):
        _run("configure", "site", "--config", str(source))
    source.write_text("debug: true\nengine: {type: ThreadPoolEngine, max_workers: 2}\n")
    _run("configure", "site", "--config", str(source))
    assert find("site").config.read_text() == source.read_text()
    assert "ThreadPoolEngine" in _run("check", "site")


@pytest.mark.parametrize("command", ["check", "run", "start", "stop"])
def test_unknown_names_are_told(command):
    with pytest.raises(EndpointNotFound, match="nowhere"):
        _run(command, "nowhere")


def test_a_start_without_a_service_says_so():
    _run("configure", "laptop")
    with pytest.raises(EndpointError, match="service start"):
        _run("start", "laptop")


def test_every_command_has_help():
    for name, command in endpoint.commands.items():
        assert isinstance(command, click.Command)
        assert len(command.get_short_help_str(200)) > 20, name
