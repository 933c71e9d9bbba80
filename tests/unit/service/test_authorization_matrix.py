"""Who may do what: every route and every queue, for everyone who may come. A new one without a row fails here."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pika
import pytest
from fastapi.routing import APIRoute
from people import People
from service_thread import Inbox, ServiceThread

from parsl_globus.service.app import create_app
from parsl_globus.service.auth.logins import BrokerLogins, Role
from parsl_globus.service.auth.static import StaticAuthenticator
from parsl_globus.service.broker.embedded import EmbeddedBroker
from parsl_globus.service.config import OidcConfig, ServiceConfig
from parsl_globus.service.store.memory import MemoryStore
from parsl_globus.wire import names

#: Who comes. `owner` has registered the endpoint and submitted the task; it is shared with `shared`, and with a group
#: in which `member` is; `endpoint_admin` is in the endpoint's own list of administrators; `service_admin` manages the
#: service but shows the token of a workflow; `manager` shows a token for managing it; `worker` one for blobs only, of
#: `shared`.
CALLERS = (
    "owner",
    "endpoint_admin",
    "shared",
    "member",
    "stranger",
    "service_admin",
    "manager",
    "worker",
    "expired",
    "revoked",
    "nobody",
)
NO_TOKEN = dict.fromkeys(("expired", "revoked", "nobody"), 401)


class World:
    """A service with people in it."""

    def __init__(self, folder) -> None:
        # Nobody answers at this issuer: what may be asked of it by everybody is seen by that.
        oidc = OidcConfig("http://127.0.0.1:9", "lab", "secret")
        self.service = ServiceThread(folder, oidc=oidc).start()
        self.people = people = People(self.service)
        self.callers = {name: people.user(name) for name in ("owner", "endpoint_admin", "shared", "member", "stranger")}
        self.callers["service_admin"] = people.user("service_admin", admin=True)
        self.callers["manager"] = people.admin
        made = self.callers["shared"].good("POST", "/v3/tokens", {"scopes": ["blobs"]})
        self.callers["worker"] = people.caller(made["access_token"])
        owner = self.callers["owner"]
        self.callers["expired"] = people.expired(owner)
        self.callers["revoked"] = people.revoked(owner)
        self.callers["nobody"] = people.caller(None)
        self.group_id = people.group("devs", self.callers["member"], owner)
        self.endpoint_id = self.endpoint()
        self.function_id = owner.function()
        submitted = owner.submit(self.endpoint_id, self.function_id, ["x"])
        self.task_id = submitted["tasks"][self.function_id][0]
        self.task_group_id = submitted["task_group_id"]
        # `shared` has sent a task to the owner's endpoint, and puts its arguments apart.
        shared = self.callers["shared"]
        shared.submit(self.endpoint_id, shared.function(), ["x"])
        self.blob_id = self.blob("shared")

    def endpoint(self, **more: Any) -> str:
        """An endpoint of the owner's, shared as `CALLERS` says."""
        owner = self.callers["owner"]
        body = {
            "endpoint_name": "site",
            "metadata": {},
            "admins": [self.callers["endpoint_admin"].identity_id],
            **more,
        }
        endpoint_id = owner.good("POST", "/v3/endpoints", body)["endpoint_id"]
        owner.good("PUT", f"/v3/endpoints/{endpoint_id}/shares/user/shared")
        owner.good("PUT", f"/v3/endpoints/{endpoint_id}/shares/group/devs")
        return endpoint_id

    def blob(self, caller: str) -> str:
        """A blob of someone's."""
        return self.callers[caller].good("PUT", f"/v3/blobs/{uuid.uuid4()}", data=b'"content"')["blob_id"]

    def close(self) -> None:
        self.people.close()
        self.service.stop()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("world") / "data")
    yield world
    world.close()


@dataclass(frozen=True)
class Row:
    """One route.

    Attributes:
        expected: What each caller's status is.
        path: The address, made anew for each caller; placeholders are filled from the world.
        body: The JSON body, likewise.
        check: Looks at what a caller got.
    """

    expected: dict[str, int]
    path: Callable[[World], str] | None = None
    body: Callable[[World, str], Any] | None = None
    check: Callable[[World, str, Any], bool] | None = None


def only(*good: str, status: int = 200, refused: int = 403) -> dict[str, int]:
    """`good` callers get `status`, others with a token are refused."""
    return {**dict.fromkeys(CALLERS, refused), **dict.fromkeys(good, status), **NO_TOKEN}


