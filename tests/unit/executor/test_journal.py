"""A journal over several runs, each ended as by a kill: what is sent anew, what is asked, what futures get."""

from __future__ import annotations

import logging
import threading
import uuid
from concurrent.futures import Future

import pytest
from parsl.app.errors import RemoteExceptionWrapper

from parsl_globus.errors import (
    ExecutorShutDown,
    JournalError,
    RequestRefused,
    ServiceUnreachable,
    SubmissionUncertain,
    TaskCancelled,
    TooManyRequests,
)
from parsl_globus.executor import batcher as batcher_module
from parsl_globus.executor import by_value, journal_resume
from parsl_globus.executor.batcher import Batcher, Waiting
from parsl_globus.executor.journal import Journal
from parsl_globus.executor.journal_resume import Service, take_up
from parsl_globus.executor.outcome import complete_from_status
from parsl_globus.wire.documents import Submitted, TaskStatus
from parsl_globus.wire.payload import pack_runner_record, to_text

DEADLINE_S = 60
ENDPOINT_ID = uuid.uuid4()
GROUP_ID = uuid.uuid4()


def work(number):
    return 2 * number


def value_record(value) -> str:
    return pack_runner_record({"kind": "value", "data": to_text(by_value.dumps(value))})


class FakeService:
    """A service with one group; remembers keys as ours does."""

    def __init__(self) -> None:
        self.posts: list[tuple[list[str], uuid.UUID | None]] = []
        self.replies: dict[uuid.UUID, Submitted] = {}
        self.tasks: dict[uuid.UUID, TaskStatus] = {}
        self.asked: list[list[uuid.UUID]] = []
        self.lose_answers = False
        self.error: Exception | None = None

    def post(self, group, payloads, key):
        if self.error is not None:
            raise self.error
        self.posts.append((list(payloads), key))
        reply = self.replies.get(key)
        if reply is None:
            ids = [uuid.uuid4() for _ in payloads]
            self.tasks.update((i, TaskStatus(task_id=i, status="running")) for i in ids)
            reply = Submitted(
                tasks={uuid.uuid4(): ids}, task_group_id=GROUP_ID, request_id=uuid.uuid4(), endpoint_id=ENDPOINT_ID
            )
            if key is not None:
                self.replies[key] = reply
        if self.lose_answers:
            raise ServiceUnreachable(url="http://x", detail="killed", maybe_received=True)
        return reply

    def statuses(self, task_ids):
        self.asked.append(list(task_ids))
        return {i: self.tasks[i] for i in task_ids if i in self.tasks}

    def end(self, task_id, *, value=None, exception=None):
        result = None if exception else value_record(value)
        self.tasks[task_id] = TaskStatus(
            task_id=task_id, status="success", completion_t="1", result=result, exception=exception
        )


class Run:
    """One life of a workflow."""

    def __init__(
        self, path, service, *, idempotent=True, limit_bytes=1 << 20, service_timeout_s: float | None = 0
    ) -> None:
        self.journal = Journal(path, endpoint_id=ENDPOINT_ID, label="test", limit_bytes=limit_bytes)
        self.service = service
        self.watched: dict[uuid.UUID, Future] = {}
        self.seen = threading.Condition()
        self.batcher = Batcher(
            service.post,
            self.submitted,
            renew=lambda: None,
            idempotent=idempotent,
            endpoint_id=ENDPOINT_ID,
            label="test",
            max_batch=100,
            linger_s=0,
            service_timeout_s=service_timeout_s,
        )
        asked = Service(service.statuses, service.post, self.submitted, idempotent)
        self.group_id = take_up(self.journal, self.batcher, asked, label="test")

    def submitted(self, task_ids, futures):
        self.journal.submitted(task_ids, futures, GROUP_ID)
        with self.seen:
            self.watched.update(zip(task_ids, futures, strict=True))
            self.seen.notify_all()

    def submit(self, *numbers, function=work):
        """Submit these, in one batch if it was not begun."""
        futures = []
        for number in numbers:
            future: Future = Future()
            self.journal.enter(future, function, (number,), {}, ("", ""))
            self.batcher.put(Waiting(payload=f"payload {number}", future=future, group=("", "")))
            futures.append(future)
        return futures

    def begin(self):
        self.batcher.start()

    def ids(self, futures):
        """Ids of their tasks, once they have them."""
        with self.seen:
            assert self.seen.wait_for(lambda: {*map(id, futures)} <= {*map(id, self.watched.values())}, DEADLINE_S)
            by_future = {id(future): task_id for task_id, future in self.watched.items()}
        return [by_future[id(future)] for future in futures]

    def result(self, task_id, *, value=None, exception=None):
        """As the results' thread does."""
        self.service.end(task_id, value=value, exception=exception)
        status = self.service.tasks[task_id]
        self.journal.answered([(task_id, status.result)])
        if task_id in self.watched:
            complete_from_status(self.watched[task_id], status)

    def killed(self):
        """End without a word to the journal; only its lock is let go."""
        self.journal.file.close()
        self.batcher.stop()


