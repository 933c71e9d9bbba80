"""Gathers waiting tasks and submits them, one POST per batch.

The batches adapt by themselves: a lone task leaves at once, and what comes while a POST is under way leaves together
in the next one.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

from parsl_globus import jitter
from parsl_globus.errors import (
    ExecutorShutDown,
    FunctionNotAllowed,
    NotAuthorized,
    ParslGlobusError,
    PayloadTooLarge,
    RequestRefused,
    ServiceUnreachable,
    SubmissionUncertain,
)
from parsl_globus.executor.outcome import fail
from parsl_globus.executor.submission import FUNCTION_NOT_FOUND, is_runners
from parsl_globus.wire.documents import DEFAULT_PAYLOAD_LIMIT_BYTES, Submitted
from parsl_globus.wire.payload import Payload

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

#: Room for the parts of a request other than the payloads, and for JSON's escapes of their newlines, in bytes.
ENVELOPE_BYTES = 64 * 1024
#: Where a future tells that an earlier run submitted its task.
RESUMED = "parsl_globus_resumed"
#: Pauses between attempts to reach the service grow from the first to the second, in seconds.
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 10.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """A task that waits to be submitted.

    Attributes:
        payload: The packed arguments of the runner, or what they are packed from when they are sent; those of another
            function if the group names one.
        future: Whom to answer.
        group: Tasks with the same group can share a POST: specification and user configuration as JSON.
    """

    payload: Payload
    future: Future[Any]
    group: tuple[str, str]

    @property
    def resumed(self) -> bool:
        """Whether an earlier run submitted it."""
        return getattr(self.future, RESUMED, False)


@dataclass
class RateLimit:
    """Keeps calls under a limit: at most `calls` in any `window_s` seconds."""

    calls: int
    window_s: float
    _made: deque[float] = field(default_factory=deque)

    def delay_s(self) -> float:
        """How long to wait before the next call; counts the call as made then."""
        now = time.monotonic()
        while self._made and self._made[0] <= now - self.window_s:
            self._made.popleft()
        wait_s = self._made[0] + self.window_s - now if len(self._made) >= self.calls else 0.0
        self._made.append(now + wait_s)
        if len(self._made) > self.calls:
            self._made.popleft()
        return wait_s


#: Globus's documented limit (PROTOCOL.md section 4.3: 20 requests in 10 s), with some air.
HOSTED_RATE = (19, 10.0)


class Batcher:
    """Submits tasks from a thread of its own.

    Args:
        submit: Makes the POST: group, payloads and idempotency key to the reply. May raise any `ServiceError`.
        on_submitted: Takes tasks that are safe in the service: task ids and futures, in order.
        renew: Has the service know the tasks' function again, which it has forgotten; may raise any `ServiceError`.
        under_way: Entered while a submission is under way, from before the POST to after `on_submitted`.
        idempotent: Whether the service recognises a repeated submission by its key.
        endpoint_id: Where the tasks go, for errors that name it.
        label: Of the executor, for messages.
        max_batch: Most tasks in one POST.
        linger_s: How long a lone task waits for company; 0 means not at all.
        service_timeout_s: How long to try when the service can't be reached; `None` means for ever.
        rate: Limit of calls, or `None`.
    """

    def __init__(
        self,
        submit: Callable[[tuple[str, str], list[Payload], uuid.UUID | None], Submitted],
        on_submitted: Callable[[Sequence[uuid.UUID], Sequence[Future[Any]]], None],
        *,
        renew: Callable[[], None],
        under_way: Callable[[], AbstractContextManager[None]] = nullcontext,
        idempotent: bool,
        endpoint_id: uuid.UUID,
        label: str,
        max_batch: int,
        linger_s: float,
        service_timeout_s: float | None,
        rate: RateLimit | None = None,
    ) -> None:
        self._submit = submit
        self._on_submitted = on_submitted
        self._renew = renew
        self._under_way = under_way
        self._idempotent = idempotent
        self._endpoint_id = endpoint_id
        self._label = label
        self._max_batch = max_batch
        self._linger_s = linger_s
        self._service_timeout_s = service_timeout_s
        self._rate = rate
        self._prepare: Callable[[list[Waiting]], list[Waiting]] | None = None
        self._before: Callable[[uuid.UUID | None, list[Waiting]], None] | None = None
        self._wake = threading.Condition()
        self._waiting: deque[Waiting] = deque()
        self._sending: list[Waiting] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{label}-submit", daemon=True)

    def use(
        self,
        *,
        prepare: Callable[[list[Waiting]], list[Waiting]],
        before: Callable[[uuid.UUID | None, list[Waiting]], None],
    ) -> None:
        """Have others look at what is submitted; to be called before `start`.

        Args:
            prepare: Takes the tasks to be submitted, answers for some itself, and returns the others.
            before: Called before each POST, and not before it is repeated: idempotency key and tasks.
        """
        self._prepare, self._before = prepare, before

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, task: Waiting) -> None:
        """Submit `task` soon; returns at once.

        Raises:
            ExecutorShutDown: After `stop`.
        """
        with self._wake:
            if self._stopping.is_set():
                raise ExecutorShutDown(label=self._label)
            self._waiting.append(task)
            if len(self._waiting) == 1:
                self._wake.notify()

    def withdraw(self, futures: Collection[Future[Any]]) -> list[Future[Any]]:
        """Don't submit the tasks of these futures.

        Returns:
            Those that had not been submitted; the caller owes each an answer.
        """
        unwanted = {id(future) for future in futures}
        with self._wake:
            # What an earlier run submitted may be running.
            unsent = [task for task in self._waiting if id(task.future) in unwanted and not task.resumed]
            if unsent:
                gone = {id(task) for task in unsent}
                kept = [task for task in self._waiting if id(task) not in gone]
                self._waiting.clear()
                self._waiting.extend(kept)
        return [task.future for task in unsent]

    def __len__(self) -> int:
        """How many tasks wait to be submitted."""
        return len(self._waiting)

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the thread; tasks that were not submitted fail with `ExecutorShutDown`."""
        with self._wake:
            self._stopping.set()
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        # Of what is being sent nobody will hear: what takes the ids is about to stop, too.
        for task in list(self._sending):
            fail(task.future, ExecutorShutDown(label=self._label))
        self._fail_waiting(ExecutorShutDown(label=self._label))

    # ---- on the batcher's thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        batch: list[Waiting] = []
        try:
            while True:
                self._sending = batch = self._next_batch()
                if not batch:
                    return
                with self._under_way():
                    self._send(batch if self._prepare is None else self._prepared(batch, self._prepare))
                self._sending = batch = []  # futures lead to their arguments, which may be large
        except BaseException as exc:
            # The outermost loop of this thread: every future it owes gets an answer, whatever went wrong.
            logger.exception("%s: the submitting thread ends", self._label)
            with self._wake:
                self._stopping.set()
            for task in batch:
                fail(task.future, exc)
            self._fail_waiting(exc)
            raise

    def _next_batch(self) -> list[Waiting]:
        """Wait for tasks, then take those that can share a POST; nothing when stopping."""
        with self._wake:
            self._wake.wait_for(lambda: self._waiting or self._stopping.is_set())
            if self._linger_s and len(self._waiting) < self._max_batch:
                self._wake.wait_for(self._stopping.is_set, timeout=self._linger_s)
            if self._stopping.is_set():
                return []
            batch: list[Waiting] = []
            size_bytes = ENVELOPE_BYTES
            while self._waiting and len(batch) < self._max_batch:
                task = self._waiting[0]
                size_bytes += len(task.payload) + 8
                if batch and (task.group != batch[0].group or size_bytes > DEFAULT_PAYLOAD_LIMIT_BYTES):
                    break
                batch.append(self._waiting.popleft())
        # From here on a future can't be cancelled any more: its task is about to run.
        return [task for task in batch if _is_wanted(task.future)] or self._next_batch()

    def _prepared(self, batch: list[Waiting], prepare: Callable[[list[Waiting]], list[Waiting]]) -> list[Waiting]:
        try:
            return prepare(batch)
        except ParslGlobusError as exc:
            for task in batch:
                fail(task.future, exc)
            return []

    def _send(self, batch: list[Waiting], *, renewed: bool = False) -> None:
        """Submit and hand on; once again when the service had forgotten the function, unless it was just `renewed`."""
        if not batch:
            return
        try:
            reply = self._post(batch)
        except RequestRefused as exc:
            if exc.code == FUNCTION_NOT_FOUND and _may_renew(batch, renewed):
                self._send_anew(batch)
            else:
                self._refused(batch, exc, renewed=renewed)
        except ParslGlobusError as exc:
            for task in batch:
                fail(task.future, exc)
        else:
            self._send_anew(self._take(batch, reply, renewed=renewed))

    def _send_anew(self, batch: list[Waiting]) -> None:
        """Submit what was refused since its function is not known, so that none of it can run twice.

        Under a key of its own: a service that keeps its answers by key would give the same one again.
        """
        if not batch:
            return
        try:
            self.insist(self._renew, what="registration of the function", repeatable=True)
        except ParslGlobusError as exc:
            for task in batch:
                fail(task.future, exc)
        else:
            self._send(batch, renewed=True)

    def _post(self, batch: list[Waiting]) -> Submitted:
        key = uuid.uuid4() if self._idempotent else None
        if self._before is not None:
            self._before(key, batch)
        group, payloads = batch[0].group, [task.payload for task in batch]
        what = f"submission of {len(batch)} tasks"
        return self.insist(lambda: self._submit(group, payloads, key), what=what, repeatable=key is not None)

    def insist(self, call: Callable[[], _T], *, what: str, repeatable: bool) -> _T:
        """Call the service until there is an answer or repeating is not safe any more; on the batcher's thread only.

        Args:
            call: The call.
            what: What it is, for the log.
            repeatable: Whether it may be made again although it may have been received.
        """
        started = time.monotonic()
        pause_s = FIRST_PAUSE_S
        while True:
            if self._rate is not None:
                self._stopping.wait(self._rate.delay_s())
            try:
                return call()
            except (ServiceUnreachable, RequestRefused) as exc:
                self._check_repeatable(exc, repeatable, time.monotonic() - started)
                logger.warning("%s: %s will be tried again: %s", self._label, what, exc)
            self._stopping.wait(jitter.around(pause_s))
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    def _check_repeatable(self, exc: ServiceUnreachable | RequestRefused, repeatable: bool, spent_s: float) -> None:
        """Return when the call may be repeated, raise what its futures get otherwise."""
        if isinstance(exc, RequestRefused) and exc.http_status not in (429, 500, 502, 503, 504):
            raise exc
        not_taken = exc.http_status in (429, 503) if isinstance(exc, RequestRefused) else not exc.maybe_received
        if not repeatable and not not_taken:
            raise SubmissionUncertain(detail=str(exc)) from exc
        if self._stopping.is_set():
            raise ExecutorShutDown(label=self._label) from exc
        if self._service_timeout_s is not None and spent_s >= self._service_timeout_s:
            if isinstance(exc, ServiceUnreachable):
                raise ServiceUnreachable(url=exc.url, after_s=spent_s, detail=exc.fields["detail"]) from exc
            raise exc

    def _refused(self, batch: list[Waiting], exc: RequestRefused, *, renewed: bool) -> None:
        if exc.http_status == 413 and len(batch) > 1:
            # Together too large: one of them may be too large alone, the others must not suffer for it.
            middle = len(batch) // 2
            self._send(batch[:middle], renewed=renewed)
            self._send(batch[middle:], renewed=renewed)
            return
        for task in batch:
            fail(task.future, self._task_error(exc, size_bytes=len(task.payload)))

    def _take(self, batch: list[Waiting], reply: Submitted, *, renewed: bool) -> list[Waiting]:
        """Hand the tasks on, with the ids of the reply; they come in the order sent.

        Returns:
            Those to be sent again, as their function was not known.
        """
        task_ids = next(iter(reply.tasks.values()), [])
        refusals = next(iter((reply.errors or {}).values()), {})
        taken: list[tuple[uuid.UUID, Future[Any]]] = []
        forgotten: list[Waiting] = []
        for position, task in enumerate(batch):
            task_id = task_ids[position] if position < len(task_ids) else None
            if task_id is not None:
                taken.append((task_id, task.future))
                continue
            refusal = refusals.get(position)
            code = refusal.code if refusal else "TASK_IGNORED"
            if code == FUNCTION_NOT_FOUND and _may_renew(batch, renewed):
                forgotten.append(task)
                continue
            reason = refusal.reason if refusal else "its answer has no id for this task"
            refused = RequestRefused(http_status=200, code=code, reason=reason)
            fail(task.future, self._task_error(refused, size_bytes=len(task.payload)))
        self._on_submitted([task_id for task_id, _ in taken], [future for _, future in taken])
        return forgotten

    def _task_error(self, refused: RequestRefused, *, size_bytes: int) -> ParslGlobusError:
        """What the future of a refused task gets."""
        if refused.http_status == 413 or refused.code == "TASK_PAYLOAD_TOO_LARGE":
            return PayloadTooLarge(size_bytes=size_bytes, limit_bytes=DEFAULT_PAYLOAD_LIMIT_BYTES)
        if refused.code == "FUNCTION_NOT_PERMITTED":
            return FunctionNotAllowed(endpoint_id=str(self._endpoint_id), detail=refused.reason)
        if "FORBIDDEN" in refused.code and not isinstance(refused, NotAuthorized):
            return NotAuthorized(**refused.fields)
        return refused

    def _fail_waiting(self, error: BaseException) -> None:
        with self._wake:
            left = list(self._waiting)
            self._waiting.clear()
        for task in left:
            fail(task.future, error)


def _may_renew(batch: list[Waiting], renewed: bool) -> bool:
    return not renewed and is_runners(batch[0].group)


def _is_wanted(future: Future[Any]) -> bool:
    # It runs already when its task is submitted again.
    return future.running() or future.set_running_or_notify_cancel()