USERS = ("owner", "endpoint_admin", "shared", "member", "stranger", "service_admin")
#: Whoever has a token for the compute service; one for managing is no such token.
ANY_USER = only(*USERS)
ANY_TOKEN = only(*USERS, "manager")
MAY_USE = only("owner", "endpoint_admin", "shared", "member", "service_admin")
MAY_CHANGE = only("owner", "endpoint_admin", "service_admin")
MAY_SHARE = only("owner", "endpoint_admin", "service_admin", "manager")
MAY_MANAGE = only("manager")


def everybody(status: int) -> dict[str, int]:
    return dict.fromkeys(CALLERS, status)


def _on_endpoint(suffix: str = "", version: str = "v2"):
    return lambda world: f"/{version}/endpoints/{world.endpoint_id}{suffix}"


def _registration(_world, _caller):
    return {"endpoint_name": "mine", "metadata": {}}


def _new_function(_world, _caller):
    return {"function_name": "f", "function_code": "5\n01\nab"}


def _submission(world, caller):
    rest = world.callers[caller]
    # Each with a function of its own, so that the endpoint decides.
    own = rest.call("POST", "/v3/functions", _new_function(world, caller)).json().get("function_uuid")
    return {"tasks": {own or world.function_id: ["x"]}}


def _listed_submission(world, caller):
    ((function_id, payloads),) = _submission(world, caller)["tasks"].items()
    return {"tasks": [[function_id, world.endpoint_id, payload] for payload in payloads]}


def _user_to_go(world):
    name = f"u{uuid.uuid4().hex}"
    world.people.admin.good("POST", "/v3/admin/users", {"username": name})
    return name


def _group_to_go(world):
    name = f"g{uuid.uuid4().hex}"
    world.people.admin.good("POST", "/v3/admin/groups", {"name": name})
    return name


def _token_to_go(world):
    return world.callers["owner"].good("POST", "/v3/tokens", {})["token_id"]


def _named(_world, _caller):
    return {"username": f"n{uuid.uuid4().hex}", "name": f"n{uuid.uuid4().hex}"}


def _tasks(world, _caller):
    return {"task_ids": [world.task_id]}


