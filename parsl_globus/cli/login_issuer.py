"""`parsl-globus login --oidc`: in a browser, wherever it runs; the token comes back to this terminal."""

from __future__ import annotations

import sys
from pathlib import Path

import click


def issuer_of(url: str, ca: Path | None) -> str | None:
    """The issuer that the service at `url` trusts, if any."""
    from parsl_globus.client.issuer_login import IssuerLogin

    return IssuerLogin(url, _text(ca)).issuer()


def log_in_at_issuer(url: str, ca: Path | None) -> str:
    """Log in, telling on stderr what is to be done; returns a token of the service at `url`.

    Raises:
        ConfigError: It trusts no issuer.
        RequestRefused: The login was not approved, or the user may not come in.
    """
    from parsl_globus.client.issuer_login import IssuerLogin
    from parsl_globus.errors import ConfigError

    login = IssuerLogin(url, _text(ca))
    if login.issuer() is None:
        raise ConfigError(
            f"The service at {url} knows no OpenID Connect issuer. Log in with --client-id, --token or --credentials."
        )
    device = login.start_device()
    if device is None:
        click.echo(
            f"Open this address in a browser, log in, and bring back the code that it shows:\n{login.page}", err=True
        )
        return login.redeem(_code())
    click.echo(f"Open {device.address} in a browser and enter the code {device.user_code}", err=True)
    if device.whole_address is not None:
        click.echo(f"or open {device.whole_address}", err=True)
    return login.wait_device(device)


def _code() -> str:
    text = str(click.prompt("Code", err=True)) if sys.stdin.isatty() else sys.stdin.readline()
    if not text.strip():
        raise click.UsageError("There is no code on stdin.")
    return text.strip()


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())
