"""Blocks of HtexEngine that end before their time: others come in their place, with real pools and processes."""

from __future__ import annotations

import os
import signal
import threading
import uuid

import psutil
import pytest
from once import wait_until
from parsl.providers import LocalProvider

from parsl_globus.endpoint.config.build import build_executor, build_provider
from parsl_globus.endpoint.config.load import parse_config
from parsl_globus.endpoint.engine import EngineTask, WorkerSettings
from parsl_globus.endpoint.htex_engine import HtexEngine

DEADLINE_S = 120

CONFIG = """
engine:
  type: GlobusComputeEngine
  max_workers_per_node: 1
  heartbeat_period: 1
  heartbeat_threshold: 4
  job_status_kwargs: {{strategy_period: 0.5, strategy: {strategy}}}
  provider:
    {{type: LocalProvider, init_blocks: 1, min_blocks: 0, max_blocks: 1, worker_init: {init}}}
"""


class RarelyAsked(LocalProvider):
    """Asked by Parsl itself once in an hour, as if schedulers' minute were longer than this test."""

    @property
    def status_polling_interval(self):
        return 3600


class OftenAsked(LocalProvider):
    """So that Parsl's own 5 s need not be waited for."""

    @property
    def status_polling_interval(self):
        return 0.2


def looks_at_blocks():
    return {thread for thread in threading.enumerate() if thread.name.startswith("JobStatusPoller")}


@pytest.fixture
def start(tmp_path, monkeypatch, request):
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))
    engines = []
    before = looks_at_blocks()

    def make(cls=OftenAsked, *, strategy="simple", init="''"):
        config = parse_config(CONFIG.format(strategy=strategy, init=init)).engine
        (tmp_path / "begun").mkdir()
        engine = HtexEngine(
            build_executor(config, run_dir=tmp_path, provider=build_provider(config.provider, cls)),
            run_dir=tmp_path,
            worker=WorkerSettings(str(uuid.uuid4()), str(tmp_path / "tasks"), marks_dir=str(tmp_path / "begun")),
            poller=config.poller.model_dump(),
            run_task="engine_worker.answer",
        )
        engines.append(engine)
        engine.start()
        return engine

    yield make
    for engine in engines:
        engine.shutdown()
    assert looks_at_blocks() == before


def submit(engine, body):
    return engine.submit(EngineTask(uuid.uuid4(), body))


def pool_of(worker_pid):
    return psutil.Process(worker_pid).ppid()


def test_the_next_block_comes_as_soon_as_the_interchange_has_lost_the_pool(start):
    engine = start(RarelyAsked)
    first = int(submit(engine, b"pid").result(DEADLINE_S))
    os.kill(pool_of(first), signal.SIGKILL)
    wait_until(lambda: engine.status().managers == 0, "the pool is not lost", timeout_s=DEADLINE_S)
    assert int(submit(engine, b"pid").result(DEADLINE_S)) != first
    assert engine.failed() is None


def test_a_first_pool_that_is_killed_before_it_connects_is_followed_by_another(start, tmp_path):
    engine = start(init=f"'if mkdir {tmp_path}/once 2>/dev/null; then kill -9 $$; fi'")
    assert submit(engine, b"echo:x").result(DEADLINE_S) == b"x"
    assert [block["status"] for block in engine.status().blocks.values()][0] == "MISSING"
    assert engine.failed() is None


def test_a_first_pool_that_can_not_start_is_told_in_the_site_s_words(start):
    engine = start(init="'no-such-module-command; exit $?'")
    task = submit(engine, b"echo:x")
    assert "no-such-module-command" in str(task.exception(DEADLINE_S))
    assert "no-such-module-command" in engine.failed()
    assert list(engine.status().blocks) == ["0"]


def test_where_no_other_block_comes_the_engine_fails(start):
    engine = start(strategy="none")
    assert submit(engine, b"echo:x").result(DEADLINE_S) == b"x"
    os.kill(pool_of(int(submit(engine, b"pid").result(DEADLINE_S))), signal.SIGKILL)
    wait_until(lambda: engine.status().blocks["0"]["status"] != "RUNNING", "the block lives", timeout_s=DEADLINE_S)
    assert engine.failed() is None
    waits = submit(engine, b"echo:x")
    assert "strategy 'none'" in engine.failed()
    engine.shutdown()
    assert waits.exception(DEADLINE_S).lost
