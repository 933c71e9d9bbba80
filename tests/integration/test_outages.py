"""Parts of the whole end at the wrong moment: every task ends in its value or a typed error, and none runs twice."""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager

import parsl
import psutil
import pytest
from once import Work, wait_until
from outages import NAME, WORKERS, Outages, outage_s
from parsl import Config, python_app

from parsl_globus import GlobusComputeExecutor
from parsl_globus.errors import (
    EndpointOffline,
    EndpointStartFailed,
    ExecutorShutDown,
    ServiceUnreachable,
    SubmissionUncertain,
    TaskLost,
    WorkerLost,
)
from parsl_globus.executor import results as results_module
from parsl_globus.testing.site import LOCAL_ENDPOINT, LocalSite

DEADLINE_S = 90
#: `service_timeout_s` of an executor that soon gives up.
SHORT_S = 2


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    """Makes the sites of this module, each at its first use."""
    made: dict[bool, Outages] = {}

    def get(*, public_only: bool) -> Outages:
        if public_only not in made:
            made[public_only] = Outages(LocalSite(tmp_path_factory.mktemp("site")), public_only=public_only)
        made[public_only].make_whole()
        return made[public_only]

    yield get
    for outages in made.values():
        outages.site.stop()
        assert outages.site.processes() == []


@pytest.fixture
def outages(sites):
    return sites(public_only=False)


@pytest.fixture
def executor(outages):
    with started(GlobusComputeExecutor(outages.site.endpoint_id(NAME), client=outages.site.client())) as executor:
        yield executor


@pytest.fixture
def work(executor, tmp_path):
    return Work(executor, tmp_path)


@contextmanager
def started(executor):
    executor.start()
    try:
        yield executor
    finally:
        executor.shutdown()


def assert_lost(errors, *, begun, at_start=0):
    """Only these tasks may have failed, and as lost ones.

    A worker that ends at any moment may end after its mark, before the first line of the body: `at_start` tasks.
    """
    others = set(errors) - set(begun)
    assert len(others) <= at_start, f"tasks that had not begun were lost: {others}"
    assert {type(error) for error in errors.values()} <= {TaskLost, WorkerLost}


# ---- the service ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("public_only", [False, True], ids=["extensions", "public-only"])
def test_the_service_is_killed_with_tasks_in_flight(sites, public_only, tmp_path):
    outages = sites(public_only=public_only)
    with started(GlobusComputeExecutor(outages.site.endpoint_id(NAME), client=outages.site.client())) as executor:
        work = Work(executor, tmp_path)
        work.submit(60)
        work.wait_begun(work.submit(WORKERS - 1, held=True))
        work.submit(200)
        streaming = threading.Thread(target=lambda work=work: [work.submit(1) for _ in range(60)])
        streaming.start()  # so that there may be a submission that never gets its answer
        work.wait_done(100)
        outages.site.stop_service(kill=True)
        work.open_gate()  # their results have nowhere to go now
        streaming.join(DEADLINE_S)
        during = work.submit(20)
        outages.start_service()
        errors = work.outcome()
        if public_only:
            assert {type(error) for error in errors.values()} <= {SubmissionUncertain}
            assert not set(errors) & set(range(60 + WORKERS - 1))
            assert not set(errors) & set(during[1:]), "these were never sent while the service was away"
        else:
            assert errors == {}


def test_the_service_is_away_for_a_while_and_the_workflow_goes_on(outages, tmp_path):
    @python_app
    def successor(number):
        return number + 1

    executor = GlobusComputeExecutor(outages.site.endpoint_id(NAME), client=outages.site.client())
    config = Config(executors=[executor], run_dir=str(tmp_path), initialize_logging=False)
    with parsl.load(config):
        before = [successor(successor(number)) for number in range(50)]
        assert before[0].result(DEADLINE_S) == 2
        outages.site.stop_service()
        during = [successor(successor(number)) for number in range(50)]
        threading.Event().wait(outage_s(12))  # the outage itself: long enough for all pauses to have grown
        assert not any(future.done() for future in during)
        outages.start_service()
        after = [successor(successor(number)) for number in range(50)]
        for futures in (before, during, after):
            assert [future.result(DEADLINE_S) for future in futures] == [number + 2 for number in range(50)]


@pytest.mark.parametrize("public_only", [False, True], ids=["extensions", "public-only"])
def test_the_service_is_away_for_too_long(sites, public_only, tmp_path):
    outages = sites(public_only=public_only)
    url = outages.site.url
    executor = GlobusComputeExecutor(
        outages.site.endpoint_id(NAME), client=outages.site.client(), service_timeout_s=SHORT_S
    )
    with started(executor):
        work = Work(executor, tmp_path)
        in_flight = work.submit(1, held=True)
        work.wait_begun(in_flight)
        outages.site.stop_service(kill=True)
        in_vain = work.submit(5)
        for number in [*in_flight, *in_vain]:
            error = work.futures[number].exception(DEADLINE_S)
            assert isinstance(error, ServiceUnreachable), error
            assert (error.url, error.transient) == (url, True)
            assert SHORT_S <= error.after_s < DEADLINE_S
        work.open_gate()
        outages.start_service()
        later = work.submit(20)
        assert set(work.outcome()) == {*in_flight, *in_vain}
        assert work.begun() == {*in_flight, *later}, "what was told to have failed ran after all"