@pytest.fixture
def service():
    return FakeService()


@pytest.fixture
def start(tmp_path, service):
    runs: list[Run] = []

    def begin(**options):
        if runs:
            runs[-1].killed()
        runs.append(Run(tmp_path / "run.journal", service, **options))
        return runs[-1]

    yield begin
    for run in runs:
        run.killed()


def first_run(start, *numbers, **options):
    run = start(**options)
    futures = run.submit(*numbers)
    run.begin()
    return run, futures, run.ids(futures)


def test_what_was_submitted_is_taken_up(start, service, caplog):
    caplog.set_level(logging.INFO)
    run, _, ids = first_run(start, 0, 1, 2, 3, 4, 5)
    run.result(ids[0], value=0)  # delivered
    run = start()
    assert run.group_id == GROUP_ID
    service.end(ids[1], value=2)  # while nobody listened
    service.end(ids[2], exception="it failed")
    service.tasks[ids[3]] = TaskStatus(task_id=ids[3], status="success")  # its result has been dropped
    del service.tasks[ids[4]]
    posted = len(service.posts)
    futures = run.submit(0, 1, 2, 3, 4, 5, 6)
    run.begin()
    assert [futures[number].result(DEADLINE_S) for number in (0, 1)] == [0, 2]
    again = run.ids(futures[2:])
    assert again[3] == ids[5]
    assert not {*again[:3], again[4]} & set(ids)
    assert [payloads for payloads, _ in service.posts[posted:]] == [
        ["payload 2", "payload 3", "payload 4", "payload 6"]
    ]
    assert "1 tasks of before had failed, and of 2 the service keeps no result; they run again" in caplog.text
    assert "6 tasks of before: 1 have results in the journal, 1 had ended, 1 are under way, 3 run again" in caplog.text


def test_a_delivered_result_is_there_for_any_number_of_starts(start, service):
    run, _, ids = first_run(start, 1)
    run.result(ids[0], value=2)
    service.tasks.clear()
    for _ in range(3):
        run = start()
        (future,) = run.submit(1)
        run.begin()
        assert future.result(DEADLINE_S) == 2
    assert len(service.posts) == 1


def test_a_result_that_comes_before_its_task_is_asked_for(start, service):
    _, _, ids = first_run(start, 1)
    run = start()
    run.result(ids[0], value=2)
    service.tasks.clear()
    (future,) = run.submit(1)
    run.begin()
    assert future.result(DEADLINE_S) == 2


def test_a_result_that_comes_while_its_task_is_taken_up(start, service):
    _, _, ids = first_run(start, 1, 2)
    run = start()
    statuses = service.statuses

    def slow(task_ids):
        told = statuses(task_ids)
        run.journal.answered([(ids[1], value_record(4))])  # on the results' thread
        return told

    object.__setattr__(run.batcher._prepare._service, "statuses", slow)
    futures = run.submit(1, 2)
    run.begin()
    assert run.ids(futures) == ids  # both are watched, none is forgotten