#: Every route. Pages take cookies, not tokens; whoever comes without one is sent to the login.
ROUTES: dict[tuple[str, str], Row] = {
    ("GET", "/v2/version"): Row(everybody(200)),
    ("GET", "/healthz"): Row(everybody(200)),
    ("GET", "/openapi.json"): Row(everybody(200)),
    ("POST", "/v2/oauth2/token"): Row(everybody(400)),
    # By a client's secret, not by a token.
    ("POST", "/v2/oauth2/token/revoke"): Row(everybody(400)),
    ("GET", "/v2/oauth2/userinfo"): Row(
        # One for managing the service names nobody to others.
        only(*USERS),
        check=lambda world, caller, got: got["sub"] == world.callers[caller].identity_id,
    ),
    ("GET", "/v2/api/identities"): Row(only(*USERS)),
    # endpoints
    ("POST", "/v2/endpoints"): Row(ANY_USER, body=_registration),
    ("POST", "/v3/endpoints"): Row(ANY_USER, body=_registration),
    ("PUT", "/v3/endpoints/{endpoint_id}"): Row(
        # Not for administrators of the service: its answer holds the endpoint's own login.
        only("owner", "endpoint_admin"),
        path=lambda world: f"/v3/endpoints/{world.endpoint()}",
        body=_registration,
    ),
    ("GET", "/v2/endpoints"): Row(
        ANY_USER,
        check=lambda world, caller, got: (world.endpoint_id in [e["uuid"] for e in got]) == (caller == "owner"),
    ),
    ("GET", "/v2/endpoints/{endpoint_id}"): Row(
        MAY_USE,
        path=_on_endpoint(),
        check=lambda _w, caller, got: ("metadata" in got) == (MAY_CHANGE[caller] == 200),
    ),
    ("GET", "/v2/endpoints/{endpoint_id}/status"): Row(MAY_USE, path=_on_endpoint("/status")),
    ("DELETE", "/v2/endpoints/{endpoint_id}"): Row(MAY_CHANGE, path=lambda world: f"/v2/endpoints/{world.endpoint()}"),
    ("POST", "/v2/endpoints/{endpoint_id}/lock"): Row(
        MAY_CHANGE, path=lambda world: f"/v2/endpoints/{world.endpoint()}/lock"
    ),
    ("POST", "/v3/endpoints/{endpoint_id}/lock"): Row(
        MAY_CHANGE, path=lambda world: f"/v3/endpoints/{world.endpoint()}/lock"
    ),
    ("GET", "/v3/endpoints/{endpoint_id}/allowed_functions"): Row(
        MAY_USE, path=_on_endpoint("/allowed_functions", "v3")
    ),
    # functions
    ("POST", "/v2/functions"): Row(ANY_USER, body=_new_function),
    ("POST", "/v3/functions"): Row(ANY_USER, body=_new_function),
    ("GET", "/v2/functions/{function_id}"): Row(only("owner"), path=lambda world: f"/v2/functions/{world.function_id}"),
    ("DELETE", "/v2/functions/{function_id}"): Row(
        only("owner"), path=lambda world: f"/v2/functions/{world.callers['owner'].function()}"
    ),
    # tasks
    ("POST", "/v3/endpoints/{endpoint_id}/submit"): Row(MAY_USE, path=_on_endpoint("/submit", "v3"), body=_submission),
    ("POST", "/v2/submit"): Row(MAY_USE, body=_listed_submission),
    ("GET", "/v2/get_amqp_result_connection_url"): Row(
        ANY_USER,
        check=lambda world, caller, got: got["queue_prefix"] == f"tg.{world.callers[caller].identity_id}.",
    ),
    ("GET", "/v2/taskgroup/{group_id}"): Row(only("owner"), path=lambda world: f"/v2/taskgroup/{world.task_group_id}"),
    ("GET", "/v2/tasks/{task_id}"): Row(
        {**only("owner", refused=404), "manager": 403, "worker": 403}, path=lambda world: f"/v2/tasks/{world.task_id}"
    ),
    ("POST", "/v2/batch_status"): Row(
        ANY_USER,
        body=_tasks,
        check=lambda world, caller, got: (world.task_id in got["results"]) == (caller == "owner"),
    ),
    ("POST", "/v3/tasks/cancel"): Row(
        ANY_USER,
        body=_tasks,
        check=lambda world, caller, got: (got["results"][world.task_id] == "unknown") == (caller != "owner"),
    ),
    # blobs
    ("PUT", "/v3/blobs/{blob_id}"): Row(
        only(*USERS, "worker"), path=lambda _w: f"/v3/blobs/{uuid.uuid4()}", body=lambda _w, _caller: "content"
    ),
    ("GET", "/v3/blobs/{blob_id}"): Row(
        # Besides its owner, who runs an endpoint that the owner has sent tasks to, if they know its id.
        {**only("shared", "worker", "owner", "endpoint_admin", refused=404), "manager": 403},
        path=lambda world: f"/v3/blobs/{world.blob_id}",
    ),
    ("DELETE", "/v3/blobs/{blob_id}"): Row(
        {**only("shared", "worker", refused=404), "manager": 403},
        path=lambda world: f"/v3/blobs/{world.blob('shared')}",
    ),
    # people
    ("GET", "/v3/me"): Row(ANY_TOKEN),
    ("GET", "/v3/admin/users"): Row(MAY_MANAGE),
    ("POST", "/v3/admin/users"): Row(MAY_MANAGE, body=_named),
    ("DELETE", "/v3/admin/users/{name}"): Row(MAY_MANAGE, path=lambda world: f"/v3/admin/users/{_user_to_go(world)}"),
    ("POST", "/v3/admin/users/{name}/secret"): Row(
        MAY_MANAGE, path=lambda world: f"/v3/admin/users/{_user_to_go(world)}/secret"
    ),
    ("PUT", "/v3/admin/users/{name}/login"): Row(
        MAY_MANAGE,
        path=lambda world: f"/v3/admin/users/{_user_to_go(world)}/login",
        body=lambda _w, _c: {"subject": uuid.uuid4().hex},
    ),
    ("DELETE", "/v3/admin/users/{name}/login"): Row(
        MAY_MANAGE, path=lambda world: f"/v3/admin/users/{_user_to_go(world)}/login"
    ),
    ("GET", "/v3/admin/groups"): Row(MAY_MANAGE),
    ("POST", "/v3/admin/groups"): Row(MAY_MANAGE, body=_named),
    ("DELETE", "/v3/admin/groups/{name}"): Row(
        MAY_MANAGE, path=lambda world: f"/v3/admin/groups/{_group_to_go(world)}"
    ),
    ("PUT", "/v3/admin/groups/{name}/members/{user}"): Row(
        MAY_MANAGE, path=lambda world: f"/v3/admin/groups/{_group_to_go(world)}/members/stranger"
    ),
    ("DELETE", "/v3/admin/groups/{name}/members/{user}"): Row(
        MAY_MANAGE, path=lambda world: f"/v3/admin/groups/{_group_to_go(world)}/members/stranger"
    ),
    ("POST", "/v3/tokens"): Row(
        ANY_TOKEN, body=lambda _w, caller: {"scopes": ["admin" if caller == "manager" else "compute"]}
    ),
    ("GET", "/v3/tokens"): Row(ANY_TOKEN),
    ("DELETE", "/v3/tokens/{token_id}"): Row(
        {**only("owner", "manager", refused=404), "worker": 403},
        path=lambda world: f"/v3/tokens/{_token_to_go(world)}",
    ),
    ("GET", "/v3/endpoints/{endpoint_id}/shares"): Row(MAY_SHARE, path=_on_endpoint("/shares", "v3")),
    ("PUT", "/v3/endpoints/{endpoint_id}/shares/{kind}/{name}"): Row(
        MAY_SHARE, path=lambda world: f"/v3/endpoints/{world.endpoint()}/shares/user/stranger"
    ),
    ("DELETE", "/v3/endpoints/{endpoint_id}/shares/{kind}/{name}"): Row(
        MAY_SHARE, path=lambda world: f"/v3/endpoints/{world.endpoint()}/shares/user/shared"
    ),
    # the page
    ("GET", "/"): Row(everybody(303)),
    ("GET", "/tasks"): Row(everybody(303)),
    ("GET", "/tasks/{task_id}"): Row(everybody(303), path=lambda world: f"/tasks/{world.task_id}"),
    ("GET", "/events"): Row(everybody(401)),
    ("GET", "/static/{name}"): Row(everybody(404), path=lambda _w: "/static/nothing"),
    ("GET", "/login"): Row(everybody(200)),
    ("POST", "/login"): Row(everybody(403)),
    # By the issuer's word, or by a code from the page, not by a token.
    ("GET", "/login/oidc"): Row(everybody(503)),
    ("GET", "/login/oidc/callback"): Row(everybody(401)),
    ("POST", "/v3/login/device"): Row(everybody(503)),
    ("POST", "/v3/login/device/token"): Row(everybody(503), body=lambda _w, _c: {"device_code": "invented"}),
    ("POST", "/v3/login/command"): Row(everybody(401), body=lambda _w, _c: {"code": "invented", "verifier": "v" * 43}),
    ("GET", "/login/command"): Row(everybody(303)),
    ("POST", "/login/command"): Row(everybody(303)),
    ("POST", "/logout"): Row(everybody(303)),
    ("POST", "/login/link"): Row(ANY_USER),
    # Open to programs on the service's own machine, where this test runs.
    ("GET", "/metrics"): Row(everybody(200)),
}