def test_the_service_s_database_is_restored(outages, tmp_path, monkeypatch):
    """It knows nothing of what came after the backup: not the executor's function, nor the tasks in flight."""
    monkeypatch.setattr(results_module, "RECONCILE_PERIOD_S", 1.0)
    with outages.restored():
        executor = GlobusComputeExecutor(outages.site.endpoint_id(NAME), client=outages.site.client())
        executor.start()
        work = Work(executor, tmp_path)
        in_flight = work.submit(1, held=True)
        work.wait_begun(in_flight)
    try:
        later = work.submit(50)
        work.open_gate()
        errors = work.outcome()
    finally:
        executor.shutdown()
    assert {number: type(error) for number, error in errors.items()} == dict.fromkeys(in_flight, TaskLost)
    assert work.begun() == {*in_flight, *later}


# ---- the network of the workflow --------------------------------------------------------------------------------


def test_the_workflow_s_network_is_cut(outages, tmp_path):
    with outages.through_proxies() as (client, rest, amqp):
        with started(GlobusComputeExecutor(outages.site.endpoint_id(NAME), client=client)) as executor:
            work = Work(executor, tmp_path)
            work.submit(50)
            work.wait_begun(work.submit(1, held=True))
            work.submit(100)
            work.wait_done(60)
            assert amqp.accepted == 1
            for proxy in (rest, amqp):
                proxy.cut()
            work.open_gate()
            work.wait_begun(work.futures)  # the far side does not depend on us
            late = work.submit(20)
            attempts = amqp.accepted + rest.accepted
            wait_until(lambda: amqp.accepted + rest.accepted > attempts + 2, "nobody tried to connect again")
            assert not any(work.futures[number].done() for number in late)
            for proxy in (rest, amqp):
                proxy.mend()
            assert work.outcome() == {}


def test_connections_break_again_and_again(outages, tmp_path):
    with outages.through_proxies() as (client, rest, amqp):
        with started(GlobusComputeExecutor(outages.site.endpoint_id(NAME), client=client)) as executor:
            work = Work(executor, tmp_path)
            for turn in range(1, 6):
                work.submit(60)
                work.wait_done(60 * turn - 45)
                amqp.cut_once()
                rest.cut_once()
            assert work.outcome() == {}


def test_results_are_asked_for_when_the_stream_brings_none(outages, tmp_path, monkeypatch):
    monkeypatch.setattr(results_module, "RECONCILE_PERIOD_S", 1.0)
    with outages.through_proxies() as (client, _rest, amqp):
        with started(GlobusComputeExecutor(outages.site.endpoint_id(NAME), client=client)) as executor:
            work = Work(executor, tmp_path)
            held = work.submit(1, held=True)
            work.wait_begun(held)
            work.submit(20)
            work.wait_done(20)
            amqp.hold()
            work.open_gate()
            late = work.submit(20)
            work.wait_done(41)
            assert amqp.accepted == 1, "the stream was not up all the time"
            amqp.release()  # what it brings now is known already
            work.submit(20)
            assert work.outcome() == {}
            assert work.begun() >= {*held, *late}


# ---- the endpoint -----------------------------------------------------------------------------------------------


def test_the_user_endpoint_is_killed(outages, work):
    held = work.submit(WORKERS, held=True)
    queued = work.submit(100)
    work.wait_begun(held)
    outages.kill("parsl_globus.endpoint.user_endpoint")
    errors = work.outcome()
    assert_lost(errors, begun=held)
    assert len(errors) == len(held)
    assert work.begun() >= set(queued)


def test_the_user_endpoint_is_killed_while_tasks_come_and_go(outages, work):
    work.submit(400)
    work.wait_done(50)
    outages.kill("parsl_globus.endpoint.user_endpoint")
    later = work.submit(50)
    errors = work.outcome()
    assert_lost(errors, begun=work.begun() - set(later), at_start=WORKERS)
    assert not set(errors) & set(later)


def test_all_of_the_endpoint_is_killed_but_its_workers(outages, work):
    held = work.submit(WORKERS, held=True)
    queued = work.submit(100)
    work.wait_begun(held)
    orphans = outages.runs("process_worker_pool")
    assert orphans
    # The manager first: otherwise it would start the user endpoint again.
    outages.kill("endpoint", "run", NAME)
    outages.kill("parsl_globus.endpoint.user_endpoint")
    outages.site.start_endpoint(NAME)
    errors = work.outcome()
    assert_lost(errors, begun=held)
    assert len(errors) == len(held)
    assert work.begun() >= set(queued)
    assert not any(living(orphan) for orphan in orphans)