def test_equal_calls_are_told_apart_by_their_number(start):
    _, _, ids = first_run(start, 1, 1, 1)
    run = start()
    futures = run.submit(1, 1, 1, 1)
    run.begin()
    assert run.ids(futures)[:3] == ids
    assert run.ids(futures)[3] not in ids


def test_a_retry_is_the_same_call(start, service):
    run, futures, ids = first_run(start, 1, 2)
    retried: list[Future] = []
    futures[0].add_done_callback(lambda _: retried.extend(run.submit(1)))  # as Parsl does
    run.result(ids[0], exception="it failed")
    (again,) = run.ids(retried)
    assert again not in ids
    run = start()
    (future,) = run.submit(1)
    run.begin()
    assert run.ids([future]) == [again]


def test_what_an_app_has_raised_runs_again(start):
    try:
        raise ValueError("of the app")
    except ValueError as exc:
        raised = RemoteExceptionWrapper(type(exc), exc, exc.__traceback__)
    run, futures, ids = first_run(start, 1)
    run.result(ids[0], value=raised)
    assert isinstance(futures[0].result(0), RemoteExceptionWrapper)
    run = start()
    (future,) = run.submit(1)
    run.begin()
    assert run.ids([future]) != ids


def test_a_task_that_is_cancelled_is_none_of_the_journal_s(start):
    run, futures, ids = first_run(start, 1)
    run.journal.answered([(ids[0], None)])
    futures[0].set_exception(TaskCancelled(detail="by its owner"))
    run.journal.close()
    run = start()
    assert run.group_id is None


def test_what_the_executor_s_end_leaves_is_taken_up(start):
    run, futures, ids = first_run(start, 1)
    futures[0].set_exception(ExecutorShutDown(label="test"))
    run.journal.close()
    run = start()
    (future,) = run.submit(1)
    run.begin()
    assert run.ids([future]) == ids


def test_within_a_run_too(start):
    run, futures, ids = first_run(start, 1)
    futures[0].set_exception(ServiceUnreachable(url="http://x"))
    (future,) = run.submit(1)
    assert run.ids([future]) == ids


# ---- killed amid a submission ------------------------------------------------------------------------------------


def killed_amid(start, service, *numbers, idempotent):
    """The service took it, and its answer found nobody."""
    run = start(idempotent=idempotent)
    service.lose_answers = True
    futures = run.submit(*numbers)
    run.journal.sending(uuid.uuid4() if idempotent else None, list(run.batcher._waiting))
    (batch,) = {row.batch for row in run.journal.file.rows(ENDPOINT_ID)}
    stored = run.journal.file.batch(batch)
    with pytest.raises(ServiceUnreachable):
        service.post(("", ""), [f"payload {number}" for number in numbers], stored.key)
    service.lose_answers = False
    assert len(futures) == len(numbers)


def test_with_keys_it_is_sent_again_and_nothing_twice(start, service):
    killed_amid(start, service, 1, 2, 3, idempotent=True)
    run = start()
    taken = list(service.tasks)
    (first,) = run.submit(1)
    run.begin()
    assert run.ids([first]) == taken[:1]
    assert service.posts[1] == service.posts[0]
    others = run.submit(2, 3, 4)
    assert run.ids(others)[:2] == taken[1:]
    assert [payloads for payloads, _ in service.posts[2:]] == [["payload 4"]]


def test_one_that_never_arrived_is_sent_once(start, service):
    killed_amid(start, service, 1, 2, idempotent=True)
    service.tasks.clear()
    service.replies.clear()
    run = start()
    futures = run.submit(1, 2)
    run.begin()
    assert set(run.ids(futures)) == set(service.tasks)
    assert len(service.tasks) == 2


