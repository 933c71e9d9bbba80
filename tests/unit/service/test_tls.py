"""What crosses a network is encrypted, or the service doesn't start."""

from __future__ import annotations

import socket
import ssl
import threading

import pytest
import requests
from certificates import make_certificates
from service_thread import DEADLINE_S, ServiceThread

import parsl_globus
from parsl_globus.amqp import Consumer
from parsl_globus.amqp.link import connection_parameters
from parsl_globus.client.home import Credentials, write_credentials
from parsl_globus.client.rest import ServiceClient
from parsl_globus.errors import ConfigError, ServiceUnreachable
from parsl_globus.service.config import ServiceConfig
from parsl_globus.service.tls import base_url, broker_host, check_exposure, server_context
from parsl_globus.wire.documents import EndpointRegistration


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def config(tmp_path, **settings) -> ServiceConfig:
    return ServiceConfig(tmp_path, **settings)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "lab.example.org"])
def test_beyond_loopback_it_does_not_start_in_the_clear(tmp_path, certificates, host):
    with pytest.raises(ConfigError, match=r"--tls-cert and --tls-key.*--behind-proxy.*--insecure"):
        check_exposure(config(tmp_path, host=host))
    check_exposure(config(tmp_path, host=host, insecure=True))
    check_exposure(config(tmp_path, host=host, tls_cert=certificates.cert, tls_key=certificates.key))
    with pytest.raises(ConfigError, match="--broker-public-url amqps://"):
        check_exposure(config(tmp_path, host=host, behind_proxy=True))
    check_exposure(config(tmp_path, host=host, behind_proxy=True, broker_public_url="amqps://lab.example.org"))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.9.9.9"])
def test_on_loopback_it_may(tmp_path, host):
    check_exposure(config(tmp_path, host=host))
    check_exposure(config(tmp_path, host=host, behind_proxy=True))


def test_passwords_of_the_broker_do_not_travel_in_the_clear_either(tmp_path, certificates):
    tls = {"host": "0.0.0.0", "tls_cert": certificates.cert, "tls_key": certificates.key}
    with pytest.raises(ConfigError, match="in the clear") as caught:
        check_exposure(config(tmp_path, broker_url="amqp://me:very-secret@mq.example.org/v", **tls))
    assert "very-secret" not in str(caught.value)
    check_exposure(config(tmp_path, broker_url="amqp://me:x@127.0.0.1/v", **tls))
    check_exposure(config(tmp_path, broker_url="amqps://me:x@mq.example.org/v", **tls))
    with pytest.raises(ConfigError, match="--broker-public-url"):
        check_exposure(config(tmp_path, broker_url="amqp://me:x@127.0.0.1", broker_public_url="amqp://mq", **tls))


def test_what_does_not_go_together(tmp_path, certificates):
    for settings in ({"tls_cert": certificates.cert}, {"tls_key": certificates.key}):
        with pytest.raises(ConfigError, match="both --tls-cert and --tls-key"):
            check_exposure(config(tmp_path, **settings))
    both = {"tls_cert": certificates.cert, "tls_key": certificates.key, "behind_proxy": True}
    with pytest.raises(ConfigError, match="the proxy speaks TLS"):
        check_exposure(config(tmp_path, **both))


def test_a_key_is_a_secret_and_belongs_to_its_certificate(tmp_path, certificates):
    other = make_certificates(tmp_path)
    with pytest.raises(ConfigError, match="can't be used"):
        server_context(config(tmp_path, tls_cert=certificates.cert, tls_key=other.key))
    other.key.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        server_context(config(tmp_path, tls_cert=other.cert, tls_key=other.key))
    with pytest.raises(ConfigError, match="can't be read"):
        server_context(config(tmp_path, tls_cert=other.cert, tls_key=tmp_path / "nothing"))
    assert server_context(config(tmp_path)) is None


