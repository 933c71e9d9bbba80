"""Tasks are cancelled: those that wait never run, those that run end, and nothing else of their workers suffers."""

from __future__ import annotations

import time
import uuid

import pytest
from globus_compute_sdk.errors import TaskExecutionFailed
from globus_compute_sdk.serialize import AllCodeStrategies, ComputeSerializer
from once import DEADLINE_S, Work, wait_until

from parsl_globus import GlobusComputeExecutor
from parsl_globus.errors import ExtensionMissing, TaskCancelled
from parsl_globus.executor.cancel import CancelOutcome
from parsl_globus.testing.site import LOCAL_ENDPOINT, LocalSite

CANCELLED, REQUESTED, FINISHED = CancelOutcome.CANCELLED, CancelOutcome.REQUESTED, CancelOutcome.FINISHED


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with LocalSite(tmp_path_factory.mktemp("cancel")) as site:
        site.start_service()
        yield site
    assert site.processes() == []


@pytest.fixture(scope="module")
def endpoint_id(site):
    # HTEX looks for dead workers with each of its own heartbeats.
    config = LOCAL_ENDPOINT.format(name="cancels", workers=2).replace("engine:", "engine:\n  heartbeat_period: 1")
    return site.start_endpoint("cancels", config)


@pytest.fixture
def executor(site, endpoint_id):
    executor = GlobusComputeExecutor(endpoint_id, client=site.client())
    executor.start()
    yield executor
    executor.shutdown()


@pytest.fixture
def work(executor, tmp_path):
    work = Work(executor, tmp_path)
    yield work
    work.open_gate()


def cancelled(future):
    error = future.exception(DEADLINE_S)
    assert isinstance(error, TaskCancelled), error
    return str(error)


def task_id(future):
    wait_until(lambda: hasattr(future, "globus_task_id"), "it was not submitted")
    return future.globus_task_id


def test_waiting_tasks_never_run_and_running_ones_end(executor, work):
    """Two workers, both busy: one of the two tasks is cancelled, and two of those that wait."""
    first, second = work.submit(2, held=True)
    work.wait_begun([first, second])
    waiting = work.submit(4)
    for number in waiting:
        task_id(work.futures[number])
    unwanted = waiting[:2]
    outcomes = executor.cancel(work.futures[first], *(work.futures[number] for number in unwanted))
    assert outcomes == [REQUESTED] * 3
    for number in unwanted:
        assert "before it had begun" in cancelled(work.futures.pop(number))
    asked_s = time.monotonic()
    assert "while it ran" in cancelled(work.futures.pop(first))
    took_s = time.monotonic() - asked_s
    # Its worker is there for the others, though its neighbour is still busy.
    for number in waiting[2:]:
        assert work.futures[number].result(DEADLINE_S) == 2 * number
    assert not work.futures[second].done()
    work.open_gate()
    assert work.outcome() == {}
    assert not work.begun() & set(unwanted)
    assert took_s < 30
    (outcome,) = executor.cancel(work.futures[second])
    assert outcome is FINISHED


def test_what_a_cancelled_task_has_started_ends_with_it(executor, tmp_path):
    def start_others(folder):
        import subprocess

        subprocess.run(["sh", "-c", f"sleep 600 & echo $! > {folder}/pid; wait"], check=False)

    future = executor.submit(start_others, {}, str(tmp_path))
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip(), "it did not begin")
    pid = int((tmp_path / "pid").read_text())
    assert executor.cancel(task_id(future)) == [REQUESTED]
    cancelled(future)
    wait_until(lambda: not _lives(pid), "its process lives on")


def _lives(pid):
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_task_that_catches_everything_ends_with_its_worker(executor, work, tmp_path):
    def stubborn(path):
        import time

        open(path, "w").close()
        while True:
            try:
                time.sleep(1)
            except BaseException:  # noqa: BLE001 - that is the point
                continue

    (other,) = work.submit(1, held=True)
    future = executor.submit(stubborn, {}, str(tmp_path / "begun"))
    work.wait_begun([other])
    wait_until((tmp_path / "begun").exists, "it did not begin")
    executor.cancel(future)
    assert "ended with its worker" in cancelled(future)
    work.open_gate()
    assert work.outcome() == {}


def test_a_task_of_the_public_sdk(executor, site, endpoint_id, tmp_path):
    def begin_and_wait(path):
        import time

        open(path, "w").close()
        time.sleep(600)

    public = site.client()
    public.fx_serializer = ComputeSerializer(strategy_code=AllCodeStrategies())
    task_id = public.run(
        str(tmp_path / "begun"), endpoint_id=endpoint_id, function_id=public.register_function(begin_and_wait)
    )
    wait_until((tmp_path / "begun").exists, "it did not begin")
    assert executor.cancel(task_id) == [REQUESTED]
    ends = []
    wait_until(lambda: _ended(public, task_id, ends), "it did not end")
    assert "The task was cancelled while it ran." in str(ends[0])
    assert executor.cancel(uuid.uuid4()) == [CancelOutcome.UNKNOWN]


def _ended(client, task_id, ends):
    try:
        return not client.get_task(task_id)["pending"]
    except TaskExecutionFailed as exc:
        ends.append(exc)
        return True


def test_tasks_of_an_endpoint_that_is_away(executor, site, work):
    """Some were on its disk when it stopped, others came since: none of those that are cancelled runs."""
    busy = work.submit(2, held=True)
    work.wait_begun(busy)
    on_disk = work.submit(2)
    ids = [task_id(work.futures[number]) for number in on_disk]
    wait_until(lambda: _log_has(site, "cancels", ids), "they did not arrive")
    site.stop_endpoint("cancels")
    queued = work.submit(2)
    unwanted = [on_disk[0], queued[0]]
    for number in queued:
        task_id(work.futures[number])
    wait_until(lambda: _offline(site, executor), "it is not seen to be offline")
    outcomes = executor.cancel(*(work.futures[number] for number in unwanted))
    assert outcomes == [CANCELLED, CANCELLED]
    for number in unwanted:
        cancelled(work.futures.pop(number))
    site.start_endpoint("cancels")
    work.open_gate()
    for number in busy:
        work.futures.pop(number).exception(DEADLINE_S)  # they had begun
    assert work.outcome() == {}
    assert not work.begun() & set(unwanted)


def _log_has(site, name, ids):
    text = "".join(path.read_text() for path in (site.home / "endpoints" / name).glob("uep.*/endpoint.log"))
    return all(str(one) in text for one in ids)


def _offline(site, executor):
    from parsl_globus.client.rest import ServiceClient

    client = ServiceClient(site.client())
    try:
        return client.endpoint_status(executor.endpoint_id)["status"] == "offline"
    finally:
        client.close()


def test_without_the_extension_only_what_was_not_sent_is_cancelled(tmp_path):
    with LocalSite(tmp_path / "home") as site:
        site.start_service(public_only=True)
        executor = GlobusComputeExecutor(site.start_endpoint("plain"), client=site.client(), linger_s=2)
        executor.start()
        try:
            work = Work(executor, tmp_path)
            (kept, unwanted) = work.submit(2)
            assert executor.cancel(work.futures[unwanted]) == [CANCELLED]
            assert "not been sent" in cancelled(work.futures.pop(unwanted))
            task_id(work.futures[kept])
            if not work.futures[kept].done():
                with pytest.raises(ExtensionMissing, match="run on"):
                    executor.cancel(work.futures[kept])
            assert work.outcome() == {}
            assert work.begun() == {kept}
        finally:
            executor.shutdown()
    assert site.processes() == []
