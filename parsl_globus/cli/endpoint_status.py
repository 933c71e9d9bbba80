"""`parsl-globus endpoint status`: what an endpoint does, down to its workers and tasks."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from parsl_globus.cli.extras import needs_extra

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from parsl_globus.endpoint.folder import EndpointFolder

#: How long a user endpoint may take to answer, in seconds; it looks once a second.
_ANSWER_S = 4.0
#: How many are asked at the same time.
_AT_A_TIME = 8


@click.command("status")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="As a JSON object.")
@click.pass_context
def status(ctx: click.Context, name: str, as_json: bool) -> None:
    """Tell what the endpoint NAME does; the exit code is 0 only when it runs."""
    with needs_extra("endpoint"):
        from parsl_globus.endpoint.folder import find

        facts = _facts(find(name))
    click.echo(json.dumps(facts, indent=2) if as_json else "\n".join(_lines(facts)))
    if facts["status"] != "running":
        ctx.exit(1)


def _facts(folder: EndpointFolder) -> dict[str, Any]:
    pid = folder.manager_pid
    since = (folder.path / "manager.pid").stat().st_mtime if pid is not None else None
    return {
        "name": folder.name,
        "endpoint_id": str(folder.endpoint_id) if folder.endpoint_id else None,
        "status": "running" if pid is not None else "stopped",
        "pid": pid,
        "since": _time(since),
        "service": _service(folder),
        "user_endpoints": _user_endpoints(folder),
    }


def _service(folder: EndpointFolder) -> dict[str, Any]:
    """Where it is registered, and what the service says about it."""
    from parsl_globus.client.connect import connect, service_url
    from parsl_globus.client.rest import ServiceClient
    from parsl_globus.errors import ParslGlobusError

    facts: dict[str, Any] = {"url": folder.service_url, "reachable": False, "sees": None, "error": None}
    try:
        facts["url"] = folder.service_url or service_url()
        client = ServiceClient(connect(facts["url"]), max_retries=0)
        try:
            client.version()
            facts["reachable"] = True
            if folder.endpoint_id is not None:
                facts["sees"] = client.endpoint_status(folder.endpoint_id).get("status")
        finally:
            client.close()
    except ParslGlobusError as exc:
        facts["error"] = str(exc)
    return facts


def _user_endpoints(folder: EndpointFolder) -> list[dict[str, Any]]:
    paths = folder.user_endpoints()
    # Each may take a second or so to answer.
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        return list(pool.map(lambda path: _user_endpoint(folder, path), paths))


def _user_endpoint(folder: EndpointFolder, path: Path) -> dict[str, Any]:
    from parsl_globus.endpoint import status_file
    from parsl_globus.endpoint.multiuser.account_files import ask, look
    from parsl_globus.endpoint.processes import marked, tree_mark
    from parsl_globus.errors import EndpointError

    pids = marked(tree_mark(folder.path, path.name))
    facts: dict[str, Any] = {"name": path.name}
    record = folder.account_record(path.name)
    state: Mapping[str, Any] | None
    if record is None:
        told = look(path)
        state = status_file.ask(path, _ANSWER_S) if pids else None
    else:
        facts |= {"account": record["account"], "log": record["log"], "error": None}
        try:
            told = ask(record, answer_s=_ANSWER_S if pids else 0.0)
        except EndpointError as exc:
            return facts | {"status": _word(pids, None), "processes": sorted(pids), "error": str(exc)}
        state = told.state
    facts |= {
        "status": _word(pids, state),
        "pid": None,
        "since": None,
        "processes": sorted(pids),
        "blocks": {},
        "workers": {"total": 0, "idle": 0},
        # On its disk, whether it runs or not.
        "tasks": {"waiting": told.tasks, "running": 0, "done": None, "failed": None, "results_unsent": told.results},
    }
    if state is not None:
        running = max(0, state["outstanding_tasks"] - state["pending_tasks"])
        facts |= {
            "pid": state["pid"],
            "since": _time(state["start_unix"]),
            "blocks": state["blocks"] or {},
            "workers": {"total": state["total_workers"], "idle": state["idle_workers"]},
        }
        facts["tasks"] |= {
            "waiting": max(0, told.tasks - running),
            "running": running,
            "done": state["tasks"]["done"],
            "failed": state["tasks"]["failed"],
        }
    return facts


def _word(pids: list[int], state: Mapping[str, Any] | None) -> str:
    return "running" if state else ("silent" if pids else "stopped")


def _time(unix_s: float | None) -> str | None:
    return datetime.fromtimestamp(unix_s).astimezone().isoformat(timespec="seconds") if unix_s is not None else None


def _lines(facts: dict[str, Any]) -> list[str]:
    registered = f"registered as {facts['endpoint_id']}" if facts["endpoint_id"] else "never registered"
    runs = f"runs since {facts['since']} as process {facts['pid']}" if facts["pid"] else "is stopped"
    lines = [f"Endpoint '{facts['name']}' {runs}; {registered}."]
    service = facts["service"]
    if service["reachable"]:
        lines.append(f"Service {service['url']}: reachable, it sees the endpoint as {service['sees'] or 'unknown'}.")
    else:
        lines.append(f"Service {service['url'] or '(none known)'}: not reachable. {service['error'] or ''}".rstrip())
    for one in facts["user_endpoints"]:
        lines += _user_endpoint_lines(one)
    return lines


def _user_endpoint_lines(one: dict[str, Any]) -> list[str]:
    name = one["name"]
    where = []
    if "account" in one:
        name = f"{name} in the account {one['account']}"
        where = [f"  log:     {one['log']}"]
        if one["error"] is not None:
            return [f"{name}: {len(one['processes'])} processes. {one['error']}", *where]
    tasks = one["tasks"]
    if one["status"] == "stopped":
        return [f"{name}: stopped; {tasks['waiting']} tasks and {tasks['results_unsent']} results on disk.", *where]
    if one["status"] == "silent":
        words = f"{len(one['processes'])} processes, but it does not answer: it starts, ends or hangs."
        return [f"{name}: {words}", *where]
    blocks = ", ".join(f"{key} ({block['job_id']}) {block['status']}" for key, block in one["blocks"].items())
    return [
        f"{name}: process {one['pid']}, {len(one['processes'])} processes in all, since {one['since']}",
        f"  blocks:  {blocks or 'none'}",
        f"  workers: {one['workers']['total']}, of which {one['workers']['idle']} idle",
        f"  tasks:   {tasks['waiting']} waiting, {tasks['running']} running, {tasks['done']} done, "
        f"{tasks['failed']} failed, {tasks['results_unsent']} results not confirmed yet",
        *where,
    ]
