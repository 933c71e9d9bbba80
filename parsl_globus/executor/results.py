"""Results to futures: one AMQP stream with reconnect, and what it may have missed asked over REST."""

from __future__ import annotations

import logging
import queue
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from parsl_globus.amqp import Consumer, Delivery
from parsl_globus.client.rest import STATUS_BATCH, ServiceClient
from parsl_globus.errors import (
    DecodeError,
    EndpointOffline,
    LinkGaveUp,
    NotAuthorized,
    ParslGlobusError,
    RequestRefused,
    ServiceError,
    ServiceUnreachable,
)
from parsl_globus.executor.outcome import Monitor, complete_from_message, complete_from_status, fail
from parsl_globus.executor.pending import Pending
from parsl_globus.wire.codec import unpack
from parsl_globus.wire.documents import TaskStatus
from parsl_globus.wire.messages import Result

logger = logging.getLogger(__name__)

#: Outstanding tasks are asked for over REST this often although the stream is up, in seconds: a future must not
#: depend on one message.
RECONCILE_PERIOD_S = 60.0
#: More rarely when it takes long: asking for 100,000 tasks must not keep the service and this process busy.
RECONCILE_SHARE = 0.05
#: How soon they are asked for again when the service did not answer.
RETRY_PERIOD_S = 2.0
#: And at most this often for results that could not be read, which may come as often as others.
DOUBT_PERIOD_S = 10.0
#: How often it is looked whether the endpoint is there, if a task may only wait so long for it.
OFFLINE_CHECK_PERIOD_S = 2.0

#: Most results that are kept at once before the first of them is handed on.
KEPT_TOGETHER = 1000

_Answer = Result | TaskStatus