def test_the_names_that_clients_are_told(tmp_path, certificates):
    tls = {"tls_cert": certificates.cert, "tls_key": certificates.key}
    assert base_url(config(tmp_path), 5000) == "http://127.0.0.1:5000"
    assert base_url(config(tmp_path, host="::1", **tls), 5000) == "https://[::1]:5000"
    named = config(tmp_path, host="0.0.0.0", public_host="lab.example.org", **tls)
    assert (base_url(named, 443), broker_host(named)) == ("https://lab.example.org:443", "lab.example.org")
    proxied = config(tmp_path, host="0.0.0.0", public_host="lab.example.org", behind_proxy=True)
    assert base_url(proxied, 5000) == "http://127.0.0.1:5000"


@pytest.fixture
def service(tmp_path, certificates):
    service = ServiceThread(tmp_path / "data", tls_cert=certificates.cert, tls_key=certificates.key).start()
    owner = service.address.owner
    write_credentials(service.url, Credentials(str(owner.client_id), owner.client_secret))
    yield service
    service.stop()


def test_a_certificate_that_nobody_vouches_for_is_refused(service):
    assert service.url.startswith("https://127.0.0.1:")
    with pytest.raises(ServiceUnreachable, match="certificate"):
        parsl_globus.connect(service.url)
    plain = service.url.replace("https://", "http://")
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{plain}/healthz", timeout=DEADLINE_S)


@pytest.mark.parametrize("way", ["REQUESTS_CA_BUNDLE", "PARSL_GLOBUS_CA_FILE", "login --ca"])
def test_rest_and_amqp_accept_the_certificate(service, certificates, monkeypatch, way):
    monkeypatch.setenv("PARSL_GLOBUS_AMQP_CA_FILES", "")
    if way == "login --ca":
        owner = service.address.owner
        known = Credentials(str(owner.client_id), owner.client_secret, ca_file=str(certificates.ca))
        write_credentials(service.url, known)
    else:
        monkeypatch.setenv(way, str(certificates.ca))
    client = ServiceClient(parsl_globus.connect(service.url))
    try:
        registered = client.register_endpoint(EndpointRegistration(endpoint_name="site"), None)
    finally:
        client.close()
    info = registered.command_queue_info
    assert info.connection_url.startswith("amqps://")
    opened = threading.Event()
    consumer = Consumer(
        lambda: info.connection_url, info.queue, lambda _commands: None, name="commands", on_open=opened.set
    )
    consumer.start()
    try:
        assert opened.wait(DEADLINE_S)
    finally:
        consumer.stop(DEADLINE_S)


def test_the_brokers_certificate_is_checked(service, certificates, monkeypatch):
    port = service.address.amqp_port
    for variable, host, problem in (
        ("", "127.0.0.1", "unable to get local issuer"),
        ("PARSL_GLOBUS_CA_FILE", "127.0.0.2", "not valid for '127.0.0.2'"),
        ("PARSL_GLOBUS_CA_FILE", "127.0.0.1", None),
    ):
        if variable:
            monkeypatch.setenv(variable, str(certificates.ca))
        tls = connection_parameters(f"amqps://u:p@{host}:{port}/%2F").ssl_options
        with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as plain:
            if problem is None:
                tls.context.wrap_socket(plain, server_hostname=tls.server_hostname).close()
                continue
            with pytest.raises(ssl.SSLCertVerificationError, match=problem):
                tls.context.wrap_socket(plain, server_hostname=tls.server_hostname)


def test_a_file_that_holds_no_certificates_is_told(service, tmp_path, monkeypatch):
    file = tmp_path / "ca.pem"
    file.write_text("nothing")
    monkeypatch.setenv("PARSL_GLOBUS_CA_FILE", str(file))
    with pytest.raises(ConfigError, match=r"ca\.pem: No CA certificates"):
        parsl_globus.connect(service.url)


def test_only_a_proxy_on_this_machine_says_who_calls(tmp_path):
    """The page asks for the scheme, so that its cookies are for TLS only."""
    cookies = {}
    for behind_proxy in (False, True):
        service = ServiceThread(tmp_path / str(behind_proxy), behind_proxy=behind_proxy).start()
        try:
            reply = requests.get(f"{service.url}/login", headers={"X-Forwarded-Proto": "https"}, timeout=DEADLINE_S)
            cookies[behind_proxy] = reply.headers["Set-Cookie"]
        finally:
            service.stop()
    assert "Secure" not in cookies[False]
    assert "Secure" in cookies[True]
