"""Values by reference through real services and endpoints; a gigabyte passes without being held anywhere twice."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import parsl
import psutil
import pytest
from parsl import Config, bash_app, python_app
from proxystore.connectors.file import FileConnector
from proxystore.store import Store

from parsl_globus import GlobusComputeExecutor
from parsl_globus.errors import PayloadTooLarge, ResultTooLarge
from parsl_globus.testing.site import LOCAL_ENDPOINT, LocalSite

DEADLINE_S = 120
MIB = 1024**2
LARGE = os.urandom(3 * MIB)
#: Without a copy, each side holds a value once; 128 MiB are for all else, and in a service for SQLite's cache.
ALLOWED_MIB = 128
SERVICE_ALLOWED_MIB = 192
WORKFLOW = Path(__file__).parents[1] / "support" / "large_data_workflow.py"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with LocalSite(tmp_path_factory.mktemp("site")) as site:
        site.start_service("--blob-limit", "1000")
        yield site
    assert site.processes() == []


@pytest.fixture(scope="module")
def endpoint_id(site):
    return site.start_endpoint("here", LOCAL_ENDPOINT.format(name="here", workers=1))


def blobs(site) -> int:
    """How many parts of blobs the service has, of those that are being removed as well."""
    (file,) = site.home.rglob("service.db")
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as database:
        (count,) = database.execute("SELECT count(*) FROM blob_parts").fetchone()
    database.close()
    return count


def wait_until_gone(count) -> None:
    until = time.monotonic() + DEADLINE_S
    while count():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.fixture(params=["service", "files"])
def dfk(request, site, endpoint_id, tmp_path):
    files = tmp_path / "store"
    ours = request.param == "service"
    store = "service" if ours else Store("large-data", FileConnector(str(files)))
    executor = GlobusComputeExecutor(endpoint_id, label="globus", client=site.client(), object_store=store)
    config = Config(executors=[executor], run_dir=str(tmp_path), initialize_logging=False, retries=1)
    with parsl.load(config) as dfk:
        dfk.objects = (lambda: blobs(site)) if ours else (lambda: len(list(files.iterdir())))
        yield dfk
    assert dfk.objects() == 0


class Wrapped:
    def __init__(self, data):
        self.data = data


@python_app
def wrap(data, *, times=1):
    assert type(data) is bytes
    return Wrapped(data * times)


@python_app
def fail(data):
    raise KeyError(len(data))


@python_app(cache=True)
def cached(data):
    return data[::-1]


@bash_app
def count(data, stdout=None):
    return f"echo {len(data)}"


@python_app
def fail_at_first(data, marker):
    import pathlib

    if not pathlib.Path(marker).exists():
        pathlib.Path(marker).touch()
        raise OSError("not yet")
    return data


def test_apps_don_t_notice(dfk, tmp_path):
    small, large = wrap(b"x"), wrap(LARGE, times=2)
    assert small.result(DEADLINE_S).data == b"x"
    assert type(large.result(DEADLINE_S)) is Wrapped
    assert large.result().data == LARGE * 2
    with pytest.raises(KeyError):
        fail(LARGE).result(DEADLINE_S)
    text = LARGE.hex()  # of bytes, Parsl makes no key
    assert [cached(text).result(DEADLINE_S) for _ in range(2)] == [text[::-1]] * 2
    count(LARGE, stdout=str(tmp_path / "out")).result(DEADLINE_S)
    assert (tmp_path / "out").read_text() == f"{len(LARGE)}\n"
    wait_until_gone(dfk.objects)


def test_a_retry_sends_its_arguments_again(dfk, tmp_path):
    assert fail_at_first(LARGE, str(tmp_path / "marker")).result(DEADLINE_S) == LARGE
    wait_until_gone(dfk.objects)


def test_what_is_too_large_without_a_store_is_told_at_once(site, endpoint_id):
    executor = GlobusComputeExecutor(endpoint_id, label="globus", client=site.client())
    executor.start()
    try:
        future = executor.submit(len, {}, os.urandom(8 * MIB))
        assert future.done()  # nothing was sent
        error = future.exception()
        assert isinstance(error, PayloadTooLarge)
        assert error.size_bytes > error.limit_bytes == 10 * MIB
        assert executor.outstanding() == 0
    finally:
        executor.shutdown()


def test_more_than_a_blob_may_have_is_told_for_arguments_and_for_results(site, endpoint_id, monkeypatch):
    from parsl_globus.client.blob_connector import BlobConnector

    for_client = BlobConnector.for_client

    def smaller(*args, **kwargs):
        made = for_client(*args, **kwargs)
        made.limit_bytes = 2 * MIB
        return made

    monkeypatch.setattr(BlobConnector, "for_client", smaller)
    executor = GlobusComputeExecutor(endpoint_id, label="globus", client=site.client(), object_store="service")
    executor.start()
    try:
        error = executor.submit(len, {}, LARGE).exception(0)
        assert isinstance(error, PayloadTooLarge)
        assert error.size_bytes > error.limit_bytes == 2 * MIB
        with pytest.raises(ResultTooLarge, match="BLOB_TOO_LARGE"):
            executor.submit(bytes, {}, 1001 * MIB).result(DEADLINE_S)
    finally:
        executor.shutdown()


def test_no_secret_is_shown(site, endpoint_id, caplog):
    caplog.set_level("DEBUG")
    executor = GlobusComputeExecutor(endpoint_id, label="globus", client=site.client(), object_store="service")
    executor.start()
    token = str(executor._objects._place.recipe()[1]["token"])
    assert executor.submit(len, {}, LARGE).result(DEADLINE_S) == len(LARGE)
    assert token not in repr(executor)
    executor.shutdown()
    assert token not in caplog.text
    for path in site.home.rglob("*.log"):
        assert token not in path.read_text(errors="replace"), path
    for process in site.processes():
        assert token not in " ".join(process.cmdline())


def test_a_gigabyte_there_and_a_gigabyte_back(site, endpoint_id):
    """Twice 950 MiB, as a blob has 1000 MiB at most here."""
    service = psutil.Process(site.service_pid)
    at_first = service.memory_info().rss
    with open(f"/proc/{service.pid}/clear_refs", "w") as file:
        file.write("5")  # the peak begins anew
    command = [sys.executable, str(WORKFLOW), str(endpoint_id), str(954 * MIB), str(MIB)]
    done = subprocess.run(
        command, env=site.environment, capture_output=True, text=True, timeout=280, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    with open(f"/proc/{service.pid}/status") as status:
        (line,) = [line for line in status if line.startswith("VmHWM:")]
    told["service"] = int(line.split()[1]) * 1024 - at_first
    size = told["size"]
    print({name: round(value / MIB) if not name.endswith("_s") else round(value, 1) for name, value in told.items()})
    assert size > 10**9 * 0.99
    for side in ("argument_here", "argument_worker", "both_here", "both_worker"):
        assert told[side] < size + ALLOWED_MIB * MIB, side
    assert told["service"] < SERVICE_ALLOWED_MIB * MIB
    wait_until_gone(lambda: blobs(site))
