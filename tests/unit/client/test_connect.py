from __future__ import annotations

import socket
import threading
import uuid
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from globus_compute_sdk import Client

import parsl_globus
from parsl_globus.client import connect
from parsl_globus.client.connect import is_self_hosted, service_url
from parsl_globus.client.home import Credentials, write_credentials, write_login
from parsl_globus.client.rest import ServiceClient
from parsl_globus.errors import ConfigError, NotAuthorized, RequestRefused, ServiceUnreachable
from parsl_globus.wire.documents import FunctionRegistration

CREDENTIALS = Credentials(client_id="5c0d2b38-6a32-4a0c-8a5c-1f1b0a7d9a11", client_secret="no such secret")


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def stranger():
    """A web server that is no service of ours."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_public_client_speaks_with_our_service(parsl_globus_site):
    client = parsl_globus_site.client()
    assert isinstance(client, Client)
    assert is_self_hosted(client)
    client.version_check()
    assert client.get_endpoints() == client.get_endpoints(role="owner")


def test_the_private_attributes_are_still_what_we_set(parsl_globus_site):
    """Fails when the SDK moves what `connect` touches: then its module has to follow."""
    client = parsl_globus_site.client()
    plain = Client(authorizer=client.authorizer, do_version_check=False)
    assert plain.web_service_address == "https://compute.api.globus.org"
    for name in ("v2", "v3"):
        assert getattr(plain._compute_web_client, name).base_url.startswith(plain.web_service_address)
        assert getattr(client._compute_web_client, name).base_url.startswith(parsl_globus_site.url)


def test_a_token_is_renewed(parsl_globus_site):
    client = parsl_globus_site.client()
    before = client.authorizer.access_token
    client.authorizer.expires_at = 0
    client.version_check()
    ServiceClient(client).identities()
    assert client.authorizer.access_token != before


@pytest.mark.parametrize("max_retries", [0, 5])
def test_a_token_the_service_does_not_know_any_more_is_renewed(parsl_globus_site, max_retries):
    client = parsl_globus_site.client()
    client.authorizer.access_token = "forgotten"
    service = ServiceClient(client, max_retries=max_retries)
    assert service.identities()
    client.authorizer.access_token = "forgotten"
    with pytest.raises(RequestRefused, match="ENDPOINT_NOT_FOUND"):  # it was asked as somebody
        service.submit(uuid.uuid4(), [b'{"tasks":{"%b":["p"]}}' % str(uuid.uuid4()).encode()])
    service.close()


def test_by_the_record_of_the_service_that_runs_here(parsl_globus_site, monkeypatch):
    monkeypatch.setenv("PARSL_GLOBUS_HOME", str(parsl_globus_site.home))
    assert parsl_globus.connect().web_service_address == parsl_globus_site.url


def test_credentials_of_the_environment_win(parsl_globus_site, monkeypatch):
    monkeypatch.setenv("PARSL_GLOBUS_HOME", str(parsl_globus_site.home))
    monkeypatch.setenv("GLOBUS_COMPUTE_CLIENT_ID", CREDENTIALS.client_id)
    monkeypatch.setenv("GLOBUS_COMPUTE_CLIENT_SECRET", CREDENTIALS.client_secret)
    with pytest.raises(NotAuthorized):
        parsl_globus.connect()


def test_wrong_credentials_are_told_without_the_secret(parsl_globus_site):
    with pytest.raises(NotAuthorized) as caught:
        parsl_globus.connect(parsl_globus_site.url, credentials=CREDENTIALS)
    assert CREDENTIALS.client_secret not in str(caught.value)
    assert CREDENTIALS.client_secret not in repr(CREDENTIALS)


def test_without_credentials(parsl_globus_site):
    with pytest.raises(NotAuthorized, match="no credentials"):
        parsl_globus.connect(parsl_globus_site.url)


def test_without_a_service():
    with pytest.raises(ServiceUnreachable, match="parsl-globus service start"):
        parsl_globus.connect()


@pytest.mark.parametrize("used_before", [False, True], ids=["never one of one's own", "one that was stopped"])
def test_who_means_a_service_that_was_stopped_is_told_that_it_is_globus_s(monkeypatch, caplog, used_before):
    # The hosted service can't be reached from here, and the SDK's client would make files in the user's home.
    monkeypatch.setattr(connect, "Client", lambda **_options: "hosted")
    url = "http://127.0.0.1:5000"
    if used_before:
        write_credentials(url, Credentials(client_id="i", client_secret="s"))
    assert connect.default_client() == "hosted"
    assert [url in record.getMessage() for record in caplog.records] == [True] * used_before


def test_a_service_that_does_not_answer():
    url = f"http://127.0.0.1:{closed_port()}"
    with pytest.raises(ServiceUnreachable) as caught:
        parsl_globus.connect(url, credentials=CREDENTIALS)
    assert caught.value.url == url


def test_something_else_at_that_address(stranger):
    with pytest.raises(ServiceUnreachable):
        parsl_globus.connect(stranger, credentials=CREDENTIALS)


def test_an_address_that_is_none():
    with pytest.raises(ConfigError, match="not the URL"):
        service_url("localhost:5000")


def test_a_refusal_carries_the_service_s_words(parsl_globus_site):
    service = ServiceClient(parsl_globus_site.client())
    with pytest.raises(RequestRefused) as caught:
        service.endpoint_status(uuid.UUID(int=1))
    assert caught.value.http_status == 404
    assert caught.value.code == "ENDPOINT_NOT_FOUND"


def test_a_request_that_was_never_sent_is_told_from_one_that_may_have_arrived(parsl_globus_site):
    service = ServiceClient(parsl_globus_site.client(), max_retries=0)
    registration = FunctionRegistration(function_name="f", function_code="")

    service._v3.base_url = f"http://127.0.0.1:{closed_port()}"
    with pytest.raises(ServiceUnreachable) as caught:
        service.register_function(registration)
    assert caught.value.maybe_received is False

    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up():
            connection, _ = server.accept()
            connection.recv(65536)
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        service._v3.base_url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ServiceUnreachable) as caught:
            service.register_function(registration)
        thread.join()
    assert caught.value.maybe_received is True


def test_a_fixed_token_and_the_remembered_service(parsl_globus_site):
    token = parsl_globus_site.run("service", "token", "create", "--life", "10m").strip()
    write_credentials(parsl_globus_site.url, Credentials(token=token))
    write_login(parsl_globus_site.url)
    client = parsl_globus.connect()
    assert client.web_service_address == parsl_globus_site.url
    assert is_self_hosted(client)
    assert client.get_endpoints() == parsl_globus_site.client().get_endpoints()
    write_credentials(parsl_globus_site.url, Credentials(token="nonsense"))
    with pytest.raises(NotAuthorized, match="does not accept this token"):
        parsl_globus.connect()
    assert token not in repr(Credentials(token=token))