def all_routes(tmp_path) -> set[tuple[str, str]]:
    store = MemoryStore()
    logins = BrokerLogins(b"k" * 32, control=True)
    app = create_app(
        ServiceConfig(tmp_path), store, EmbeddedBroker(), StaticAuthenticator(store, token_life_s=1), logins
    )
    documented = {(verb.upper(), path) for path, verbs in app.openapi()["paths"].items() for verb in verbs}
    return documented | served(app.routes)


def served(routes) -> set[tuple[str, str]]:
    """Those that no document shows are served as well."""
    found = set()
    for route in routes:
        inner = getattr(route, "original_router", None)  # newer versions of fastapi keep routers as they are
        if inner is not None:
            found |= served(inner.routes)
        else:
            assert isinstance(route, APIRoute), "not a plain route: what keeps strangers out of it?"
            found |= {(verb, route.path) for verb in route.methods}
    return found


def test_every_route_has_a_row(tmp_path):
    assert all_routes(tmp_path) == set(ROUTES)


@pytest.mark.parametrize(("method", "route"), sorted(ROUTES), ids=lambda value: value)
def test_who_may_use_a_route(world, method, route):
    row = ROUTES[(method, route)]
    assert set(row.expected) == set(CALLERS)
    got = {}
    for name in CALLERS:
        path = row.path(world) if row.path else route
        body = row.body(world, name) if row.body else None
        reply = world.callers[name].call(method, path, body, allow_redirects=False)
        got[name] = reply.status_code
        if reply.status_code == 200 and row.check is not None:
            assert row.check(world, name, reply.json()), name
        # What is refused, or unknown, repeats at most what was asked for.
        if reply.status_code == 200 and name != "owner" and route != "/v3/tasks/cancel":
            assert world.task_id not in reply.text, name
    assert got == row.expected


