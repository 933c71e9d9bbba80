"""Which certificates a service may show, besides those that this machine trusts anyway."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import globus_sdk

from parsl_globus.client.home import read_credentials
from parsl_globus.errors import ConfigError

#: A file of CA certificates (PEM) for services of one's own, REST and AMQP; `amqp/link.py` reads it as well.
CA_VARIABLE = "PARSL_GLOBUS_CA_FILE"
#: The same for AMQP only, as a list: by it, what was remembered at a login reaches the AMQP side and child processes.
AMQP_CA_VARIABLE = "PARSL_GLOBUS_AMQP_CA_FILES"


def ca_file(url: str) -> str | None:
    """The CA certificates for the service at `url`; `None` leaves it to the usual ones.

    Raises:
        ConfigError: The file isn't there or holds none.
    """
    credentials = read_credentials(url)
    found = os.environ.get(CA_VARIABLE) or (credentials.ca_file if credentials else None)
    if not url.startswith("https://"):
        return None
    if found:
        check_ca_file(found)
    # globus_sdk, unlike requests itself, doesn't look there.
    return found or os.environ.get("REQUESTS_CA_BUNDLE") or None


def check_ca_file(path: str) -> None:
    """See that a file holds CA certificates.

    Raises:
        ConfigError: It doesn't.
    """
    try:
        ssl.create_default_context(cafile=path)
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise ConfigError(
            f"No CA certificates can be read there ({reason}); it should be a PEM file.", file=path
        ) from exc


def trust(client: globus_sdk.BaseClient, url: str) -> None:
    """Have a client of globus_sdk accept what `ca_file` says."""
    found = ca_file(url)
    if found is not None:
        client.transport.verify_ssl = found


def trust_on_amqp(url: str) -> None:
    """Have all AMQP connections of this process, and of those it starts, accept what `ca_file` says, too."""
    found = ca_file(url)
    known = [path for path in os.environ.get(AMQP_CA_VARIABLE, "").split(os.pathsep) if path]
    if found is not None and found not in known:
        os.environ[AMQP_CA_VARIABLE] = os.pathsep.join([*known, str(Path(found).absolute())])
