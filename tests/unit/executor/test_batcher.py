"""The batcher against a submit function that does as told: what the service would say is the input here."""

from __future__ import annotations

import threading
import time
import uuid
from concurrent.futures import Future, wait

import pytest

from parsl_globus.errors import (
    EndpointNotFound,
    ExecutorShutDown,
    FunctionNotAllowed,
    NotAuthorized,
    PayloadTooLarge,
    RequestRefused,
    ServiceUnreachable,
    SubmissionUncertain,
)
from parsl_globus.executor.batcher import Batcher, RateLimit, Waiting
from parsl_globus.wire.documents import Submitted, TaskRefusal

DEADLINE_S = 20
FUNCTION_ID = uuid.uuid4()
ENDPOINT_ID = uuid.uuid4()
GROUP = ("", "")


class Service:
    """Answers submissions in turn with what `answers` holds, then as a healthy service does."""

    def __init__(self) -> None:
        self.calls: list[tuple[tuple[str, str], list[str], uuid.UUID | None]] = []
        self.answers: list = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.called = threading.Semaphore(0)
        self.renewals: list[int] = []
        self.refusals_to_renew: list[Exception] = []

    def renew(self):
        """Have the function known again; keeps after how many submissions."""
        if self.refusals_to_renew:
            raise self.refusals_to_renew.pop(0)
        self.renewals.append(len(self.calls))

    def submit(self, group, payloads, key):
        self.calls.append((group, list(payloads), key))
        self.called.release()
        assert self.may_answer.wait(DEADLINE_S)
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, BaseException):
            raise answer
        return answer(payloads) if answer else reply([uuid.uuid4() for _ in payloads])


def reply(task_ids, errors=None) -> Submitted:
    return Submitted(
        tasks={FUNCTION_ID: task_ids},
        task_group_id=uuid.uuid4(),
        request_id=uuid.uuid4(),
        endpoint_id=uuid.uuid4(),
        errors={FUNCTION_ID: errors} if errors else None,
    )


def refusal(http_status, code="X"):
    return RequestRefused(http_status=http_status, code=code, reason="because")


def unreachable(maybe_received):
    return ServiceUnreachable(url="http://x", detail="broken", maybe_received=maybe_received)


@pytest.fixture
def service():
    return Service()


def complete(task_ids, futures) -> None:
    for task_id, future in zip(task_ids, futures, strict=True):
        if not future.done():  # as results are taken, which may come twice
            future.set_result(task_id)


@pytest.fixture
def make(service):
    made = []

    def build(**options):
        batcher = Batcher(
            service.submit,
            complete,
            **{
                "renew": service.renew,
                "idempotent": True,
                "endpoint_id": ENDPOINT_ID,
                "label": "test",
                "max_batch": 100,
                "linger_s": 0,
                "service_timeout_s": None,
                **options,
            },
        )
        batcher.start()
        made.append(batcher)
        return batcher

    yield build
    service.may_answer.set()
    for batcher in made:
        batcher.stop()


def put(batcher, payload="p", group=GROUP) -> Future:
    future: Future = Future()
    batcher.put(Waiting(payload=payload, future=future, group=group))
    return future


def done(futures):
    finished, _ = wait(futures, timeout=DEADLINE_S)
    assert len(finished) == len(futures)


def test_a_lone_task_leaves_at_once_and_the_others_together(service, make):
    service.may_answer.clear()
    batcher = make()
    first = put(batcher, "0")
    assert service.called.acquire(timeout=DEADLINE_S)
    others = [put(batcher, str(i)) for i in range(1, 51)]
    service.may_answer.set()
    done([first, *others])
    assert [len(payloads) for _, payloads, _ in service.calls] == [1, 50]
    assert service.calls[1][1] == [str(i) for i in range(1, 51)]


def test_batches_are_bounded_in_number_and_bytes(service, make):
    service.may_answer.clear()
    batcher = make(max_batch=10)
    futures = [put(batcher)]
    assert service.called.acquire(timeout=DEADLINE_S)
    futures += [put(batcher) for _ in range(25)]
    futures += [put(batcher, "x" * 4_000_000) for _ in range(3)]
    service.may_answer.set()
    done(futures)
    assert [len(payloads) for _, payloads, _ in service.calls] == [1, 10, 10, 7, 1]