def test_who_has_sent_tasks_to_an_endpoint_reads_what_its_owner_puts(world):
    """Results come back by reference, too; to nobody else, nor from one guest of an endpoint to another."""
    blob_id = world.blob("endpoint_admin")
    guest = world.people.user(f"guest{uuid.uuid4().hex[:8]}")
    callers = {**world.callers, "guest": guest}
    path = f"/v3/blobs/{blob_id}"
    assert callers["shared"].call("GET", path).status_code == 200
    assert callers["guest"].call("GET", path).status_code == 404
    own = guest.good("POST", "/v3/endpoints", {"endpoint_name": "own", "metadata": {}})["endpoint_id"]
    guest.submit(own, guest.function(), ["x"])
    assert callers["guest"].call("GET", path).status_code == 404
    world.callers["owner"].good("PUT", f"/v3/endpoints/{world.endpoint_id}/shares/user/{guest.username}")
    assert callers["guest"].call("GET", path).status_code == 404
    guest.submit(world.endpoint_id, guest.function(), ["x"])
    assert callers["guest"].call("GET", path).status_code == 200
    assert callers["guest"].call("GET", f"/v3/blobs/{world.blob_id}").status_code == 404


# ---- the broker -----------------------------------------------------------------------------------------------------

MANAGER, SITE, OWNER, STRANGER, GROUP = (uuid.uuid4() for _ in range(5))
#: What there is to consume and to publish to, by the function that names it; `OWNER` has submitted to `SITE`.
QUEUES = {
    "commands_queue": names.commands_queue(MANAGER),
    "tasks_queue": names.tasks_queue(SITE),
    "control_queue": names.control_queue(SITE),
    "group_queue": names.group_queue(OWNER, GROUP),
    "RESULTS_QUEUE": names.RESULTS_QUEUE,
    "HEARTBEATS_QUEUE": names.HEARTBEATS_QUEUE,
}
KEYS = {
    "results_key": (names.RESULTS_EXCHANGE, names.results_key(SITE)),
    "heartbeats_key": (names.HEARTBEATS_EXCHANGE, names.heartbeats_key(SITE)),
    "heartbeats_key of the manager": (names.HEARTBEATS_EXCHANGE, names.heartbeats_key(MANAGER)),
    "default exchange": ("", names.tasks_queue(SITE)),
}
LOGINS: dict[str, tuple[Role, uuid.UUID, set[str]]] = {
    "its manager": (Role.MANAGER, MANAGER, {"commands_queue", "heartbeats_key of the manager"}),
    "its user endpoint": (Role.USER_ENDPOINT, SITE, {"tasks_queue", "control_queue", "results_key", "heartbeats_key"}),
    "owner": (Role.IDENTITY, OWNER, {"group_queue"}),
    "another manager": (Role.MANAGER, STRANGER, set()),
    "another user endpoint": (Role.USER_ENDPOINT, STRANGER, set()),
    "another user, shared or not": (Role.IDENTITY, STRANGER, set()),
    # An id says nothing without its role.
    "a manager's id as an identity": (Role.IDENTITY, MANAGER, set()),
    "an owner's id as a manager": (Role.MANAGER, OWNER, set()),
}


def test_every_kind_of_queue_and_key_has_a_row():
    named = {
        name
        for name, value in vars(names).items()
        if (inspect.isfunction(value) and name.endswith(("_queue", "_key"))) or name.endswith("_QUEUE")
    }
    assert named == set(QUEUES) | {"results_key", "heartbeats_key"}


@pytest.mark.parametrize("who", sorted(LOGINS))
def test_what_a_login_may_do_on_the_broker(who):
    role, owner_id, allowed = LOGINS[who]
    logins = BrokerLogins(b"k" * 32, control=True)
    login = logins.login(role, owner_id)
    grant = logins.authorize(login.username, login.password)
    may = {name for name, queue in QUEUES.items() if grant.may_consume(queue)}
    may |= {name for name, key in KEYS.items() if grant.may_publish(*key)}
    assert may == allowed
    # What RabbitMQ asks without a password later on is the same.
    assert logins.grant(login.username) == grant
    for wrong in ("", login.password[:-1], login.password + "0", logins.login(role, uuid.uuid4()).password):
        assert logins.authorize(login.username, wrong) is None


@pytest.mark.parametrize("caller", ["owner", "endpoint_admin", "shared", "member", "stranger", "service_admin"])
def test_results_are_delivered_to_the_submitter_alone(world, caller):
    queue = names.group_queue(uuid.UUID(world.callers["owner"].identity_id), uuid.UUID(world.task_group_id))
    access = world.callers[caller].good("GET", "/v2/get_amqp_result_connection_url")
    inbox = Inbox(access["connection_url"], queue)
    try:
        if caller == "owner":
            inbox.channel.basic_consume(queue, lambda *_: None)
        else:
            with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="ACCESS_REFUSED"):
                inbox.channel.basic_consume(queue, lambda *_: None)
    finally:
        inbox.close()
