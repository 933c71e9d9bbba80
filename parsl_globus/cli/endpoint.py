"""`parsl-globus endpoint`: configure, check, run, start, stop and list endpoints of this machine."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from parsl_globus.cli.daemon import STOP_TIMEOUT_S, end_process, leave_running, start_process, teller, why_silent
from parsl_globus.cli.endpoint_boot import enable_on_boot
from parsl_globus.cli.endpoint_check import check
from parsl_globus.cli.endpoint_delete import delete
from parsl_globus.cli.endpoint_logs import logs
from parsl_globus.cli.endpoint_status import status
from parsl_globus.cli.endpoint_templates import configuration_text, list_templates
from parsl_globus.cli.extras import needs_extra

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable

    from parsl_globus.endpoint.folder import EndpointFolder


@click.group("endpoint")
def endpoint() -> None:
    """Make, run and list endpoints: they run tasks on this machine or its scheduler."""


for _command in (delete, enable_on_boot, logs, status):
    endpoint.add_command(_command)


@endpoint.command("configure")
@click.argument("name", required=False)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="Take this configuration instead of one that runs tasks on this machine.",
)
@click.option("--template", help="Start from the commented configuration for this site or kind of site.")
@click.option("--list-templates", "listed", is_flag=True, help="List these templates, and make nothing.")
@click.option("--json", "as_json", is_flag=True, help="With --list-templates: as a JSON array of objects.")
@click.option("--force", is_flag=True, help="Replace the configuration of an endpoint that exists.")
def configure(
    name: str | None, config_file: Path | None, template: str | None, listed: bool, as_json: bool, force: bool
) -> None:
    """Make the endpoint NAME: a folder with its configuration."""
    if listed:
        list_templates(as_json=as_json)
        return
    if name is None:
        raise click.UsageError("Missing argument 'NAME'.")
    text = configuration_text(config_file, template)
    from parsl_globus.endpoint.folder import create

    folder = create(name, text, force=force)
    first = "" if template is None else f"Look at it, and check it with: parsl-globus endpoint check {name}\n"
    click.echo(f"Configured '{name}' in {folder.config}. {first}Start it with: parsl-globus endpoint start {name}")


endpoint.add_command(check)


@endpoint.command("run")
@click.argument("name")
@click.option("--url", help="The service's base URL; by default the one you logged in to, or that runs here.")
@click.option("--ready-fd", type=int, hidden=True, help="Where to tell, as a line of JSON, how the start went.")
def run(name: str, url: str | None, ready_fd: int | None) -> None:
    """Run the endpoint NAME in the foreground, until Ctrl-C or SIGTERM; these are its orderly end: it exits with 0."""
    from parsl_globus.errors import ParslGlobusError

    # An outage is told once, by our own log; pika tells of it at each attempt, in several ways.
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    logging.getLogger("parsl_globus.amqp").setLevel(logging.INFO)
    tell = teller(ready_fd)
    try:
        _run(name, url, tell)
    except ParslGlobusError as exc:
        tell({"error": str(exc)})
        raise


def _run(name: str, url: str | None, tell: Callable[[dict[str, Any]], None]) -> None:
    from parsl_globus.endpoint.folder import ManagerLock, find

    with needs_extra("endpoint"):
        from parsl_globus.endpoint.multiuser.manager import Manager
        from parsl_globus.endpoint.multiuser.site import load_site
    from parsl_globus.client.connect import connect
    from parsl_globus.client.rest import ServiceClient

    def ready(endpoint_id: uuid.UUID) -> None:
        click.echo(f"Endpoint '{name}' is registered as {endpoint_id}")
        tell({"endpoint_id": str(endpoint_id)})

    folder = find(name)
    site = load_site(folder)
    with ManagerLock(folder):
        Manager(folder, site, ServiceClient(connect(url)), ready).run()


@endpoint.command("start")
@click.argument("name")
@click.option("--url", help="The service's base URL; by default the one you logged in to, or that runs here.")
@click.option("--timeout", "timeout_s", default=60.0, show_default=True, help="Seconds until it must be registered.")
def start(name: str, url: str | None, timeout_s: float) -> None:
    """Start the endpoint NAME in the background; returns when it is registered, and prints its id."""
    from parsl_globus.endpoint.folder import find
    from parsl_globus.errors import EndpointError

    folder = find(name)
    if folder.manager_pid is not None:
        raise EndpointError(f"Endpoint '{name}' runs already; stop it with 'parsl-globus endpoint stop {name}'.")
    arguments = ["endpoint", "run", name, *(["--url", url] if url else [])]
    process, told = start_process(arguments, folder.log, timeout_s, lambda process: _end_process(folder, process))
    if told is not None and "endpoint_id" in told:
        click.echo(told["endpoint_id"])
        leave_running(process)
        return
    _end_process(folder, process)
    reason = told["error"] if told is not None else why_silent(folder.log, process.returncode, timeout_s, "registered")
    raise EndpointError(f"Endpoint '{name}' did not start: {reason}")


def _end_process(folder: EndpointFolder, process: subprocess.Popen[bytes]) -> None:
    end_process(process)
    _sweep(folder)


@endpoint.command("stop")
@click.argument("name")
def stop(name: str) -> None:
    """Stop the endpoint NAME with all that it started."""
    from parsl_globus.endpoint.folder import find
    from parsl_globus.endpoint.processes import wait_ended

    folder = find(name)
    pid = folder.manager_pid
    if pid is None:
        left = _sweep(folder)
        click.echo(
            f"Endpoint '{name}' was not running" + (f"; ended {left} processes that were left." if left else ".")
        )
        return
    try:
        os.kill(pid, signal.SIGTERM)
        if not wait_ended([pid], STOP_TIMEOUT_S):
            os.kill(pid, signal.SIGKILL)
            wait_ended([pid], 5.0)
    except ProcessLookupError:
        pass  # it ended by itself meanwhile
    _sweep(folder)
    click.echo(f"Endpoint '{name}' is stopped.")


def _sweep(folder: EndpointFolder) -> int:
    from parsl_globus.endpoint.processes import end_marked, tree_mark

    return end_marked(tree_mark(folder.path), grace_s=1.0)


@endpoint.command("list")
@click.option("--json", "as_json", is_flag=True, help="As a JSON array of objects with name, endpoint_id, status.")
def list_endpoints(as_json: bool) -> None:
    """List the endpoints of this machine."""
    from parsl_globus.endpoint.folder import all_folders

    rows = [
        {
            "name": folder.name,
            "endpoint_id": str(folder.endpoint_id) if folder.endpoint_id else None,
            "status": "running" if folder.manager_pid is not None else "stopped",
        }
        for folder in all_folders()
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        click.echo("No endpoint is configured here. Make one with: parsl-globus endpoint configure NAME")
        return
    width = max(len(str(row["name"])) for row in rows)
    for row in rows:
        click.echo(f"{row['name']:<{width}}  {row['status']:<7}  {row['endpoint_id'] or '(never registered)'}")