def test_groups_don_t_share_a_request(service, make):
    service.may_answer.clear()
    batcher = make()
    futures = [put(batcher)]
    assert service.called.acquire(timeout=DEADLINE_S)
    futures += [put(batcher, group=(spec, "")) for spec in ("a", "a", "b", "a")]
    service.may_answer.set()
    done(futures)
    assert [(group[0], len(payloads)) for group, payloads, _ in service.calls] == [
        ("", 1),
        ("a", 2),
        ("b", 1),
        ("a", 1),
    ]


def test_an_outage_is_ridden_out_with_one_key(service, make):
    service.answers = [unreachable(True), refusal(503), unreachable(False)]
    future = put(make())
    assert future.result(DEADLINE_S)
    keys = {key for _, _, key in service.calls}
    assert len(service.calls) == 4
    assert len(keys) == 1
    assert None not in keys


def test_without_a_key_nothing_is_repeated_that_may_have_arrived(service, make):
    batcher = make(idempotent=False)
    service.answers = [unreachable(False), refusal(429), unreachable(True)]
    with pytest.raises(SubmissionUncertain):
        put(batcher).result(DEADLINE_S)
    assert [key for _, _, key in service.calls] == [None] * 3
    assert put(batcher).result(DEADLINE_S)


def test_an_outage_that_lasts_is_told_and_the_next_task_works(service, make):
    batcher = make(service_timeout_s=0.05)
    service.answers = [unreachable(False)] * 2
    with pytest.raises(ServiceUnreachable) as caught:
        put(batcher).result(DEADLINE_S)
    assert caught.value.after_s >= 0.05
    service.answers = []
    assert put(batcher).result(DEADLINE_S)


def test_one_that_is_too_large_fails_alone(service, make):
    service.may_answer.clear()
    batcher = make()
    futures = [put(batcher)]
    assert service.called.acquire(timeout=DEADLINE_S)
    futures += [put(batcher, "big" if i == 5 else str(i)) for i in range(12)]
    real = service.submit

    def submit(group, payloads, key):
        if "big" in payloads:
            raise refusal(413, "TASK_PAYLOAD_TOO_LARGE")
        return real(group, payloads, key)

    batcher._submit = submit
    service.may_answer.set()
    done(futures)
    failed = [future for future in futures if future.exception()]
    assert failed == [futures[6]]
    assert isinstance(failed[0].exception(), PayloadTooLarge)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (EndpointNotFound(endpoint="x"), EndpointNotFound),
        (refusal(403, "FUNCTION_NOT_PERMITTED"), FunctionNotAllowed),
        (refusal(422), RequestRefused),
        (NotAuthorized(http_status=403, code="F", reason="no"), NotAuthorized),
    ],
)
def test_a_refusal_reaches_each_future_as_its_own_object(service, make, answer, kind):
    service.may_answer.clear()
    batcher = make()
    first = put(batcher)
    assert service.called.acquire(timeout=DEADLINE_S)
    futures = [put(batcher) for _ in range(3)]
    service.answers = [lambda payloads: reply([uuid.uuid4()]), answer]
    service.may_answer.set()
    done([first, *futures])
    errors = [future.exception() for future in futures]
    assert all(isinstance(error, kind) for error in errors)
    assert len({id(error) for error in errors}) == 3
    assert put(batcher).result(DEADLINE_S)


def test_per_task_refusals_fail_those_tasks_only(service, make):
    service.may_answer.clear()
    batcher = make()
    first = put(batcher)
    assert service.called.acquire(timeout=DEADLINE_S)
    futures = [put(batcher) for _ in range(3)]
    service.answers = [
        lambda payloads: reply([uuid.uuid4()]),
        lambda payloads: reply(
            [uuid.uuid4(), None, uuid.uuid4()], errors={1: TaskRefusal(code="TOO_ODD", reason="it is odd")}
        ),
    ]
    service.may_answer.set()
    done([first, *futures])
    assert futures[1].exception().code == "TOO_ODD"
    assert futures[0].result()
    assert futures[2].result()


def forgotten():
    return refusal(404, "FUNCTION_NOT_FOUND")


@pytest.mark.parametrize("idempotent", [True, False])
def test_a_forgotten_function_is_registered_anew_and_nobody_notices(service, make, idempotent):
    service.answers = [forgotten()]
    service.refusals_to_renew = [unreachable(True), refusal(503)]
    batcher = make(idempotent=idempotent)
    assert put(batcher, "0").result(DEADLINE_S)
    assert put(batcher, "1").result(DEADLINE_S)
    assert service.renewals == [1]
    assert [payloads for _, payloads, _ in service.calls] == [["0"], ["0"], ["1"]]
    keys = [key for _, _, key in service.calls]
    # A service that keeps its answers would repeat its refusal to the same key.
    assert len(set(keys)) == (3 if idempotent else 1)


