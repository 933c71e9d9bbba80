"""`parsl-globus service add-user|add-group|group|token|share|...`: who may use the service.

All of this goes over REST with the caller's own login, so it works from any machine, with any store and any number of
service processes. Whoever started a service for the first time is its first administrator.
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from parsl_globus.client.people import PeopleClient

_F = TypeVar("_F", bound="Callable[..., Any]")
_LIFE_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def _with_url(command: _F) -> _F:
    return click.option(
        "--url", help="The service's base URL; by default the one you logged in to, or that runs here."
    )(command)


def _with_json(command: _F) -> _F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def _client(url: str | None, *, admin: bool) -> PeopleClient:
    from parsl_globus.client.people import PeopleClient

    return PeopleClient(url, admin=admin)


class _Life(click.ParamType):
    """Seconds, or a number with a unit, as in 12h or 30d."""

    name = "life"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", str(value))
        if match is None:
            self.fail(f"'{value}' is no length of time; write it as 90s, 30m, 12h or 30d", param, ctx)
        return float(match[1]) * _LIFE_UNITS_S[match[2] or "s"]


def _table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _write_out(path: Path, content: dict[str, Any]) -> None:
    """A secret to a new file that only its owner can read."""
    from parsl_globus.errors import ConfigError

    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            json.dump(content, stream, indent=1)
            stream.write("\n")
    except OSError as exc:
        raise ConfigError(f"The file can't be made ({exc.strerror}); name a new one.", file=str(path)) from exc


def _check_out(path: Path | None) -> None:
    """Before the secret exists, see that it can be kept."""
    from parsl_globus.errors import ConfigError

    if path is not None and (path.exists() or not path.absolute().parent.is_dir()):
        raise ConfigError("The file is there already, or its folder isn't; name a new one.", file=str(path))


def _give_credentials(client: PeopleClient, made: dict[str, Any], out: Path | None) -> None:
    credentials = {"url": client.url, "client_id": made["client_id"], "client_secret": made["client_secret"]}
    if out is not None:
        _write_out(out, credentials)
        click.echo(
            f"Credentials of '{made['username']}' are in {out}. They log in: parsl-globus login --credentials {out}"
        )
        return
    click.echo(f"client id      {made['client_id']}")
    click.echo(f"client secret  {made['client_secret']}")
    click.echo("The secret is shown this once.", err=True)


# ---- users ----------------------------------------------------------------------------------------------------------


@click.command("add-user")
@click.argument("name")
@click.option("--admin", is_flag=True, help="May manage the service: users, groups, all endpoints and tokens.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the credentials to this new file, mode 0600.")
@_with_url
def add_user(name: str, admin: bool, out: Path | None, url: str | None) -> None:
    """Add the user NAME and print its client id and secret, which can't be shown again."""
    _check_out(out)
    client = _client(url, admin=True)
    _give_credentials(client, client.call("POST", "/v3/admin/users", {"username": name, "admin": admin}), out)


@click.command("reset-secret")
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path), help="Write the credentials to this new file, mode 0600.")
@_with_url
def reset_secret(name: str, out: Path | None, url: str | None) -> None:
    """Give the user NAME new credentials; the old ones, and all its tokens, end."""
    _check_out(out)
    client = _client(url, admin=True)
    _give_credentials(client, client.call("POST", f"/v3/admin/users/{_part(name)}/secret"), out)


@click.command("remove-user")
@click.argument("name")
@_with_url
def remove_user(name: str, url: str | None) -> None:
    """Remove the user NAME with its credentials, tokens, memberships, shares and endpoints."""
    _client(url, admin=True).call("DELETE", f"/v3/admin/users/{_part(name)}")
    click.echo(f"User '{name}' is removed.")


@click.command("users")
@_with_json
@_with_url
def users(as_json: bool, url: str | None) -> None:
    """List all users."""
    found = _client(url, admin=True).call("GET", "/v3/admin/users")["users"]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    _table([(user["username"], "admin" if user["admin"] else "", user["identity_id"]) for user in found])


