"""Every public method of the SDK's classes, and of `globus_sdk`'s clients below them, against our service."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import dataclass, field

import globus_sdk
import pytest
from globus_compute_sdk import Client, Executor


def public(cls: type) -> list[str]:
    """Its public methods, as installed: a new one has no row in `clients/sdk_api.py` yet, and fails here."""
    names = {name for name, _ in inspect.getmembers(cls, inspect.isfunction) if not name.startswith("_")}
    return sorted(names - {name for name, _ in inspect.getmembers(globus_sdk.BaseClient, inspect.isfunction)})


@dataclass
class Guest:
    """Another user, in a group with the owner."""

    group_id: str
    env: dict[str, str] = field(repr=False)


@pytest.fixture(scope="session")
def guest(stage):
    if stage.public_only:
        return None  # there are users and groups, but no commands of ours to make some
    run = stage.site.run
    group_id = re.search(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", run("service", "add-group", "devs"))[0]
    out = stage.folder / "guest.json"
    run("service", "add-user", "guest", "--out", str(out))
    for name in ("guest", json.loads(run("whoami", "--json"))["username"]):
        run("service", "group", "add", "devs", name)
    credentials = json.loads(out.read_text())
    home = stage.folder / "guest"
    home.mkdir()
    names = {"GLOBUS_COMPUTE_CLIENT_ID": "client_id", "GLOBUS_COMPUTE_CLIENT_SECRET": "client_secret"}
    return Guest(group_id, {"HOME": str(home), **{name: credentials[key] for name, key in names.items()}})


@pytest.mark.parametrize(
    ("stage", "endpoint_id"),
    [("extensions", "our_agent"), ("public-only", "our_agent"), ("lab", "our_agent"), ("lab", "public_agent")],
    indirect=True,
)
def test_every_method(stage, endpoint_id, guest, request):
    found = stage.client("sdk_api.py", endpoint_id, *([guest.group_id] if guest else []))
    classes = (Client, Executor, globus_sdk.ComputeClientV2, globus_sdk.ComputeClientV3)
    assert found["called"] == {cls.__name__: public(cls) for cls in classes}
    if guest is None:
        return
    functions = json.dumps(found["functions"])
    refused = stage.client("sdk_guest.py", endpoint_id, functions, env=guest.env)
    assert refused == dict.fromkeys(("private", "public", "group"), "ENDPOINT_ACCESS_FORBIDDEN")
    stage.site.run("service", "share", str(endpoint_id), "--with", "guest")
    shared = stage.client("sdk_guest.py", endpoint_id, functions, env=guest.env)
    assert shared.pop("private") == "FUNCTION_ACCESS_FORBIDDEN"
    if request.node.callspec.params["endpoint_id"] == "our_agent":
        assert shared == {"public": 42, "group": 42}
    else:  # as a user's own, the public agent serves nobody else, and says so
        assert all(text.startswith("Ignoring start request for untrusted identity") for text in shared.values())
