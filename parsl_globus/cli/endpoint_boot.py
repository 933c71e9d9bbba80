"""`parsl-globus endpoint enable-on-boot`: a systemd unit for an endpoint."""

from __future__ import annotations

import getpass
import os
import sys
from typing import TYPE_CHECKING

import click

from parsl_globus.cli.extras import needs_extra

if TYPE_CHECKING:
    from pathlib import Path

    from parsl_globus.endpoint.folder import EndpointFolder

#: Taken over from the shell in which the unit is made: how the endpoint finds its commands and its service.
_VARIABLES = ("PATH", "PARSL_GLOBUS_HOME", "PARSL_GLOBUS_SERVICE_URL", "PARSL_GLOBUS_CA_FILE")

_UNIT = """\
[Unit]
Description=parsl-globus endpoint {name}
Wants=network-online.target
After=network-online.target

[Service]
Type=exec
{user}{environment}
ExecStart={command}
StandardOutput=append:{log}
StandardError=append:{log}
UMask=0077
# The manager ends what it has started, in order; what is left then is killed.
KillMode=mixed
TimeoutStopSec=60
Restart=on-failure
RestartSec=10

[Install]
WantedBy={target}
"""


@click.command("enable-on-boot")
@click.argument("name")
@click.option("--system", is_flag=True, help="For the machine's systemd, instead of the user's own; as root always.")
def enable_on_boot(name: str, system: bool) -> None:
    """Print a systemd unit that starts the endpoint NAME with the machine; nothing is changed."""
    with needs_extra("endpoint"):
        from parsl_globus.endpoint.folder import find

    folder = find(name)
    system = system or os.geteuid() == 0
    click.echo(_unit(folder, system=system), nl=False)
    click.echo(_advice(f"parsl-globus-{name}.service", system=system), err=True)


def _unit(folder: EndpointFolder, *, system: bool) -> str:
    from parsl_globus.client.home import home

    variables = {name: value for name in _VARIABLES if (value := os.environ.get(name))}
    variables["PARSL_GLOBUS_HOME"] = str(home())
    environment = "\n".join(f"Environment={_quoted(f'{name}={value}')}" for name, value in variables.items())
    arguments = [sys.executable, "-m", "parsl_globus.cli", "-v", "endpoint", "run", folder.name]
    return _UNIT.format(
        name=folder.name,
        user=f"User={getpass.getuser()}\n" if system and os.geteuid() != 0 else "",
        environment=environment,
        # In commands, unlike in variables, $ begins a variable of systemd's.
        command=" ".join(_quoted(argument).replace("$", "$$") for argument in arguments),
        log=_path(folder.log),
        target="multi-user.target" if system else "default.target",
    )


def _quoted(text: str) -> str:
    """As a word of a unit file (systemd.syntax, "Quoting"; systemd.unit, "Specifiers")."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def _path(path: Path) -> str:
    return str(path).replace("%", "%%")


def _advice(unit: str, *, system: bool) -> str:
    if system:
        return f"# Save it as /etc/systemd/system/{unit}, then: systemctl daemon-reload; systemctl enable --now {unit}"
    return (
        f"# Save it as ~/.config/systemd/user/{unit}, then: systemctl --user daemon-reload; "
        f"systemctl --user enable --now {unit}\n# To have it run while you are not logged in: loginctl enable-linger"
    )