# ---- groups ---------------------------------------------------------------------------------------------------------


@click.command("add-group")
@click.argument("name")
@_with_url
def add_group(name: str, url: str | None) -> None:
    """Add the group NAME, without members, and print its id."""
    click.echo(_client(url, admin=True).call("POST", "/v3/admin/groups", {"name": name})["group_id"])


@click.command("remove-group")
@click.argument("name")
@_with_url
def remove_group(name: str, url: str | None) -> None:
    """Remove the group NAME; what was shared with it is no more."""
    _client(url, admin=True).call("DELETE", f"/v3/admin/groups/{_part(name)}")
    click.echo(f"Group '{name}' is removed.")


@click.group("group")
def group() -> None:
    """Who is in a group."""


@group.command("add")
@click.argument("group_name", metavar="GROUP")
@click.argument("user")
@_with_url
def add_member(group_name: str, user: str, url: str | None) -> None:
    """Put USER into GROUP."""
    _client(url, admin=True).call("PUT", f"/v3/admin/groups/{_part(group_name)}/members/{_part(user)}")
    click.echo(f"'{user}' is in group '{group_name}'.")


@group.command("remove")
@click.argument("group_name", metavar="GROUP")
@click.argument("user")
@_with_url
def remove_member(group_name: str, user: str, url: str | None) -> None:
    """Take USER out of GROUP."""
    _client(url, admin=True).call("DELETE", f"/v3/admin/groups/{_part(group_name)}/members/{_part(user)}")
    click.echo(f"'{user}' is not in group '{group_name}'.")


@click.command("groups")
@_with_json
@_with_url
def groups(as_json: bool, url: str | None) -> None:
    """List all groups with their members."""
    found = _client(url, admin=True).call("GET", "/v3/admin/groups")["groups"]
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif not found:
        click.echo("There is no group. Make one with: parsl-globus service add-group NAME")
    else:
        _table([(entry["name"], entry["group_id"], ", ".join(entry["members"])) for entry in found])


# ---- tokens ---------------------------------------------------------------------------------------------------------


@click.group("token")
def token() -> None:
    """Bearer tokens: make, list, revoke."""


@token.command("create")
@click.option("--user", help="Whose it is; only administrators make tokens for others. By default yours.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    default=("compute",),
    show_default=True,
    type=click.Choice(["compute", "openid", "blobs", "metrics", "admin"]),
    help="What it is good for; may be given several times.",
)
@click.option("--life", "life_s", type=_Life(), help="How long, as in 12h or 30d; by default as after a login.")
@click.option("--out", type=click.Path(path_type=Path), help="Write it to this new file, mode 0600.")
@_with_url
def create_token(
    user: str | None, scopes: tuple[str, ...], life_s: float | None, out: Path | None, url: str | None
) -> None:
    """Make a token and print it; it can't be shown again."""
    _check_out(out)
    client = _client(url, admin=user is not None or not {"admin", "metrics"}.isdisjoint(scopes))
    wanted = {"user": user, "scopes": list(scopes), "life_s": life_s}
    made = client.call("POST", "/v3/tokens", {key: value for key, value in wanted.items() if value is not None})
    if out is not None:
        _write_out(out, {"url": client.url, "token": made["access_token"]})
        click.echo(f"Token {made['token_id']} is in {out}. It logs in: parsl-globus login --credentials {out}")
        return
    click.echo(made["access_token"])
    click.echo(
        f"Token {made['token_id']} of '{made['user']}', until {_time(made['expires_s'])}; shown this once.", err=True
    )


