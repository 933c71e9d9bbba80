"""`parsl-globus login|logout|whoami`: which service is meant, and as whom."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from parsl_globus.client.home import Credentials


@click.command("login")
@click.option("--url", help="The service's base URL, as in https://lab.example.org.")
@click.option("--client-id", help="Your client id; the secret is asked for, or read from stdin if that is no terminal.")
@click.option(
    "--client-secret-file", type=click.Path(dir_okay=False, path_type=Path), help="A file with the secret instead."
)
@click.option("--token", "with_token", is_flag=True, help="Log in with a token; asked for, or read from stdin.")
@click.option(
    "--credentials",
    "credentials_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A file that 'service add-user --out' or 'service token create --out' has written.",
)
@click.option("--oidc", is_flag=True, help="Log in where the service says, in a browser; the default if it says so.")
@click.option("--ca", type=click.Path(dir_okay=False, path_type=Path), help="CA certificates (PEM) of the service.")
def login(
    url: str | None,
    client_id: str | None,
    client_secret_file: Path | None,
    with_token: bool,
    credentials_file: Path | None,
    oidc: bool,
    ca: Path | None,
) -> None:
    """Log in to a self-hosted service; from then on it is the one that is meant when none is named.

    \b
    Examples:
      parsl-globus login --credentials ada.json
      parsl-globus login --url https://lab.example.org --client-id 5c0d...
      parsl-globus login --url https://lab.example.org --token < token.txt
      parsl-globus login --url https://lab.example.org --oidc
    """  # noqa: D301 - \b is for click: keep these lines as they are
    from dataclasses import replace

    from parsl_globus.client.connect import service_url
    from parsl_globus.client.home import Credentials

    if sum((client_id is not None, with_token, credentials_file is not None, oidc)) > 1:
        raise click.UsageError("Give only one of --client-id, --token, --credentials and --oidc.")
    if credentials_file is not None:
        known = _credentials_file(credentials_file)
        url = url or known.get("url")
        credentials = Credentials(
            client_id=known.get("client_id", ""), client_secret=known.get("client_secret", ""), token=known.get("token")
        )
        _check_complete(credentials, credentials_file)
    elif with_token:
        credentials = Credentials(token=_secret("Token"))
    elif oidc or (client_id is None and client_secret_file is None and _offers_issuer(url, ca)):
        from parsl_globus.cli.login_issuer import log_in_at_issuer

        credentials = Credentials(token=log_in_at_issuer(service_url(url), ca))
    else:
        client_id = client_id or _ask("Client id")
        secret = _secret_file(client_secret_file) if client_secret_file else _secret("Client secret")
        credentials = Credentials(client_id=client_id, client_secret=secret)
    if ca is not None:
        credentials = replace(credentials, ca_file=str(ca.absolute()))
    _log_in(service_url(url), credentials)


def _offers_issuer(url: str | None, ca: Path | None) -> bool:
    """Whether whoever sits at this terminal is better asked by an issuer than for a secret."""
    from parsl_globus.cli.login_issuer import issuer_of
    from parsl_globus.client.connect import service_url

    return sys.stdin.isatty() and issuer_of(service_url(url), ca) is not None


def _log_in(url: str, credentials: Credentials) -> None:
    from parsl_globus.client.home import (
        forget_credentials,
        read_credentials,
        write_credentials,
        write_login,
    )

    before = read_credentials(url)
    # Kept first: the CA certificates are looked up there.
    write_credentials(url, credentials)
    try:
        about = _about(url, credentials)
    except BaseException:
        if before is None:
            forget_credentials(url)
        else:
            write_credentials(url, before)
        raise
    write_login(url)
    click.echo(f"Logged in to {url} as {about['username']}.")


def _about(url: str, credentials: Credentials | None = None) -> dict[str, Any]:
    """Who the service says the caller is."""
    from parsl_globus.client.people import PeopleClient
    from parsl_globus.errors import NotAuthorized, RequestRefused

    client = PeopleClient(url, credentials=credentials)
    try:
        return client.call("GET", "/v3/me")
    except NotAuthorized:
        raise
    except RequestRefused as exc:
        if exc.http_status != 404:
            raise
    # A service that speaks the public protocol only.
    info = client.call("GET", "/v2/oauth2/userinfo")
    return {"identity_id": info.get("sub"), "username": info.get("preferred_username")}


@click.command("logout")
@click.option("--url", help="The service's base URL; by default the one you logged in to.")
def logout(url: str | None) -> None:
    """Forget how to log in to a service; its tokens end by themselves, or with 'service token revoke'."""
    from parsl_globus.client.connect import service_url
    from parsl_globus.client.home import forget_credentials, forget_login, read_login

    current = read_login()
    chosen = service_url(url or current)
    forgotten = forget_credentials(chosen)
    if current is not None and current.rstrip("/") == chosen:
        forget_login()
    click.echo(f"Logged out of {chosen}." if forgotten else f"There was no login for {chosen} here.")


@click.command("whoami")
@click.option("--url", help="The service's base URL; by default the one you logged in to, or that runs here.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def whoami(url: str | None, as_json: bool) -> None:
    """Say who you are for the service, and in which groups."""
    from parsl_globus.client.connect import service_url

    chosen = service_url(url)
    about = _about(chosen)
    if as_json:
        click.echo(json.dumps({"url": chosen, **about}, indent=2))
        return
    role = ", an administrator" if about.get("admin") else ""
    click.echo(f"{about['username']}{role} ({about['identity_id']}) at {chosen}")
    for group in about.get("groups", ()):
        click.echo(f"in group {group['name']} ({group['group_id']})")


# ---- secrets come from terminals, stdin and files, never from the command line, which others can see ----------------


def _ask(what: str) -> str:
    if not sys.stdin.isatty():
        raise click.UsageError("Give --client-id, --token or --credentials.")
    return str(click.prompt(what)).strip()


def _secret(what: str) -> str:
    text = str(click.prompt(what, hide_input=True)) if sys.stdin.isatty() else sys.stdin.readline()
    if not text.strip():
        raise click.UsageError(f"There is no {what.lower()} on stdin.")
    return text.strip()


def _secret_file(path: Path) -> str:
    text = read_private(path).strip()
    if not text:
        raise click.UsageError(f"There is no secret in {path}.")
    return text


def _credentials_file(path: Path) -> dict[str, Any]:
    from parsl_globus.errors import ConfigError

    try:
        document = json.loads(read_private(path))
    except ValueError as exc:
        raise ConfigError("The file holds no credentials as JSON.", file=str(path)) from exc
    if not isinstance(document, dict) or not all(isinstance(value, str) for value in document.values()):
        raise ConfigError("The file holds no credentials.", file=str(path))
    return document


def _check_complete(credentials: Credentials, path: Path) -> None:
    from parsl_globus.errors import ConfigError

    if not credentials.token and not (credentials.client_id and credentials.client_secret):
        raise ConfigError("The file holds neither a token nor a client's id and secret.", file=str(path))


def read_private(path: Path) -> str:
    """A secret's file.

    Raises:
        ConfigError: Others can read it, or it can't be read.
    """
    from parsl_globus.errors import ConfigError

    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"Others on this machine can read it. Change that: chmod 600 {path}", file=str(path))
        return path.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is no text"
        raise ConfigError(f"The file can't be read ({reason}).", file=str(path)) from exc
