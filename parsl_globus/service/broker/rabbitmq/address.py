"""Where RabbitMQ is: for the service, which has a login there, and for endpoints and clients, which get one each."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

import pika

from parsl_globus.errors import ConfigError

_PORTS = {"amqp": 5672, "amqps": 5671}
#: So that a connection which died in silence is noticed within half a minute.
_HEARTBEAT_S = 10


@dataclass(frozen=True)
class BrokerAddress:
    """A broker's address without any login.

    Attributes:
        scheme: `amqp` or `amqps`.
        host: Name or number.
        port: Port.
        vhost: Virtual host.
    """

    scheme: str
    host: str
    port: int
    vhost: str

    def url(self, username: str, password: str) -> str:
        """The URL of a login. It holds the password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        user = f"{quote(username, safe='')}:{quote(password, safe='')}"
        return f"{self.scheme}://{user}@{host}:{self.port}/{quote(self.vhost, safe='')}"

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class ServiceAccess:
    """How the service itself connects.

    Attributes:
        address: Where.
        url: With the service's own login.
    """

    address: BrokerAddress
    url: str = field(repr=False)


def service_access(url: str) -> ServiceAccess:
    """Read the URL that an operator gives for the service.

    Raises:
        ConfigError: It can't be used; the message doesn't repeat it, as it holds a password.
    """
    address = broker_address(url, "--broker")
    parts = urlsplit(url)
    if not parts.username or parts.password is None:
        raise ConfigError(
            "The broker's URL holds no user and password of the service. "
            "Make a user there (rabbitmqctl add_user) and write --broker amqp://USER:PASSWORD@HOST/VHOST."
        )
    query = {"heartbeat": str(_HEARTBEAT_S), **dict(parse_qsl(parts.query))}
    whole = f"{address.url(unquote(parts.username), unquote(parts.password))}?{urlencode(query)}"
    try:
        connection_parameters(whole)
    except (ValueError, TypeError, SyntaxError, OSError) as exc:
        raise ConfigError(
            f"What stands behind the ? in --broker can't be used ({exc}). Known are heartbeat=SECONDS and, with amqps, "
            "cafile=, certfile= and keyfile= with the names of files."
        ) from None
    return ServiceAccess(address, whole)


def connection_parameters(url: str) -> pika.URLParameters:
    """What pika needs to connect to `url`; with amqps, the broker's certificate is checked.

    Args:
        url: With a login. Behind the `?` stand pika's own parameters, and with amqps `cafile`, the certificates of whom
            is trusted, and `certfile` and `keyfile`, the service's own.

    Raises:
        ValueError: There is a parameter that pika doesn't know.
        OSError: A file can't be read, or holds no certificate.
    """
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    ca_file, cert_file, key_file = (query.pop(name, None) for name in ("cafile", "certfile", "keyfile"))
    parameters = pika.URLParameters(urlunsplit(parts._replace(query=urlencode(query))))
    if parts.scheme == "amqps":
        context = ssl.create_default_context(cafile=ca_file)
        if cert_file is not None:
            context.load_cert_chain(cert_file, key_file)
        parameters.ssl_options = pika.SSLOptions(context, parameters.host)
    return parameters


def broker_address(url: str, option: str) -> BrokerAddress:
    """Where an AMQP URL points to.

    Args:
        url: The URL; a login in it is ignored.
        option: Where it came from, for the message.

    Raises:
        ConfigError: It is no AMQP URL.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or _PORTS[parts.scheme]
    except (ValueError, KeyError):
        host, port = None, 0
    if not host:
        # Without what was given, and without a cause that would show it.
        raise ConfigError(f"{option} is no AMQP URL. Write it as amqp://USER:PASSWORD@HOST:PORT/VHOST.") from None
    return BrokerAddress(parts.scheme, host, port, unquote(parts.path[1:]) or "/")