@token.command("list")
@click.option("--user", help="Whose; only administrators see those of others. By default yours.")
@click.option("--all", "everybody", is_flag=True, help="Of all users.")
@_with_json
@_with_url
def list_tokens(user: str | None, everybody: bool, as_json: bool, url: str | None) -> None:
    """List tokens, without what they consist of."""
    query = {"user": user} if user else {"all": "true"} if everybody else {}
    found = _client(url, admin=bool(query)).call("GET", "/v3/tokens", query=query)["tokens"]
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif not found:
        click.echo("There is no token.")
    else:
        _table(
            [
                (
                    entry["token_id"],
                    entry["user"],
                    " ".join(re.sub(r".*[:/]", "", scope) for scope in entry["scopes"]),
                    "login" if entry["login"] else "made",
                    f"until {_time(entry['expires_s'])}",
                )
                for entry in found
            ]
        )


@token.command("revoke")
@click.argument("token_id", metavar="ID")
@click.option("--admin", is_flag=True, help="Another user's, as an administrator.")
@_with_url
def revoke_token(token_id: str, admin: bool, url: str | None) -> None:
    """Revoke the token ID; within 2 seconds no process of the service takes it any more."""
    _client(url, admin=admin).call("DELETE", f"/v3/tokens/{_part(token_id)}")
    click.echo(f"Token {token_id} is revoked.")


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


# ---- shares ---------------------------------------------------------------------------------------------------------


@click.command("share")
@click.argument("endpoint")
@click.option("--with", "grantee", required=True, metavar="USER|group:GROUP|everyone", help="Who may use it.")
@_with_url
def share(endpoint: str, grantee: str, url: str | None) -> None:
    """Let others use the endpoint with the id or the name ENDPOINT, which is yours.

    Their tasks run in the account that the endpoint runs in, unless it is a multi-user endpoint.
    """
    _client(url, admin=False).call("PUT", f"/v3/endpoints/{_endpoint_id(endpoint)}/shares/{_grantee(grantee)}")
    click.echo(f"Endpoint {endpoint} is shared with {grantee}.")


@click.command("unshare")
@click.argument("endpoint")
@click.option("--with", "grantee", required=True, metavar="USER|group:GROUP|everyone", help="Who may not use it.")
@_with_url
def unshare(endpoint: str, grantee: str, url: str | None) -> None:
    """End a share of the endpoint ENDPOINT; tasks that were accepted still run."""
    _client(url, admin=False).call("DELETE", f"/v3/endpoints/{_endpoint_id(endpoint)}/shares/{_grantee(grantee)}")
    click.echo(f"Endpoint {endpoint} is not shared with {grantee}.")


@click.command("shares")
@click.argument("endpoint")
@_with_json
@_with_url
def shares(endpoint: str, as_json: bool, url: str | None) -> None:
    """List with whom the endpoint ENDPOINT is shared."""
    found = _client(url, admin=False).call("GET", f"/v3/endpoints/{_endpoint_id(endpoint)}/shares")["shares"]
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif not found:
        click.echo("It is shared with nobody.")
    else:
        _table([(entry["kind"], entry["name"]) for entry in found])


def _grantee(text: str) -> str:
    if text == "everyone":
        return "everyone/everyone"
    kind, colon, name = text.partition(":")
    if colon and kind in ("user", "group"):
        return f"{kind}/{_part(name)}"
    return f"user/{_part(text)}"


def _endpoint_id(text: str) -> str:
    """An endpoint's id, or the one under which an endpoint of this machine is registered."""
    import uuid

    from parsl_globus.endpoint.folder import find
    from parsl_globus.errors import EndpointNotFound

    try:
        return str(uuid.UUID(text))
    except ValueError:
        endpoint_id = find(text).endpoint_id
    if endpoint_id is None:
        raise EndpointNotFound(endpoint=text, hint="It was never registered; start it first.")
    return str(endpoint_id)


def _part(name: str) -> str:
    from urllib.parse import quote

    return quote(name, safe="") or "-"


COMMANDS: tuple[click.Command, ...] = (
    add_user,
    reset_secret,
    remove_user,
    users,
    add_group,
    remove_group,
    group,
    groups,
    token,
    share,
    unshare,
    shares,
)
