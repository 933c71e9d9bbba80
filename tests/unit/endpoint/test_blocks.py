from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from parsl.executors.high_throughput.executor import HighThroughputExecutor
from parsl.jobs.states import JobState, JobStatus
from parsl.launchers import SingleNodeLauncher
from parsl.providers import LocalProvider
from parsl.providers.cluster_provider import ClusterProvider

from parsl_globus.endpoint.blocks import BlockRecord, give_up_on_blocks, live_jobs

MISSING, FAILED, RUNNING, DONE = JobState.MISSING, JobState.FAILED, JobState.RUNNING, JobState.COMPLETED


@pytest.mark.parametrize(
    ("states", "connected", "gives_up"),
    [
        ([], [], False),
        ([RUNNING], [], False),
        ([MISSING], [], True),
        ([MISSING, RUNNING], [], False),
        ([FAILED], ["0"], False),
        ([DONE, MISSING, MISSING], ["0"], False),
        ([FAILED, MISSING, MISSING, MISSING], ["0"], True),
        ([MISSING, MISSING, MISSING, DONE], ["3"], False),
        ([FAILED, MISSING, MISSING, MISSING, FAILED], ["0", "4"], False),
        ([FAILED] * 9, list("012345678"), False),
        ([FAILED] * 10, list("0123456789"), True),
    ],
)
def test_gives_up_when_blocks_fail_for_good(monkeypatch, states, connected, gives_up):
    executor = HighThroughputExecutor(address="127.0.0.1", provider=LocalProvider(), encrypted=False)
    monkeypatch.setattr(executor, "connected_blocks", lambda: connected)
    give_up_on_blocks(executor, {str(number): JobStatus(state) for number, state in enumerate(states)})
    assert executor.bad_state_is_set is gives_up


@pytest.mark.parametrize(
    ("blocks", "first", "gives_up"),
    [
        ([137], 1, False),
        (["Killed", 143], 1, False),
        ([137, 137, 137], 1, True),
        ([137] * 4, 2, True),
        ([137] * 3, 2, False),
        ([127], 1, True),
        ([137, 127], 1, True),
        ([255], 1, True),
        ([None], 1, True),
    ],
)
def test_a_first_block_that_is_killed_may_be_followed_by_others(monkeypatch, blocks, first, gives_up):
    """`blocks`: the exit code of each, or the provider's words for one without."""
    provider = LocalProvider(init_blocks=first)
    executor = HighThroughputExecutor(address="127.0.0.1", provider=provider, encrypted=False)
    monkeypatch.setattr(executor, "connected_blocks", list)
    status = {
        str(number): JobStatus(MISSING, message=how) if isinstance(how, str) else JobStatus(MISSING, exit_code=how)
        for number, how in enumerate(blocks)
    }
    give_up_on_blocks(executor, status)
    assert executor.bad_state_is_set is gives_up


def test_blocks_that_ended_need_no_cancelling():
    executor = HighThroughputExecutor(address="127.0.0.1", provider=LocalProvider(), encrypted=False)
    executor.blocks_to_job_id.update({"0": "17", "1": "18", "2": "19", "3": "20"})
    # Of a block that is just being asked for, Parsl notes the job's id first and its state later.
    states = {"0": DONE, "1": RUNNING, "2": JobState.SCALED_IN}
    executor.status_facade.update({block_id: JobStatus(state) for block_id, state in states.items()})
    assert live_jobs(executor) == ["18", "20"]


def test_a_block_may_be_added_while_those_that_live_are_looked_at():
    executor: Any = SimpleNamespace(blocks_to_job_id={"0": "1", "1": "2"})

    class Status(dict):
        def __contains__(self, _block_id):
            executor.blocks_to_job_id[str(len(executor.blocks_to_job_id))] = "new"  # as Parsl's thread does
            return False

    executor.status_facade = Status()
    assert live_jobs(executor) == ["1", "2"]


class Cancelling(ClusterProvider):
    """Notes what is cancelled, and fails over what it doesn't know as Parsl's providers do."""

    def __init__(self) -> None:
        super().__init__("test", 1, 0, 1, 1, 1, "00:10:00", SingleNodeLauncher())
        self.cancelled: list[str] = []
        self.broken = False

    def cancel(self, job_ids):
        self.cancelled += job_ids
        for job_id in job_ids:
            self.resources[job_id]["status"] = JobStatus(JobState.CANCELLED)
        if self.broken:
            raise RuntimeError("no scancel here")
        return [True for _ in job_ids]

    def submit(self, command, tasks_per_node, job_name="parsl"):
        raise NotImplementedError

    def _status(self):
        return

    @property
    def status_polling_interval(self):
        return 60


@pytest.mark.parametrize("broken", [False, True])
def test_blocks_of_an_agent_that_was_killed_are_cancelled_once(tmp_path, broken):
    killed = BlockRecord(tmp_path / "blocks.json", Cancelling())
    killed.note(["17"])
    killed.note(["17", "18"])
    provider = Cancelling()
    provider.broken = broken
    following = BlockRecord(tmp_path / "blocks.json", provider)
    following.cancel_left()
    assert provider.cancelled == ["17", "18"]
    assert provider.resources == {}
    following.cancel_left()
    assert provider.cancelled == ["17", "18"]


def test_blocks_of_this_machine_are_not_noted(tmp_path):
    record = BlockRecord(tmp_path / "blocks.json", LocalProvider())
    record.note(["17"])
    record.cancel_left()
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_record_stops_nothing(tmp_path):
    (tmp_path / "blocks.json").write_text("{")
    provider = Cancelling()
    BlockRecord(tmp_path / "blocks.json", provider).cancel_left()
    assert provider.cancelled == []
