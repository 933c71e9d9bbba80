"""Our executor as a `concurrent.futures.Executor`, on a real service and endpoint."""

from __future__ import annotations

import concurrent.futures

import parsl
import pytest

from parsl_globus import GlobusComputeExecutor
from parsl_globus.errors import TaskCancelled
from parsl_globus.testing.site import LocalSite

DEADLINE_S = 120.0


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with LocalSite(tmp_path_factory.mktemp("facade") / "home") as site:
        site.start_service()
        site.start_endpoint("facade")
        yield site
    assert site.processes() == []


@pytest.fixture
def executor(site):
    return GlobusComputeExecutor(site.endpoint_id("facade"), client=site.client())


def triple(x, *, plus=0):
    return 3 * x + plus


def fails():
    raise LookupError("on the endpoint")


def wait_for_file(path):
    import os
    import time

    deadline = time.monotonic() + 120
    while not os.path.exists(path) and time.monotonic() < deadline:
        time.sleep(0.02)
    return path


def test_calls_run_and_raise_and_map_keeps_their_order(executor):
    with executor.as_concurrent() as pool:
        assert isinstance(pool, concurrent.futures.Executor)
        assert pool.submit(triple, 2, plus=1).result(DEADLINE_S) == 7
        assert list(pool.map(triple, range(50), timeout=DEADLINE_S)) == [3 * x for x in range(50)]
        with pytest.raises(LookupError, match="on the endpoint"):
            pool.submit(fails).result(DEADLINE_S)
        broken = pool.submit(triple, (x for x in "no generator travels"))
        assert "can't be serialized" in str(broken.exception(DEADLINE_S))
    with pytest.raises(RuntimeError, match="takes no more calls"):
        pool.submit(triple, 1)
    pool.shutdown()
    assert executor.outstanding() == 0


def test_its_end_waits_for_what_runs_or_does_not(executor, tmp_path):
    gate = tmp_path / "gate"
    pool = executor.as_concurrent()
    held = pool.submit(wait_for_file, str(gate))
    pool.shutdown(wait=False)
    assert not held.done()
    gate.touch()
    assert held.result(DEADLINE_S) == str(gate)


def test_its_end_may_cancel(executor, tmp_path):
    pool = executor.as_concurrent()
    futures = [pool.submit(wait_for_file, str(tmp_path / "never")) for _ in range(6)]
    pool.shutdown(cancel_futures=True)
    assert {type(future.exception(0)) for future in futures} == {TaskCancelled}


def test_parsl_s_own_executor_stays_parsl_s(executor, tmp_path):
    @parsl.python_app
    def app(x):
        return x + 1

    @parsl.join_app
    def both(pool):
        return [pool.submit(triple, 1), pool.submit(triple, 2)]

    config = parsl.Config(executors=[executor], run_dir=str(tmp_path / "runinfo"), initialize_logging=False)
    with parsl.load(config):
        with executor.as_concurrent() as pool:
            assert both(pool).result(DEADLINE_S) == [3, 6]
        assert app(1).result(DEADLINE_S) == 2
