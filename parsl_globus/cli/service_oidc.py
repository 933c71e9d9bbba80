"""Options of `parsl-globus service run` for logins at an OpenID Connect issuer, and the command that binds them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from parsl_globus.service.config import OidcConfig

_F = TypeVar("_F", bound=Callable[..., Any])

_AUTO_CREATE = "auto-create"

_OPTIONS = (
    click.option(
        "--oidc-issuer",
        metavar="URL",
        help="Let people log in at this OpenID Connect issuer; exactly as it writes its URL itself.",
    ),
    click.option("--oidc-client-id", metavar="ID", help="The id of this service at the issuer."),
    click.option(
        "--oidc-client-secret-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="File with the secret that goes with it, readable for its owner only; none if the issuer gave none.",
    ),
    click.option(
        "--oidc-username-claim",
        metavar="CLAIM",
        default="preferred_username",
        show_default=True,
        help="What a user's name is taken from at the first login; take one that users can't change.",
    ),
    click.option(
        "--oidc-allow",
        type=click.Choice(["only-known", _AUTO_CREATE]),
        default="only-known",
        show_default=True,
        help="Who may come in: users that were added here under their name at the issuer, or everyone it vouches for.",
    ),
)


def oidc_options(command: _F) -> _F:
    """Add the options to a command, as one parameter of each name."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def oidc_config(
    oidc_issuer: str | None,
    oidc_client_id: str | None,
    oidc_client_secret_file: Path | None,
    oidc_username_claim: str,
    oidc_allow: str,
) -> OidcConfig | None:
    """What they say; `None` without an issuer.

    Raises:
        UsageError: One is missing.
        ConfigError: The secret's file can't be used.
    """
    from parsl_globus.service.config import OidcConfig

    if oidc_issuer is None:
        if oidc_client_id is not None or oidc_client_secret_file is not None:
            raise click.UsageError("The other options --oidc-... go with --oidc-issuer.")
        return None
    if oidc_client_id is None:
        raise click.UsageError("--oidc-issuer needs --oidc-client-id, too.")
    return OidcConfig(
        issuer=oidc_issuer,
        client_id=oidc_client_id,
        client_secret=None if oidc_client_secret_file is None else _secret(oidc_client_secret_file),
        username_claim=oidc_username_claim,
        create_users=oidc_allow == _AUTO_CREATE,
    )


def _secret(path: Path) -> str:
    from parsl_globus.cli.login import read_private
    from parsl_globus.errors import ConfigError

    secret = read_private(path).strip()
    if not secret:
        raise ConfigError("There is no secret in this file.", file=str(path))
    return secret


@click.command("set-login")
@click.argument("name")
@click.option("--subject", help="Who the user is at the issuer: its 'sub', which a refused login names.")
@click.option("--none", "no_login", is_flag=True, help="Let the user log in at no issuer any more.")
@click.option("--url", help="The service's base URL; by default the one you logged in to, or that runs here.")
def set_login(name: str, subject: str | None, no_login: bool, url: str | None) -> None:
    """Say as whom the user NAME logs in at the OpenID Connect issuer, instead of all that was known.

    Who logged in there as this user before is logged out: sessions of the page and tokens end, but for those that were
    given for a client's secret.
    """
    from urllib.parse import quote

    from parsl_globus.client.people import PeopleClient

    if (subject is None) == (not no_login):
        raise click.UsageError("Give either --subject or --none.")
    client = PeopleClient(url, admin=True)
    path = f"/v3/admin/users/{quote(name, safe='')}/login"
    if subject is None:
        client.call("DELETE", path)
        click.echo(f"User '{name}' logs in at no issuer any more.")
    else:
        client.call("PUT", path, {"subject": subject})
        click.echo(f"User '{name}' logs in at the issuer as '{subject}' from now on.")


COMMANDS = (set_login,)
