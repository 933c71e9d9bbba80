"""`parsl-globus service`: run the self-hosted service, ask for it, and let the public SDK find it."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from parsl_globus.cli.daemon import teller
from parsl_globus.cli.service_blobs import blob_options
from parsl_globus.cli.service_oidc import oidc_config, oidc_options

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from parsl_globus.client.home import ServiceRecord
    from parsl_globus.service.config import ServiceConfig
    from parsl_globus.service.server import ServiceAddress

#: The only port at which the public SDK looks for a service of one's own (PROTOCOL.md section 2).
_PUBLIC_SDK_PORT = 5000
_STATUS_TIMEOUT_S = 5.0


_DATABASE = click.option(
    "--database",
    metavar="URL",
    envvar="PARSL_GLOBUS_DATABASE_URL",
    help="PostgreSQL instead of a SQLite file: postgresql://USER:PASSWORD@HOST/NAME. Others on this machine can see "
    "the password here; put the URL into PARSL_GLOBUS_DATABASE_URL or a --database-file instead.",
)
_DATABASE_FILE = click.option(
    "--database-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File that holds the URL for --database, readable for its owner only.",
)


class _ServiceGroup(click.Group):
    """The commands here, and those of the modules that belong to it."""

    def _complete(self) -> None:
        from parsl_globus.cli import service_daemon, service_oidc, service_people

        for module in (service_daemon, service_people, service_oidc):
            for command in module.COMMANDS:
                self.add_command(command)

    def list_commands(self, ctx: click.Context) -> list[str]:
        self._complete()
        return super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        self._complete()
        return super().get_command(ctx, cmd_name)


@click.group("service", cls=_ServiceGroup)
def service() -> None:
    """Run the service that endpoints and workflows meet at, and manage who may use it."""


@service.command("run")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=5000, show_default=True, type=click.IntRange(0, 65535), help="REST; 0: a free one.")
@click.option(
    "--amqp-port", default=5672, show_default=True, type=click.IntRange(0, 65535), help="AMQP; 0: a free one."
)
@click.option(
    "--broker",
    metavar="URL",
    envvar="PARSL_GLOBUS_BROKER_URL",
    help="RabbitMQ instead of the embedded broker: amqp://USER:PASSWORD@HOST:PORT/VHOST. Others on this machine can "
    "see the password here; put the URL into PARSL_GLOBUS_BROKER_URL or a --broker-file instead.",
)
@click.option(
    "--broker-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File that holds the URL for --broker, readable for its owner only.",
)
@click.option(
    "--broker-public-url",
    metavar="URL",
    help="How endpoints and clients reach RabbitMQ, without a login, if not as the service does.",
)
@_DATABASE
@_DATABASE_FILE
@click.option("--migrate", is_flag=True, help="Bring the database's tables up to date first; see 'service migrate'.")
@click.option(
    "--result-life",
    "result_life_days",
    metavar="DAYS",
    default=14.0,
    show_default=True,
    type=click.FloatRange(min=0.0, min_open=True),
    help="How long ended tasks are kept, with their results.",
)
@blob_options
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder for the database and keys; by default 'service' in PARSL_GLOBUS_HOME.",
)
@click.option("--public-only", is_flag=True, help="Speak the public protocol only, without our extensions.")
@click.option(
    "--tls-cert",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Certificate chain (PEM): REST and the embedded broker speak TLS. Needed to listen beyond loopback.",
)
@click.option(
    "--tls-key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The certificate's private key (PEM), readable for its owner only.",
)
@click.option(
    "--behind-proxy",
    is_flag=True,
    help="A proxy speaks TLS for the service; X-Forwarded-* of one on this machine is believed.",
)
@click.option(
    "--public-host", metavar="NAME", help="Name under which others reach the service, as its certificate says."
)
@click.option("--insecure", is_flag=True, help="Listen beyond loopback although nothing is encrypted.")
@click.option(
    "--rate-limit",
    default=0,
    metavar="REQUESTS",
    type=click.IntRange(0),
    help="Most requests of one identity in each window; without it, any number.",
)
@click.option(
    "--rate-window",
    "rate_window_s",
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    type=click.FloatRange(0, min_open=True),
    help="Length of a window.",
)
@oidc_options
@click.option("--full-sync", is_flag=True, help="Wait for the disk at every commit: survives a power cut, slower.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="What to log on stderr; by default what -v says.",
)
@click.option("--ready-fd", type=int, hidden=True, help="Where to tell, as a line of JSON, how the start went.")
def run(
    host: str,
    port: int,
    amqp_port: int,
    broker: str | None,
    broker_file: Path | None,
    broker_public_url: str | None,
    database: str | None,
    database_file: Path | None,
    migrate: bool,
    result_life_days: float,
    blob_limit_mib: int,
    blob_quota_mib: int,
    blob_count: int,
    blob_life_days: float,
    data: Path | None,
    public_only: bool,
    tls_cert: Path | None,
    tls_key: Path | None,
    behind_proxy: bool,
    public_host: str | None,
    insecure: bool,
    rate_limit: int,
    rate_window_s: float,
    full_sync: bool,
    log_level: str | None,
    ready_fd: int | None,
    **oidc: Any,
) -> None:
    """Run the service in the foreground, until Ctrl-C or SIGTERM; these are its orderly end, so it exits with 0."""
    from parsl_globus.cli.extras import needs_extra
    from parsl_globus.client.home import home

    with needs_extra("service"):
        from parsl_globus.service.config import ServiceConfig
        from parsl_globus.service.server import run_service
    # An outage is told once, by our own log; pika tells of it at each attempt, in several ways.
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    if log_level is not None:
        logging.getLogger("parsl_globus.service").setLevel(log_level.upper())
    config = ServiceConfig(
        data_dir=(data or home() / "service").expanduser().absolute(),
        host=host,
        port=port,
        amqp_port=amqp_port,
        broker_url=_secret_url(broker_file, "broker") if broker_file else broker or None,
        database_url=_secret_url(database_file, "database") if database_file else database or None,
        migrate=migrate,
        result_life_s=result_life_days * 86_400,
        blob_limit_bytes=blob_limit_mib * 1024**2,
        blob_quota_bytes=blob_quota_mib * 1024**2,
        blob_quota_count=blob_count,
        blob_life_s=blob_life_days * 86_400,
        broker_public_url=broker_public_url,
        public_only=public_only,
        tls_cert=tls_cert,
        tls_key=tls_key,
        behind_proxy=behind_proxy,
        public_host=public_host,
        insecure=insecure,
        rate_limit_requests=rate_limit,
        rate_limit_window_s=rate_window_s,
        full_sync=full_sync,
        oidc=oidc_config(**oidc),
    )
    _serve(config, run_service, teller(ready_fd))


def _serve(
    config: ServiceConfig,
    run_service: Callable[[ServiceConfig, Callable[[ServiceAddress], None]], None],
    tell: Callable[[dict[str, Any]], None],
) -> None:
    import os

    from parsl_globus.client.home import forget_service
    from parsl_globus.errors import ParslGlobusError

    def ready(address: ServiceAddress) -> None:
        _ready(address)
        tell({"url": address.url, "amqp_port": address.amqp_port, "pid": address.pid})

    try:
        run_service(config, ready)
    except ParslGlobusError as exc:
        tell({"error": str(exc)})
        raise
    finally:
        forget_service(os.getpid())


def _secret_url(file: Path, what: str) -> str:
    """A URL with a password, out of a file that others can't read."""
    from parsl_globus.errors import ConfigError

    try:
        if file.stat().st_mode & 0o077:
            raise ConfigError(
                f"Others on this machine can read the {what}'s password here. Change that: chmod 600 {file}",
                file=str(file),
            )
        url = file.read_text().strip()
    except (OSError, ValueError) as exc:
        raise ConfigError(f"The {what}'s URL can't be read. Is it a text file of yours?", file=str(file)) from exc
    if not url:
        raise ConfigError(f"There is no URL of a {what} in this file.", file=str(file))
    return url