def test_a_pool_of_workers_is_killed(outages, work):
    work.submit(30)
    work.wait_done(30)
    held = work.submit(WORKERS, held=True)
    work.submit(60)
    work.wait_begun(held)
    outages.kill("process_worker_pool")
    errors = work.outcome()
    assert_lost(errors, begun=held)
    assert len(errors) == len(held)
    work.open_gate()  # HTEX ends no worker of a pool that is killed: on this machine its task runs on


def test_the_endpoint_is_stopped_and_started_with_tasks_waiting(outages, work):
    held = work.submit(WORKERS, held=True)
    work.submit(100)
    work.wait_begun(held)
    outages.site.stop_endpoint(NAME)
    assert outages.runs("endpoint") == []
    work.submit(100)
    outages.site.start_endpoint(NAME)
    errors = work.outcome()
    assert_lost(errors, begun=held)
    assert len(errors) == len(held)


def test_an_endpoint_that_stays_away(outages, tmp_path):
    outages.site.stop_endpoint(NAME)
    endpoint_id = outages.site.endpoint_id(NAME)
    executor = GlobusComputeExecutor(endpoint_id, client=outages.site.client(), offline_timeout_s=3)
    with started(executor):
        work = Work(executor, tmp_path)
        in_vain = work.submit(5)
        work.wait_done(5)
        assert {type(work.futures[number].exception()) for number in in_vain} == {EndpointOffline}
        outages.site.start_endpoint(NAME)
        later = work.submit(20)
        assert set(work.outcome()) == set(in_vain)
        assert work.begun() == set(later), "what was told to have failed ran after all"


def test_a_user_endpoint_that_can_t_start_says_why(outages, tmp_path):
    mended = tmp_path / "mended"
    setup = f"endpoint_setup: test -e {mended} || {{ echo the disk is full >&2; exit 3; }}\n"
    config = LOCAL_ENDPOINT.format(name="broken", workers=1) + setup
    endpoint_id = outages.site.start_endpoint("broken", config)
    try:
        with started(GlobusComputeExecutor(endpoint_id, client=outages.site.client())) as executor:
            work = Work(executor, tmp_path)
            failed = work.submit(5)
            for future in work.futures.values():
                with pytest.raises(EndpointStartFailed, match="exit code 3: the disk is full"):
                    future.result(DEADLINE_S)
            mended.touch()
            later = work.submit(5)
            assert set(work.outcome()) == set(failed)
            assert work.begun() == set(later), "what was told to have failed ran after all"
    finally:
        outages.site.stop_endpoint("broken")


# ---- the workflow -----------------------------------------------------------------------------------------------


def test_an_executor_that_is_shut_down_answers_all_and_leaves_nothing(outages, tmp_path):
    endpoint_id, client = outages.site.endpoint_id(NAME), outages.site.client()
    threads, sockets = set(threading.enumerate()), connections()
    executor = GlobusComputeExecutor(endpoint_id, client=client)
    executor.start()
    work = Work(executor, tmp_path)
    work.submit(20)
    work.wait_done(20)
    work.wait_begun(work.submit(1, held=True))
    left = work.submit(500)
    executor.shutdown()
    assert all(future.done() for future in work.futures.values())
    work.open_gate()
    errors = work.outcome()
    assert {type(error) for error in errors.values()} == {ExecutorShutDown}
    assert set(errors) & set(left)
    assert set(threading.enumerate()) <= threads
    assert connections() <= sockets
    late = executor.submit(abs, {}, -1)
    assert isinstance(late.exception(0), ExecutorShutDown)


def test_an_executor_is_shut_down_while_the_service_is_away(outages, tmp_path, caplog):
    endpoint_id, client = outages.site.endpoint_id(NAME), outages.site.client()
    threads = set(threading.enumerate())
    executor = GlobusComputeExecutor(endpoint_id, client=client)
    executor.start()
    work = Work(executor, tmp_path)
    work.wait_begun(work.submit(1, held=True))
    outages.site.stop_service(kill=True)
    work.submit(20)
    wait_until(lambda: "will be tried again" in caplog.text, "nobody noticed")
    began = time.monotonic()
    executor.shutdown()
    assert time.monotonic() - began < 2
    assert {type(error) for error in work.outcome().values()} == {ExecutorShutDown}
    assert set(threading.enumerate()) <= threads
    work.open_gate()


def living(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def connections() -> set[tuple[int, tuple[object, ...]]]:
    """This process's TCP connections."""
    return {
        (connection.fd, tuple(connection.laddr)) for connection in psutil.Process(os.getpid()).net_connections("tcp")
    }