class Results:
    """Completes the futures of submitted tasks.

    Three threads: the link's reads the stream, another decodes and completes (Parsl's callbacks run there, and they
    take their time), a third reconciles.

    Args:
        service: To ask for the stream's address and for what it missed; must not repeat by itself what fails, so that
            the threads can end at any time.
        endpoint_id: The endpoint of all tasks.
        label: Of the executor, for messages.
        service_timeout_s: Without a stream for longer, outstanding futures fail; `None` means never.
        offline_timeout_s: With the endpoint offline for longer, outstanding futures fail; `None` means never.
        cancels: Whether the service can cancel tasks.
        monitor: Takes monitoring records, before the task's future is done.
        keep: Takes the encoded results, `None` for other ends, by task id, before they are acknowledged and futures
            are done; also those of tasks that nobody waits for.
    """

    def __init__(
        self,
        service: ServiceClient,
        *,
        endpoint_id: uuid.UUID,
        label: str,
        service_timeout_s: float | None,
        offline_timeout_s: float | None,
        cancels: bool = False,
        monitor: Monitor | None = None,
        keep: Callable[[list[tuple[uuid.UUID, str | None]]], None] | None = None,
    ) -> None:
        self._keep = keep
        self.pending: Pending[_Answer] = Pending()
        self._service = service
        self._endpoint_id = endpoint_id
        self._label = label
        self._service_timeout_s = service_timeout_s
        self._offline_timeout_s = offline_timeout_s
        self._cancels = cancels
        self._monitor = monitor
        # On the reconciling thread only: what is still to be asked for in this round, and what nobody knew when it was.
        self._to_ask: deque[uuid.UUID] = deque()
        self._unknown: set[uuid.UUID] = set()
        self._lock = threading.Lock()
        self._consumer: Consumer | None = None
        self._opened_before = False
        self._not_authorized: NotAuthorized | None = None  # why there is no stream, on the link's thread only
        self._arrived: queue.SimpleQueue[tuple[Consumer, list[Delivery]] | None] = queue.SimpleQueue()
        self._reconcile_now = threading.Event()
        self._doubtful = False  # whether something has got lost here since they were last asked for
        self._next_doubt = 0.0
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._complete_loop, name=f"{label}-results", daemon=True),
            threading.Thread(target=self._reconcile_loop, name=f"{label}-reconcile", daemon=True),
        ]

    def start(self) -> None:
        """Start the threads; the stream starts with the first task."""
        for thread in self._threads:
            thread.start()

    def watch(self, task_group_id: uuid.UUID, futures: dict[uuid.UUID, Future[Any]]) -> None:
        """Complete these futures when their results come.

        Args:
            task_group_id: On whose stream they come; the same for all calls.
            futures: By task id.
        """
        early = self.pending.add(futures)
        self._note([(answer.task_id, answer) for _, answer in early])
        for future, answer in early:
            self._finish(future, answer)
        with self._lock:
            if self._consumer is None and not self._stopping.is_set():
                self._consumer = self._new_consumer(task_group_id)
                self._consumer.start()

    def stop(self, error: ParslGlobusError, timeout_s: float = 5.0) -> None:
        """End the stream and the threads; outstanding futures fail with `error`."""
        self._stopping.set()
        self._reconcile_now.set()
        with self._lock:
            consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.stop(timeout_s)
        self._arrived.put(None)
        for thread in self._threads:
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(timeout_s)
        self._fail_pending(error)

    def _new_consumer(self, task_group_id: uuid.UUID) -> Consumer:
        prefix = ""

        def url() -> str:
            nonlocal prefix
            self._not_authorized = None
            try:
                access = self._service.result_access()
            except NotAuthorized as exc:
                # Tried for as long as any failure: a service that has just come back may take the login later.
                self._not_authorized = exc
                raise
            prefix = access.queue_prefix
            return access.connection_url

        self._opened_before = False
        consumer = Consumer(
            url,
            lambda: f"{prefix}{task_group_id}",
            lambda deliveries: self._arrived.put((consumer, deliveries)),
            name=f"{self._label}-stream",
            give_up_after_s=self._service_timeout_s,
            on_give_up=self._gave_up,
            on_open=self._opened,
        )
        return consumer

    # ---- on the link's thread -----------------------------------------------------------------------------------

    def _opened(self) -> None:
        if self._opened_before:
            logger.info("%s: results stream is back", self._label)
            self._reconcile_now.set()
        self._opened_before = True

    def _gave_up(self, error: LinkGaveUp) -> None:
        with self._lock:
            self._consumer = None  # the next submission starts a new one
        unreachable = ServiceUnreachable(url=self._service.url, after_s=error.after_s, detail=error.fields["detail"])
        self._fail_pending(self._not_authorized or unreachable)

    # ---- on the completing thread -------------------------------------------------------------------------------

    def _complete_loop(self) -> None:
        while True:
            arrived = self._next_arrived()
            if not arrived:
                return
            deliveries = [delivery for _, some in arrived for delivery in some]
            try:
                self._complete(deliveries)
            except BaseException:
                # The journal's disk is full, for example. These come by reconciliation, and others come after them.
                logger.exception("%s: completing %d results failed", self._label, len(deliveries))
                self._doubt()
            for consumer, some in arrived:
                consumer.acknowledge(some)

    def _next_arrived(self) -> list[tuple[Consumer, list[Delivery]]]:
        """Wait for results; nothing when stopping."""
        arrived = []
        count = 0
        while (one := self._arrived.get()) is not None:
            arrived.append(one)
            count += len(one[1])
            # A journal's disk takes as long for many results as for one, and meanwhile others come.
            if self._keep is None or self._arrived.empty() or count >= KEPT_TOGETHER:
                return arrived
        if arrived:
            self._arrived.put(None)
        return arrived

    def _complete(self, deliveries: list[Delivery]) -> None:
        results: list[tuple[uuid.UUID, _Answer]] = []
        for delivery in deliveries:
            try:
                result = unpack(delivery.body, Result)
            except DecodeError:
                # Nobody knows whose it was; reconciliation brings that task's answer.
                logger.exception("%s: dropped a malformed result", self._label)
                self._doubt()
                continue
            results.append((result.task_id, result))
        self._note(results)
        for future, answer in self.pending.match(results):
            self._finish(future, answer)

    def _doubt(self) -> None:
        """Have outstanding tasks asked for: at once, or when that is due again."""
        self._doubtful = True
        if time.monotonic() >= self._next_doubt:
            self._reconcile_now.set()

    # ---- on the reconciling thread ------------------------------------------------------------------------------

    def _reconcile_loop(self) -> None:
        watches_endpoint = self._offline_timeout_s is not None
        period_s = OFFLINE_CHECK_PERIOD_S if watches_endpoint else RECONCILE_PERIOD_S
        offline_since: float | None = None
        next_full = time.monotonic() + RECONCILE_PERIOD_S
        asked = False
        while True:
            # What was asked for and failed is due again soon.
            wait_s = min(period_s, RETRY_PERIOD_S) if asked else period_s
            until_doubt_s = self._next_doubt - time.monotonic()
            asked = self._reconcile_now.wait(min(wait_s, until_doubt_s) if until_doubt_s > 0 else wait_s) or asked
            self._reconcile_now.clear()
            asked = asked or (self._doubtful and time.monotonic() >= self._next_doubt)
            if self._stopping.is_set():
                return
            if not len(self.pending):
                asked, offline_since = False, None
                continue
            if watches_endpoint:
                offline_since = self._check_endpoint(offline_since)
            try:
                if asked or time.monotonic() >= next_full:
                    began = time.monotonic()
                    next_full = began + RECONCILE_PERIOD_S
                    asked = True
                    if self._doubtful:
                        self._doubtful, self._next_doubt = False, began + DOUBT_PERIOD_S
                    self._reconcile()
                    next_full = max(next_full, began + (time.monotonic() - began) / RECONCILE_SHARE)
                asked = False
            except (ServiceError, DecodeError) as exc:
                logger.warning("%s: outstanding tasks can't be asked for now: %s", self._label, exc)
            except Exception:
                # As for a malformed answer: the next round may do better, and the stream goes on anyway.
                asked = False
                logger.exception("%s: reconciling failed", self._label)

    def _reconcile(self) -> None:
        """Ask for all that wait, from where the last round had to stop."""
        if not self._to_ask:
            self._to_ask.extend(self.pending.ids())
            self._unknown.intersection_update(self._to_ask)
        # One request after another, so that what is said of 100,000 tasks is never held at once.
        while self._to_ask and not self._stopping.is_set():
            some = [self._to_ask.popleft() for _ in range(min(STATUS_BATCH, len(self._to_ask)))]
            try:
                statuses = self._service.task_statuses(some)
            except (ServiceError, DecodeError) as exc:
                if not _is_about_these(exc):
                    self._to_ask.extendleft(reversed(some))
                    raise
                # Their turn comes with the next round; the others are not to wait for them.
                logger.warning("%s: %d outstanding tasks can't be asked for: %s", self._label, len(some), exc)
                continue
            self._take_ended(statuses)
            self._fail_unknown(some, statuses)

    def _take_ended(self, statuses: Mapping[uuid.UUID, TaskStatus]) -> None:
        ended = [(task_id, status) for task_id, status in statuses.items() if status.has_ended]
        if ended:
            logger.info("%s: %d results came by reconciliation", self._label, len(ended))
            self._note(ended)
        for future, answer in self.pending.match(ended):
            self._finish(future, answer)

    def _fail_unknown(self, asked: Sequence[uuid.UUID], statuses: Mapping[uuid.UUID, TaskStatus]) -> None:
        """Fail tasks that the service has lost, its database for example; a single answer is not taken for that."""
        unknown = {task_id for task_id in asked if task_id not in statuses}
        lost = unknown & self._unknown
        self._unknown.difference_update(asked)
        self._unknown.update(unknown - lost)
        text = "The service does not know this task any more, so its result can't come."
        lost_answers = [(i, TaskStatus(task_id=i, status="failed", reason="TaskLost", exception=text)) for i in lost]
        self._note(lost_answers)
        for future, answer in self.pending.match(lost_answers):
            self._finish(future, answer)

    def _check_endpoint(self, offline_since: float | None) -> float | None:
        """Fail what waits for an endpoint that has been away too long; tell since when it is away."""
        try:
            status = self._service.endpoint_status(self._endpoint_id).get("status")
        except (ServiceError, DecodeError) as exc:
            # No longer shared with the user, for example; its tasks may end all the same.
            logger.warning("%s: whether the endpoint is online can't be asked for now: %s", self._label, exc)
            return offline_since
        if status == "online":
            return None
        since = time.monotonic() if offline_since is None else offline_since
        away_s = time.monotonic() - since
        assert self._offline_timeout_s is not None
        if away_s >= self._offline_timeout_s:
            self._give_up_endpoint(away_s)
        return since

    def _give_up_endpoint(self, away_s: float) -> None:
        task_ids = self.pending.ids()
        # Before they are cancelled, as the service answers for cancelled tasks as well.
        self._fail_pending(EndpointOffline(endpoint_id=str(self._endpoint_id), after_s=away_s))
        if not self._cancels:
            return
        try:
            # What was told to have failed should not run when the endpoint is back.
            self._service.cancel(task_ids)
        except (ServiceError, DecodeError) as exc:
            logger.warning("%s: tasks of an offline endpoint can't be cancelled: %s", self._label, exc)

    def _fail_pending(self, error: ParslGlobusError) -> None:
        for future in self.pending.drain():
            fail(future, error)

    def _note(self, answers: Sequence[tuple[uuid.UUID, _Answer]]) -> None:
        if self._keep is not None and answers:
            self._keep([(task_id, _encoded(answer)) for task_id, answer in answers])

    def _finish(self, future: Future[Any], answer: _Answer) -> None:
        try:
            if isinstance(answer, Result):
                complete_from_message(future, answer, self._monitor, sent_to=self._endpoint_id)
            else:
                complete_from_status(future, answer, self._monitor, sent_to=self._endpoint_id)
        except BaseException as exc:
            # A callback of the future, or what unpickling calls, may raise anything, SystemExit too. The threads that
            # come by here owe other futures their results.
            logger.exception("%s: completing task %s failed", self._label, answer.task_id)
            fail(future, DecodeError(what="answer", size_bytes=0, detail=f"{type(exc).__name__}: {exc}"))


def _is_about_these(error: ServiceError | DecodeError) -> bool:
    """Whether another question may be answered now: not by a service that is away, busy or wants another login."""
    return isinstance(error, DecodeError) or (
        isinstance(error, RequestRefused) and error.http_status in (400, 404, 413, 422)
    )


def _encoded(answer: _Answer) -> str | None:
    if isinstance(answer, Result):
        return answer.data if answer.error_details is None else None
    return answer.result