@service.command("migrate")
@_DATABASE
@_DATABASE_FILE
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder of a service without --database; by default 'service' in PARSL_GLOBUS_HOME.",
)
def migrate(database: str | None, database_file: Path | None, data: Path | None) -> None:
    """Bring the database's tables up to date, while no service runs on it.

    Nothing is lost, and a failure changes nothing. Without --database it is the SQLite file in --data, which 'service
    run' brings up to date by itself.
    """
    from parsl_globus.cli.extras import needs_extra
    from parsl_globus.client.home import home

    with needs_extra("service"):
        from parsl_globus.service.store.choose import migrate_store
    url = _secret_url(database_file, "database") if database_file else database or None
    folder = (data or home() / "service").expanduser().absolute()
    before, after = migrate_store(folder, url)
    if before == after:
        click.echo(f"the database is up to date (schema {after})")
    else:
        click.echo(f"the database was brought from {f'schema {before}' if before else 'nothing'} to schema {after}")


def _ready(address: ServiceAddress) -> None:
    from parsl_globus.client.home import Credentials, ServiceRecord, write_credentials, write_service
    from parsl_globus.version import __version__

    owner = address.owner
    write_credentials(address.url, Credentials(str(owner.client_id), owner.client_secret))
    write_service(
        ServiceRecord(
            address.url, address.amqp_port, address.pid, str(address.data_dir), address.public_only, __version__
        )
    )
    click.echo(f"service ready at {address.url} (AMQP port {address.amqp_port})")
    if sys.stdout.isatty():  # into no file and no journal
        click.echo(f"its page, good for one login within minutes: {address.url}{address.login_path}")