def test_only_those_tasks_go_again_whose_function_was_forgotten(service, make):
    service.may_answer.clear()
    batcher = make()
    first = put(batcher)
    assert service.called.acquire(timeout=DEADLINE_S)
    futures = [put(batcher, str(i)) for i in range(3)]
    refused = TaskRefusal(code="FUNCTION_NOT_FOUND", reason="gone")
    service.answers = [
        lambda payloads: reply([uuid.uuid4()]),
        lambda payloads: reply([None, uuid.uuid4(), None], errors={0: refused, 2: refused}),
    ]
    service.may_answer.set()
    done([first, *futures])
    assert all(future.result() for future in futures)
    assert [payloads for _, payloads, _ in service.calls[1:]] == [["0", "1", "2"], ["0", "2"]]
    assert service.renewals == [2]


def test_a_function_that_is_never_known_is_told_after_one_more_try(service, make):
    batcher = make()
    refused = TaskRefusal(code="FUNCTION_NOT_FOUND", reason="gone")
    service.answers = [forgotten(), lambda payloads: reply([None], errors={0: refused}), forgotten(), forgotten()]
    for _ in range(2):
        error = put(batcher).exception(DEADLINE_S)
        assert isinstance(error, RequestRefused)
        assert error.code == "FUNCTION_NOT_FOUND"
    assert service.renewals == [1, 3]
    service.answers, service.refusals_to_renew = [forgotten()], [refusal(403, "FORBIDDEN")]
    with pytest.raises(RequestRefused, match="FORBIDDEN"):
        put(batcher).result(DEADLINE_S)
    assert put(batcher).result(DEADLINE_S)


@pytest.mark.parametrize("answer", [refusal(404, "ELSE"), refusal(404, "TASK_GROUP_NOT_FOUND")])
def test_what_else_is_not_found_is_not_sent_again(service, make, answer):
    service.answers = [answer]
    with pytest.raises(RequestRefused):
        put(make()).result(DEADLINE_S)
    assert (service.renewals, len(service.calls)) == ([], 1)


def test_an_answer_with_too_few_ids_fails_the_rest(service, make):
    service.answers = [lambda payloads: reply([])]
    with pytest.raises(RequestRefused, match="no id"):
        put(make()).result(DEADLINE_S)


def test_stop_answers_what_waits_and_refuses_more(service, make):
    service.may_answer.clear()
    batcher = make()
    first = put(batcher)
    assert service.called.acquire(timeout=DEADLINE_S)
    waiting = put(batcher)
    stopper = threading.Thread(target=batcher.stop)
    stopper.start()
    service.may_answer.set()
    stopper.join(DEADLINE_S)
    assert first.result(DEADLINE_S)
    with pytest.raises(ExecutorShutDown):
        waiting.result(DEADLINE_S)
    with pytest.raises(ExecutorShutDown):
        put(batcher)


def test_stop_answers_what_is_being_sent_when_no_answer_comes(service, make):
    service.may_answer.clear()
    batcher = make()
    sent = put(batcher)
    assert service.called.acquire(timeout=DEADLINE_S)
    batcher.stop(timeout_s=0.01)
    with pytest.raises(ExecutorShutDown):
        sent.result(0)
    service.may_answer.set()


def test_a_fault_in_the_thread_answers_every_future(service, make, monkeypatch):
    caught = []
    monkeypatch.setattr(threading, "excepthook", lambda args: caught.append(args.exc_value))
    batcher = make()
    service.answers = [RuntimeError("a bug")]
    with pytest.raises(RuntimeError, match="a bug"):
        put(batcher).result(DEADLINE_S)
    batcher._thread.join(DEADLINE_S)
    assert [str(exc) for exc in caught] == ["a bug"]
    with pytest.raises(ExecutorShutDown):
        put(batcher)


def test_a_cancelled_task_is_not_submitted(service, make):
    service.may_answer.clear()
    batcher = make()
    first = put(batcher)
    assert service.called.acquire(timeout=DEADLINE_S)
    cancelled, other = put(batcher, "cancelled"), put(batcher, "other")
    assert cancelled.cancel()
    service.may_answer.set()
    done([first, other])
    assert service.calls[1][1] == ["other"]


def test_the_rate_limit_spaces_calls_only_over_the_limit(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    limit = RateLimit(3, 10.0)
    assert [limit.delay_s() for _ in range(3)] == [0, 0, 0]
    assert limit.delay_s() == 10.0
    now = 1025.0
    assert limit.delay_s() == 0
