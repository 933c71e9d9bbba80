"""ProxyStore's contract of a connector: ours over the blobs of a real service, and one of ProxyStore's own."""

from __future__ import annotations

import io
import os
import pickle
import uuid

import proxystore
import pytest
from proxystore.connectors.file import FileConnector
from proxystore.connectors.protocols import Connector, DeferrableConnector
from proxystore.proxy import Proxy
from proxystore.store import Store
from proxystore.store.config import ConnectorConfig

from parsl_globus.client.blob_connector import BlobConnector, BlobKey
from parsl_globus.client.rest import ServiceClient
from parsl_globus.errors import DecodeError, ExtensionMissing, NotAuthorized, RequestRefused, ServiceUnreachable


@pytest.fixture(params=["blobs", "files"])
def connector(request, tmp_path):
    ours = request.param == "blobs"
    connector = request.getfixturevalue("blobs") if ours else FileConnector(str(tmp_path / "store"))
    yield connector
    connector.close()
    connector.close()


@pytest.fixture
def blobs(parsl_globus_site):
    connector = BlobConnector.for_client(parsl_globus_site.client(), token_life_s=300.0)
    yield connector
    connector.close()


def test_it_is_a_connector(connector):
    assert isinstance(connector, Connector)
    assert isinstance(connector, DeferrableConnector)


@pytest.mark.parametrize(
    "value",
    [b"", b"x", bytearray(b"abc"), memoryview(b"abcdef")[::1], os.urandom(3_000_000)],
    ids=["none", "one", "bytearray", "memoryview", "3 MB"],
)
def test_bytes_go_there_and_back(connector, value):
    key = connector.put(value)
    assert pickle.loads(pickle.dumps(key)) == key
    assert connector.exists(key)
    assert connector.get(key) == bytes(value)
    connector.evict(key)
    assert not connector.exists(key)
    assert connector.get(key) is None
    connector.evict(key)


def test_several_at_once(connector):
    keys = connector.put_batch([b"a", b"b", b"c"])
    assert len(set(keys)) == 3
    connector.evict(keys[1])
    assert connector.get_batch(keys) == [b"a", None, b"c"]


def test_a_key_comes_before_its_value(connector):
    key = connector.new_key()
    assert not connector.exists(key)
    connector.set(key, b"later")
    assert connector.get(key) == b"later"


def test_another_process_makes_one_from_the_configuration(connector):
    key = connector.put(b"x")
    kind = f"{type(connector).__module__}.{type(connector).__qualname__}"
    config = ConnectorConfig(kind=kind, options=pickle.loads(pickle.dumps(connector.config())))
    for other in (config.get_connector(), type(connector).from_config(connector.config())):
        assert other.get(key) == b"x"
        if isinstance(other, BlobConnector):
            other.close()


def test_a_store_of_proxystore_s_works_on_it(connector):
    with Store(f"store-{uuid.uuid4()}", connector, register=True) as store:
        proxy = store.proxy({"a": [1, 2]}, evict=True, populate_target=False)
        twin = pickle.loads(pickle.dumps(proxy))
        assert isinstance(twin, Proxy)
        assert twin["a"] == [1, 2]
        assert not connector.exists(proxystore.proxy.get_factory(proxy).key)


# ---- ours -----------------------------------------------------------------------------------------------------------


def test_the_token_is_shown_nowhere_and_good_for_nothing_else(blobs, parsl_globus_site, caplog):
    token = blobs.config()["token"]
    assert len(token) > 20
    store = Store(f"store-{uuid.uuid4()}", blobs)
    for text in (repr(blobs), repr(blobs.config()), repr(store), repr(store.config()), caplog.text, str(vars(blobs))):
        assert token not in text
    blobs.revoke(parsl_globus_site.client())
    blobs.revoke(parsl_globus_site.client())
    with pytest.raises(NotAuthorized):
        blobs.put(b"x")


def test_a_file_passes_through(blobs, tmp_path):
    data = os.urandom(2_500_000)
    (tmp_path / "data").write_bytes(data)
    with (tmp_path / "data").open("rb") as file:
        file.seek(5)
        key = blobs.put_file(file)
    with blobs.get_file(key) as file:
        assert file.read(3) == data[5:8]
        rest = bytearray(len(data))
        assert file.readinto(rest) == len(data) - 8
        assert bytes(rest[: len(data) - 8]) == data[8:]
        assert file.read(1) == b""
    assert blobs.get_file(BlobKey(str(uuid.uuid4()))) is None
    blobs.evict(key)


def test_a_key_is_used_once(blobs):
    key = blobs.new_key()
    blobs.set(key, b"x")
    blobs.set(key, b"x")
    with pytest.raises(RequestRefused, match="under a new id"):
        blobs.set(key, b"y")
    blobs.evict(key)


def test_what_may_help_is_tried_again_while_it_is_open(blobs, monkeypatch):
    failures = [ServiceUnreachable(url="x"), DecodeError(what="blob", size_bytes=1, detail="cut")]
    real = ServiceClient.put_blob

    def put_blob(self, data, blob_id=None):
        if failures:
            data.read(2)
            raise failures.pop()
        return real(self, data, blob_id)

    monkeypatch.setattr(ServiceClient, "put_blob", put_blob)
    assert blobs.get(blobs.put_file(io.BytesIO(b"whole"))) == b"whole"
    blobs.close()
    failures.append(ServiceUnreachable(url="x"))
    with pytest.raises(ServiceUnreachable):
        blobs.put(b"x")


def test_a_service_that_keeps_none_is_told(parsl_globus_site, monkeypatch):
    version = ServiceClient.version

    def public(self):
        return type(version(self))(extensions=frozenset(), version=None)

    monkeypatch.setattr(ServiceClient, "version", public)
    with pytest.raises(ExtensionMissing, match="blobs"):
        BlobConnector.for_client(parsl_globus_site.client())