def test_one_that_is_refused_goes_the_usual_way(start, service):
    killed_amid(start, service, 1, idempotent=True)
    run = start()
    post = service.post

    def refuse_once(group, payloads, key):
        service.post = post
        raise RequestRefused(http_status=404, code="FUNCTION_NOT_FOUND", reason="gone")

    object.__setattr__(run.batcher._prepare._service, "post", refuse_once)
    (future,) = run.submit(1)
    run.begin()
    assert run.ids([future])[0] in service.tasks
    assert [payloads for payloads, _ in service.posts] == [["payload 1"], ["payload 1"]]


def test_without_keys_it_is_uncertain_and_told_once(start, service):
    killed_amid(start, service, 1, 2, idempotent=False)
    run = start(idempotent=False)
    futures = run.submit(1, 2)
    run.begin()
    for future in futures:
        assert isinstance(future.exception(DEADLINE_S), SubmissionUncertain)
    assert len(service.posts) == 1
    (retried,) = run.submit(1)
    run.ids([retried])


# ---- what may go wrong -------------------------------------------------------------------------------------------


def test_a_service_that_doesn_t_answer_fails_them_and_the_next_start_takes_them_up(start, service):
    _, _, ids = first_run(start, 1)
    run = start()

    def away(_ids):
        raise ServiceUnreachable(url="http://x")

    object.__setattr__(run.batcher._prepare._service, "statuses", away)
    (future,) = run.submit(1)
    run.begin()
    assert isinstance(future.exception(DEADLINE_S), ServiceUnreachable)
    run = start()
    (future,) = run.submit(1)
    run.begin()
    assert run.ids([future]) == ids


def test_a_service_that_has_enough_in_between_is_asked_for_the_rest_only(start, service, monkeypatch):
    monkeypatch.setattr(journal_resume, "STATUS_BATCH", 2)
    monkeypatch.setattr(batcher_module, "FIRST_PAUSE_S", 0.001)
    _, _, ids = first_run(start, 1, 2, 3, 4, 5)
    run = start(service_timeout_s=None)
    refused: list = []

    def once(task_ids):
        if ids[3] in task_ids and not refused:
            refused.append(task_ids)
            raise TooManyRequests(retry_after_s=0.1, reason="slow down")
        return FakeService.statuses(service, task_ids)

    object.__setattr__(run.batcher._prepare._service, "statuses", once)
    futures = run.submit(1, 2, 3, 4, 5)
    run.begin()
    assert run.ids(futures) == ids
    assert (service.asked, refused) == ([ids[:2], ids[2:4], ids[4:]], [ids[2:4]])


def test_what_can_t_be_written_is_not_sent(start, service):
    run = start()
    run.journal.file.close()
    futures = run.submit(1)
    run.begin()
    assert isinstance(futures[0].exception(DEADLINE_S), JournalError)
    assert service.posts == []


def test_a_result_that_can_t_be_written_is_delivered(start, caplog):
    run, futures, ids = first_run(start, 1)
    run.journal.file.close()
    run.result(ids[0], value=2)
    assert futures[0].result(0) == 2
    assert "1 results are not in the journal" in caplog.text


def test_the_limit_is_kept_and_told(start, caplog):
    run, _, ids = first_run(start, *range(20), limit_bytes=50_000)
    for number, task_id in enumerate(ids):
        run.result(task_id, value="x" * 10_000 + str(number))
    assert run.journal.file.size_bytes() <= 50_000
    assert "oldest results are forgotten, and their tasks would run again" in caplog.text
    kept = [row for row in run.journal.file.rows(ENDPOINT_ID) if row.answered]
    assert {row.task_id for row in kept} <= set(ids[-4:])


def test_a_function_without_a_key_is_told_once(start, caplog):
    run = start()
    for _ in range(3):
        future: Future = Future()
        run.journal.enter(future, abs, (1,), {}, ("", ""))
    assert caplog.text.count("calls of builtins.abs are not in the journal and would run again") == 1


def test_what_was_submitted_before_is_not_withdrawn(start):
    _, _, ids = first_run(start, 1)
    run = start()
    old, new = run.submit(1, 2)
    assert run.batcher.withdraw([old, new]) == [new]
    run.begin()
    assert run.ids([old]) == ids
