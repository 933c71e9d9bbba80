"""`parsl-globus endpoint delete`: stops an endpoint, deregisters it, and removes its folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from parsl_globus.cli.extras import needs_extra

if TYPE_CHECKING:
    from parsl_globus.client.rest import ServiceClient
    from parsl_globus.endpoint.folder import EndpointFolder
    from parsl_globus.endpoint.multiuser.account_files import Told


@click.command("delete")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.option("--force", is_flag=True, help="Also with tasks outstanding, which fail, or if the service is away.")
def delete(name: str, yes: bool, force: bool) -> None:
    """Stop the endpoint NAME, have the service forget it, and remove its folder with its configuration and logs."""
    with needs_extra("endpoint"):
        from parsl_globus.endpoint.folder import find
    from parsl_globus.cli.endpoint import stop
    from parsl_globus.errors import EndpointError

    folder = find(name)
    client = _client(folder, force=force)
    try:
        count = _outstanding(folder, client, force=force)
        if count and not force:
            raise EndpointError(
                f"Endpoint '{name}' has {count} tasks outstanding. Let them end, or use --force: they fail then."
            )
        if not yes:
            fails = f"; its {count} outstanding tasks fail" if count else ""
            click.confirm(f"Delete the endpoint '{name}' with all in {folder.path}{fails}?", abort=True)
        assert stop.callback is not None
        stop.callback(name)
        _check_jobs(folder, force=force)
        if client is not None:
            _deregister(folder, client)
    finally:
        if client is not None:
            client.close()
    elsewhere = _elsewhere(folder)
    shutil.rmtree(folder.path)
    click.echo(f"Endpoint '{name}' is deleted.")
    if elsewhere:
        click.echo("What its user endpoints and tasks have written in other accounts stays there:")
        click.echo("\n".join(f"  {directory}" for directory in elsewhere))


def _elsewhere(folder: EndpointFolder) -> list[str]:
    """The folders of user endpoints in other accounts, whose tasks have worked there."""
    records = (folder.account_record(path.name) for path in folder.user_endpoints())
    return [str(Path(record["log"]).parent) for record in records if record is not None]


def _look(folder: EndpointFolder, path: Path, *, force: bool) -> Told:
    """What a user endpoint has on its disk, in whichever account."""
    from parsl_globus.endpoint.multiuser.account_files import Told, ask, look
    from parsl_globus.errors import EndpointError

    record = folder.account_record(path.name)
    try:
        return look(path, jobs=True) if record is None else ask(record, jobs=True)
    except EndpointError as exc:
        if not force:
            raise EndpointError(f"{exc} Use --force to delete the endpoint all the same.") from exc
        return Told()


def _client(folder: EndpointFolder, *, force: bool) -> ServiceClient | None:
    """The service at which it is registered; `None` if there is nothing to deregister."""
    from parsl_globus.client.connect import connect
    from parsl_globus.client.rest import ServiceClient
    from parsl_globus.errors import EndpointError, NotAuthorized, ServiceUnreachable

    if folder.endpoint_id is None:
        return None
    try:
        client = ServiceClient(connect(folder.service_url), max_retries=1)
        client.version()
    except (ServiceUnreachable, NotAuthorized) as exc:
        if not force:
            raise EndpointError(
                f"Endpoint '{folder.name}' can't be deregistered: {exc} Use --force to delete it only here."
            ) from exc
        click.echo(f"parsl-globus: Endpoint {folder.endpoint_id} stays registered: {exc}", err=True)
        return None
    return client


def _outstanding(folder: EndpointFolder, client: ServiceClient | None, *, force: bool) -> int:
    """Tasks and unconfirmed results on disk, or what the service counts, if that is more."""
    from parsl_globus.errors import DecodeError, ServiceError

    found = [_look(folder, path, force=force) for path in folder.user_endpoints()]
    on_disk = sum(told.tasks + told.results for told in found)
    if client is None or folder.endpoint_id is None:
        return on_disk
    try:
        details = client.endpoint_status(folder.endpoint_id).get("details") or {}
        counts = details["parsl_globus"]["tasks"]
        return max(on_disk, int(counts["waiting"]) + int(counts["running"]))
    except (ServiceError, DecodeError, KeyError, TypeError, ValueError):
        return on_disk  # it doesn't know the endpoint any more, or is another service and doesn't say


def _check_jobs(folder: EndpointFolder, *, force: bool) -> None:
    """See that no record is lost of jobs that a killed user endpoint has left on the scheduler."""
    from parsl_globus.errors import EndpointError

    for path in folder.user_endpoints():
        jobs = _look(folder, path, force=force).jobs
        if jobs and not force:
            raise EndpointError(
                f"Jobs of a killed user endpoint may still run: {', '.join(jobs)}. Cancel them at the "
                "scheduler, then use --force."
            )


def _deregister(folder: EndpointFolder, client: ServiceClient) -> None:
    from parsl_globus.errors import RequestRefused

    assert folder.endpoint_id is not None
    try:
        client.delete_endpoint(folder.endpoint_id)
    except RequestRefused as exc:
        if exc.http_status != 404:  # else it is forgotten already
            raise
