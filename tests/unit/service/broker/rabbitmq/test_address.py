from __future__ import annotations

import traceback
from urllib.parse import urlencode

import pytest
from certificates import make_certificates

from parsl_globus.errors import ConfigError
from parsl_globus.service.broker.rabbitmq import RabbitMQBroker
from parsl_globus.service.broker.rabbitmq.address import broker_address, connection_parameters, service_access


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("amqp://u:p@host", "amqp://a:b@host:5672/%2F"),
        ("amqp://u:p@host/", "amqp://a:b@host:5672/%2F"),
        ("amqp://u:p@host/%2F", "amqp://a:b@host:5672/%2F"),
        ("amqps://u:p@host/lab", "amqps://a:b@host:5671/lab"),
        ("amqp://u:p@host:99/my%2Flab?heartbeat=5", "amqp://a:b@host:99/my%2Flab"),
        ("amqp://u:p@[::1]:99", "amqp://a:b@[::1]:99/%2F"),
    ],
)
def test_clients_get_the_same_place_with_their_own_login(url, expected):
    assert broker_address(url, "--broker").url("a", "b") == expected


def test_a_login_may_hold_any_character():
    access = service_access("amqp://us%40er:p%2Fw%3A%25@host")
    assert access.url == "amqp://us%40er:p%2Fw%3A%25@host:5672/%2F?heartbeat=10"


def test_options_of_the_url_are_the_service_s_own(tmp_path):
    certificates = make_certificates(tmp_path)
    files = urlencode({"cafile": certificates.ca, "certfile": certificates.cert, "keyfile": certificates.key})
    access = service_access(f"amqps://u:p@host/v?heartbeat=3&{files}")
    assert access.url == f"amqps://u:p@host:5671/v?heartbeat=3&{files}"
    assert access.address.url("a", "b") == "amqps://a:b@host:5671/v"
    parameters = connection_parameters(access.url)
    assert (parameters.heartbeat, parameters.virtual_host) == (3, "v")
    assert parameters.ssl_options.server_hostname == "host"
    assert parameters.ssl_options.context.get_ca_certs()[0]["subject"] == ((("commonName", "test CA"),),)


@pytest.mark.parametrize("options", ["heartbeat=soon", "colour=blue", "cafile=/nowhere.pem"])
def test_options_that_can_t_be_used_are_told_without_the_password(options):
    with pytest.raises(ConfigError, match="cafile=, certfile= and keyfile=") as refusal:
        service_access(f"amqps://u:hidden@host/v?{options}")
    assert "hidden" not in str(refusal.value)


@pytest.mark.parametrize(
    "url", ["", "host", "http://u:hidden@host", "amqp://", "amqp://u:hidden@host:nan", "amqp://hidden@host"]
)
def test_what_is_no_url_is_refused_and_not_repeated(url):
    with pytest.raises(ConfigError, match="--broker") as refusal:
        service_access(url)
    assert "hidden" not in "".join(traceback.format_exception(refusal.value)).replace(f"service_access({url!r})", "")


def test_the_password_is_in_no_text():
    access = service_access("amqp://u:hidden@host")
    assert "hidden" not in f"{access!r} {access} {access.address!r} {access.address}"


def test_the_public_address_is_what_clients_get():
    async def make():
        return RabbitMQBroker("amqp://u:p@10.0.0.1/lab", public_url="amqps://broker.example.org/lab")

    import asyncio

    broker = asyncio.run(make())
    assert broker.connection_url("a", "b") == "amqps://a:b@broker.example.org:5671/lab"
    assert broker.port == 5671