@service.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(as_json: bool) -> None:
    """Say whether the service answers; exit code 0 only if it does."""
    record = _record()
    problem = _problem(record)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "status": "offline" if problem else "online",
                    "url": record.url,
                    "port": _port(record.url),
                    "amqp_port": record.amqp_port,
                    "pid": record.pid,
                    "data_dir": record.data_dir,
                    "public_only": record.public_only,
                    "version": record.version,
                }
            )
        )
    if problem:
        from parsl_globus.errors import ServiceUnreachable

        raise ServiceUnreachable(url=record.url, detail=problem)
    if not as_json:
        click.echo(f"service answers at {record.url} (AMQP port {record.amqp_port}, process {record.pid})")
        click.echo(f"data in {record.data_dir}")
        click.echo(f"page at {record.url}/ ('parsl-globus service page' prints a link that logs you in)")


@service.command("page")
def page() -> None:
    """Print a link to the service's page that logs you in: once, and within minutes."""
    from parsl_globus.cli.login_link import new_login_link

    click.echo(new_login_link(_record().url))


@service.command("env")
def env() -> None:
    """Print what lets the public SDK and endpoint use this service.

    \b
    Use it as:
      eval "$(parsl-globus service env)"
    """  # noqa: D301 - \b is for click: keep these lines as they are
    from parsl_globus.client.home import read_credentials
    from parsl_globus.errors import ConfigError

    record = _record()
    port = _port(record.url)
    credentials = read_credentials(record.url)
    if credentials is None:
        raise ConfigError(
            f"There are no credentials for the service at {record.url} here. "
            "Start it again as this user: parsl-globus service run"
        )
    for name, value in (
        ("GLOBUS_SDK_ENVIRONMENT", "local"),
        ("GLOBUS_SDK_SERVICE_URL_AUTH", f"http://localhost:{port}/"),
        ("GLOBUS_COMPUTE_CLIENT_ID", credentials.client_id),
        ("GLOBUS_COMPUTE_CLIENT_SECRET", credentials.client_secret),
    ):
        click.echo(f"export {name}={shlex.quote(value)}")
    if port != _PUBLIC_SDK_PORT:
        click.echo(
            f"# The public SDK reaches a service on port {_PUBLIC_SDK_PORT} only, but this one is on port {port}: "
            f"start it with --port {_PUBLIC_SDK_PORT}, or use parsl_globus.connect(), which works with any port.",
            err=True,
        )


def _record() -> ServiceRecord:
    from parsl_globus.client.home import read_service
    from parsl_globus.errors import ServiceUnreachable

    record = read_service()
    if record is None:
        raise ServiceUnreachable(url=None)
    return record


def _problem(record: ServiceRecord) -> str:
    """Why the service does not answer; empty when it does."""
    import urllib.error
    import urllib.request

    # Past any proxy of the environment: the service is on this machine.
    context = _tls(record.url)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(f"{record.url}/v2/version?service=all", timeout=_STATUS_TIMEOUT_S) as response:
            document = json.loads(response.read())
    except (OSError, ValueError) as exc:
        reason = exc.reason if isinstance(exc, urllib.error.URLError) else exc
        return str(getattr(reason, "strerror", None) or reason)
    return "" if "min_sdk_version" in document else "something else answers there"


def _tls(url: str) -> ssl.SSLContext:
    import os
    import ssl

    from parsl_globus.client.trust import ca_file

    return ssl.create_default_context(cafile=ca_file(url) or os.environ.get("REQUESTS_CA_BUNDLE") or None)


def _port(url: str) -> int:
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    return parts.port or (443 if parts.scheme == "https" else 80)
