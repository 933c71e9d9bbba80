from __future__ import annotations

import subprocess
import sys
import threading
import uuid

import pytest
from proxystore.connectors.file import FileConnector
from proxystore.connectors.local import LocalConnector
from proxystore.store import Store

from parsl_globus import GlobusComputeExecutor
from parsl_globus.client.blob_connector import BlobConnector
from parsl_globus.client.connect import connect
from parsl_globus.client.home import Credentials
from parsl_globus.client.rest import ServiceClient
from parsl_globus.errors import ConfigError, ExecutorShutDown, MissingExtra, NotAuthorized
from parsl_globus.executor import object_places
from parsl_globus.executor.object_lanes import Job, Lane
from parsl_globus.executor.object_places import ServicePlace, place_of

DEADLINE_S = 60


def test_none_is_none():
    assert place_of(None) is None


def test_a_store_and_its_connector_are_the_same(tmp_path):
    connector = FileConnector(str(tmp_path / "s"))
    for given in (Store("test-places", connector), connector):
        place = place_of(given)(None, 1.0)
        assert place.connector is connector
        assert place.recipe() == ("proxystore.connectors.file.FileConnector", connector.config())
        place.close(for_good=True)
        assert (tmp_path / "s").is_dir()  # it is the user's to close


@pytest.mark.parametrize("wrong", [7, "blobs", "ftp://x", object(), "https://", Store])
def test_what_can_t_be_used_is_told(wrong):
    with pytest.raises(ConfigError, match="object_store"):
        GlobusComputeExecutor("00000000-0000-0000-0000-000000000001", object_store=wrong)


def test_a_login_in_a_url_is_not_shown():
    with pytest.raises(ConfigError) as caught:
        place_of("https://me:secret@host/")
    assert "secret" not in str(caught.value)


def test_proxystore_is_an_extra(monkeypatch):
    connector = LocalConnector()
    monkeypatch.setitem(sys.modules, "proxystore", None)
    with pytest.raises(MissingExtra, match=r"parsl-globus\[proxystore\]"):
        place_of(connector)
    assert place_of("service") is not None


def test_the_executor_is_imported_without_it():
    code = "import sys; sys.modules['proxystore'] = None; import parsl_globus.executor.executor; print('imported')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "imported\n"


def test_workers_get_a_token_of_their_own_which_ends(parsl_globus_site, monkeypatch):
    client = parsl_globus_site.client()
    place = ServicePlace(client, url="http://gateway:5000", patience_s=1.0)
    kind, options = place.recipe()
    assert kind == f"{BlobConnector.__module__}.BlobConnector"
    assert options["url"] == "http://gateway:5000"
    assert options["token"] != client.authorizer.access_token
    assert place.limit_bytes == 1024**3
    key = place.connector.put(b"x")
    assert not place.is_stale()
    monkeypatch.setattr(object_places, "RENEW_S", -1.0)
    assert place.is_stale()
    place.renew()
    renewed = place.recipe()[1]["token"]
    assert renewed != options["token"]
    url = parsl_globus_site.url
    # Tasks that have the former one may still come.
    others = [
        ServiceClient(connect(url, credentials=Credentials(token=str(token)))) for token in (options["token"], renewed)
    ]
    for other in others:
        assert b"".join(other.get_blob(uuid.UUID(key.blob_id))) == b"x"
    place.connector.evict(key)
    place.close(for_good=True)
    for other in others:
        with pytest.raises(NotAuthorized):
            other.put_blob(b"x")
        other.close()


def test_for_a_later_run_the_token_lives_on(parsl_globus_site):
    place = ServicePlace(parsl_globus_site.client(), url=None, patience_s=1.0)
    kind, options = place.recipe()
    place.close(for_good=False)
    worker = BlobConnector(**options)
    key = worker.put(b"x")
    assert worker.get(key) == b"x"
    worker.evict(key)
    worker.close()


# ---- lanes ----------------------------------------------------------------------------------------------------------


def test_a_job_that_fails_is_given_up_and_others_go_on(caplog):
    lane = Lane("test-lane", 1)
    lane.start()
    told: list = []
    done = threading.Event()

    def fails():
        raise OSError("no")

    lane.put(Job(fails, told.append))
    lane.put(Job(done.set, told.append))
    assert done.wait(DEADLINE_S)
    assert lane.drain(DEADLINE_S)
    assert [type(error) for error in told] == [OSError]
    assert "A job of a lane failed" in caplog.text
    lane.stop(ExecutorShutDown(label="x"), DEADLINE_S)


def test_what_is_left_at_the_end_is_given_up():
    lane = Lane("test-lane", 1)
    lane.start()
    begun, go_on = threading.Event(), threading.Event()
    told: list = []

    def waits():
        begun.set()
        assert go_on.wait(DEADLINE_S)

    for job in (waits, waits):
        lane.put(Job(job, told.append))
    assert begun.wait(DEADLINE_S)
    assert len(lane) == 2
    assert not lane.drain(0.0)
    lane.stop(ExecutorShutDown(label="x"), 0.0)
    assert len(told) == 2
    lane.put(Job(waits, told.append))
    assert len(told) == 3
    go_on.set()
    for thread in lane._threads:
        thread.join(DEADLINE_S)
