"""What may be heard beyond this machine: TLS of the service's own, a proxy's, or on purpose none."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from pathlib import Path

from parsl_globus.errors import ConfigError
from parsl_globus.service.broker.rabbitmq.address import broker_address
from parsl_globus.service.config import ServiceConfig

_OTHERS_MAY_READ = 0o007


def check_exposure(config: ServiceConfig) -> None:
    """See that passwords and tokens never cross a network in the clear, unless that is asked for.

    Raises:
        ConfigError: They would; the message says what to do.
    """
    if (config.tls_cert is None) != (config.tls_key is None):
        raise ConfigError("A certificate is used with its key: give both --tls-cert and --tls-key, or none.")
    if config.tls_cert is not None and config.behind_proxy:
        raise ConfigError(
            "With --behind-proxy the proxy speaks TLS, so give no --tls-cert and --tls-key, or only them."
        )
    if config.insecure:
        return
    encrypted = config.tls_cert is not None or config.behind_proxy
    if not encrypted and not is_loopback(config.host):
        raise ConfigError(
            f"The service does not encrypt, so it listens on loopback addresses only, and {config.host} is none. "
            "Give it a certificate (--tls-cert and --tls-key), put a TLS proxy before it (--behind-proxy), or pass "
            "--insecure if every machine on this network may be trusted."
        )
    _check_broker(config)


def _check_broker(config: ServiceConfig) -> None:
    """Endpoints and clients get the broker's address with a password in it."""
    if config.broker_public_url is not None:
        address, option = broker_address(config.broker_public_url, "--broker-public-url"), "--broker-public-url"
    elif config.broker_url is not None:
        address, option = broker_address(config.broker_url, "--broker"), "--broker"
    elif config.behind_proxy and not is_loopback(config.host):
        raise ConfigError(
            "Behind a proxy, the embedded broker must be reached through it as well. Say where it passes AMQP on with "
            "TLS: --broker-public-url amqps://HOST:PORT"
        )
    else:
        return
    if address.scheme != "amqps" and not is_loopback(address.host):
        raise ConfigError(
            f"Endpoints and clients would send their passwords to {address} in the clear. Give an amqps:// URL with "
            f"{option}, or pass --insecure if every machine on this network may be trusted."
        )


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine can connect to an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def server_context(config: ServiceConfig) -> ssl.SSLContext | None:
    """TLS for the embedded broker; `None` without a certificate.

    Raises:
        ConfigError: Certificate or key can't be used.
    """
    if config.tls_cert is None or config.tls_key is None:
        return None
    check_private(config.tls_key, "TLS key")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # Without a callback, OpenSSL would ask for a passphrase on the terminal.
        context.load_cert_chain(config.tls_cert, config.tls_key, password=lambda: b"")
    except (OSError, ValueError) as exc:  # an SSLError is an OSError
        raise ConfigError(
            f"Certificate and key can't be used ({getattr(exc, 'strerror', None) or exc}). Give PEM files that belong "
            f"together, the key without a passphrase: --tls-cert {config.tls_cert} --tls-key {config.tls_key}"
        ) from exc
    return context


def check_private(path: Path, what: str) -> None:
    """See that a secret's file isn't open to everybody.

    Raises:
        ConfigError: It is, or can't be read.
    """
    try:
        mode = path.stat().st_mode
    except OSError as exc:
        raise ConfigError(f"The {what} can't be read ({exc.strerror}).", file=str(path)) from exc
    if mode & _OTHERS_MAY_READ:
        raise ConfigError(f"Everybody on this machine can use the {what}. Change that: chmod 600 {path}")


def base_url(config: ServiceConfig, port: int) -> str:
    """Where clients on this machine, and without a proxy all others, reach REST."""
    scheme = "http" if config.tls_cert is None else "https"
    host = config.host
    if config.public_host is not None and not config.behind_proxy:
        host = config.public_host
    elif host in ("0.0.0.0", "::"):
        host = "127.0.0.1" if config.behind_proxy else socket.gethostname()
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def broker_host(config: ServiceConfig) -> str:
    """The name under which clients reach the embedded broker."""
    if config.public_host is not None:
        return config.public_host
    return socket.gethostname() if config.host in ("0.0.0.0", "::") else config.host
