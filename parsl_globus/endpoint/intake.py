"""Deliveries to tasks: accepted on disk, acknowledged, given to the engine; or answered with why not."""

from __future__ import annotations

import json
import logging
import re
import threading
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from parsl_globus.amqp import Delivery
from parsl_globus.endpoint.engine import Engine, EngineFailure, EngineTask
from parsl_globus.endpoint.failures import (
    ENGINE_FAILED,
    FUNCTION_NOT_ALLOWED,
    MALFORMED_TASK,
    TASK_CANCELLED,
    failure,
)
from parsl_globus.endpoint.outbox import Outbox
from parsl_globus.endpoint.spool import Spool, SpooledTask
from parsl_globus.endpoint.task_log import TaskLog
from parsl_globus.endpoint.turns import Turns
from parsl_globus.errors import EndpointError

logger = logging.getLogger(__name__)


#: A task is handed over no more often than this.
MAX_ATTEMPTS = 20
_MINOR_VERSION = re.compile(r"\d+\.\d+(?!\d)")


class Answers(Protocol):
    """How deliveries are answered; a `Consumer` does."""

    def acknowledge(self, deliveries: Iterable[Delivery]) -> None:
        """These are taken care of."""

    def refuse(self, deliveries: Iterable[Delivery], *, requeue: bool) -> None:
        """These are not wanted."""


class _BadTaskError(ValueError):
    """A delivery that names its task, but can't be run."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class _Cancel:
    task_ids: Sequence[uuid.UUID]
    done: Callable[[], None]


class _Tell:
    """The log is to be told what waits for it."""


@dataclass(frozen=True)
class _Parsed:
    task: SpooledTask
    refusal: _BadTaskError | None = None


class Intake:
    """All tasks pass here to the engine, in turns.

    A delivery is acknowledged when its task is on disk; one that was delivered before is acknowledged and dropped.

    Args:
        spool: Where tasks are noted.
        engine: What runs them.
        outbox: Where results go.
        max_retries: How often a task that the system lost is run again.
        allowed_functions: Ids of the functions that may run; `None` allows all.
        take_back: Keeps a task that the engine lost from beginning; returns whether it hasn't begun. Such a task runs
            again whatever `max_retries` says.
        end_running: Tells the worker of a task that was cancelled to end it; returns whether it could be told.
        forget: Called with a task that was cancelled and that no worker can begin any more.
        on_failure: Called when the spool fails, after which nothing is taken any more.
    """

    def __init__(
        self,
        spool: Spool,
        engine: Engine,
        outbox: Outbox,
        *,
        max_retries: int = 0,
        allowed_functions: Collection[uuid.UUID] | None = None,
        take_back: Callable[[SpooledTask], bool] = lambda _task: False,
        end_running: Callable[[SpooledTask], bool] = lambda _task: False,
        forget: Callable[[SpooledTask], None] = lambda _task: None,
        on_failure: Callable[[str], None],
    ) -> None:
        self._spool = spool
        self._engine = engine
        self._outbox = outbox
        self._max_retries = max_retries
        self._allowed = None if allowed_functions is None else frozenset(allowed_functions)
        self._take_back = take_back
        self._end_running = end_running
        self._forget = forget
        self._on_failure = on_failure
        self._keep = True
        self._log = TaskLog(logger)
        self._turns: Turns[tuple[Answers, list[Delivery]] | SpooledTask | _Cancel | _Tell] = Turns(
            self._work, name="intake", on_failure=on_failure
        )
        self._lock = threading.Lock()  # of the next four
        #: Tasks that wait to be given to the engine again, those that it has, those that it lost and of which it is
        #: just being decided, and those among the latter two that should end.
        self._waiting: set[uuid.UUID] = set()
        self._live: dict[uuid.UUID, SpooledTask] = {}
        self._lost: set[uuid.UUID] = set()
        self._cancelling: set[uuid.UUID] = set()
        self._stopping = False
        #: Tasks that were handed over more than once, and how often; see `attempt`.
        self._repeated: dict[uuid.UUID, int] = {}
        self.received = 0

    def start(self) -> None:
        """Start the thread."""
        self._turns.start()

    def take(self, answers: Answers, deliveries: list[Delivery]) -> None:
        """Take deliveries; returns at once, when it is one, perhaps after the engine has it. Thread-safe."""
        if len(deliveries) == 1:
            self._turns.put_alone((answers, deliveries))
        else:
            self._turns.put((answers, deliveries))

    def run_again(self, task: SpooledTask) -> None:
        """Give a task to the engine that is on disk already. Thread-safe."""
        with self._lock:
            self._waiting.add(task.task_id)
        self._turns.put(task)

    def cancel(self, task_ids: Sequence[uuid.UUID], done: Callable[[], None]) -> None:
        """Keep these tasks from running, and end them if they do; returns at once. Thread-safe.

        Each is answered once, as any task: those that have not begun, and those that come later, as cancelled; those
        that run by their workers.

        Args:
            task_ids: Of any state, also unknown ones.
            done: Called when those that have not begun can't begin any more.
        """
        self._turns.put(_Cancel(task_ids, done))

    @property
    def outstanding(self) -> int:
        """How many tasks have not ended."""
        with self._lock:
            return len(self._waiting) + len(self._live) + len(self._lost)

    def attempt(self, task_id: uuid.UUID) -> int:
        """How often a task that has ended was handed over; tells it once."""
        return self._repeated.pop(task_id, 1)

    def tell(self) -> None:
        """Soon tell the log what waits for it; to be called now and then."""
        if self._log.waiting:
            self._turns.put(_Tell())

    def stop(self, *, keep: bool = True) -> None:
        """End the thread. What it has not acknowledged comes again when the endpoint is back.

        Args:
            keep: Whether tasks that have not begun wait on disk for the next start; otherwise they fail.
        """
        self._keep = keep
        self._stopping = True
        self._turns.stop(finish=False)
        self._log.tell()

    # ---- in turns -----------------------------------------------------------------------------------------------

    def _work(self, items: list[tuple[Answers, list[Delivery]] | SpooledTask | _Cancel | _Tell]) -> None:
        # First, so that what comes together with its cancellation doesn't begin.
        self._cancel([item for item in items if isinstance(item, _Cancel)])
        self._handle([item for item in items if isinstance(item, tuple)])
        self._submit_again([item for item in items if isinstance(item, SpooledTask)])
        if any(isinstance(item, _Tell) for item in items):
            self._log.tell()

    def _handle(self, batches: Sequence[tuple[Answers, list[Delivery]]]) -> None:
        if not batches:
            return
        parsed: list[_Parsed] = []
        taken: list[tuple[Answers, list[Delivery]]] = []
        for answers, deliveries in batches:
            named, nameless = [], []
            for delivery in deliveries:
                one = self._parse(delivery)
                if one is None:
                    nameless.append(delivery)
                else:
                    parsed.append(one)
                    named.append(delivery)
            taken.append((answers, named))
            if nameless:
                answers.refuse(nameless, requeue=False)
        refusals = {one.task.task_id: one.refusal for one in parsed if one.refusal is not None}
        fresh = self._spool.accept([one.task for one in parsed], handed_over=True)
        # Before anything else, as what has been accepted runs in any case.
        self._submit([task for task in fresh if task.task_id not in refusals])
        for answers, named in taken:
            answers.acknowledge(named)  # and none twice, for which brokers close the channel
        self.received += len(fresh)
        self._log.note("Accepted", [task.task_id for task in fresh])
        for task in fresh:
            refusal = refusals.get(task.task_id)
            if refusal is not None:
                self._outbox.put(task.task_id, failure(task.task_id, refusal.code, str(refusal)))

    def _parse(self, delivery: Delivery) -> _Parsed | None:
        """The task of a delivery; `None` when it can't be told which task it is, so that nobody can be answered."""
        try:
            task_id = uuid.UUID(str(delivery.headers["task_uuid"]))
        except (KeyError, ValueError):
            logger.error("A delivery of %d bytes names no task; it is dropped", len(delivery.body))
            return None
        kept: dict[str, Any] = {}
        refusal: _BadTaskError | None = None
        try:
            kept = _kept_headers(delivery.headers)
            self._check_allowed(kept["function"])
        except _BadTaskError as exc:
            logger.warning("Task %s is refused: %s", task_id, exc)
            refusal = exc
        return _Parsed(SpooledTask(task_id, delivery.body, kept, attempt=1), refusal)

    def _check_allowed(self, function: str) -> None:
        if self._allowed is not None and uuid.UUID(function) not in self._allowed:
            raise _BadTaskError(
                FUNCTION_NOT_ALLOWED,
                f"Function {function} is not among those that this endpoint's configuration allows.",
            )

    def _cancel(self, cancels: Sequence[_Cancel]) -> None:
        for cancel in cancels:
            known = self._spool.known(cancel.task_ids)
            dropped = [task_id for task_id in cancel.task_ids if self._drop(task_id, known)]
            text = "The task was cancelled before it had begun."
            answers = [(task_id, failure(task_id, TASK_CANCELLED, text)) for task_id in dropped]
            # On disk before anything else is looked at: a task that comes later is taken for one that has ended.
            self._spool.finish(answers)
            self.received += len(set(dropped) - known)
            for task_id, body in answers:
                self._outbox.put(task_id, body, spooled=True)
            self._log.note("Cancelled before they began:", dropped)
            cancel.done()

    def _drop(self, task_id: uuid.UUID, known: Collection[uuid.UUID]) -> bool:
        """Cancel a task; returns whether it is certain now that it never begins, so that it must be answered."""
        with self._lock:
            if task_id in self._waiting:
                self._waiting.discard(task_id)
                return True
            task = self._live.get(task_id)
            if task is not None or task_id in self._lost:
                self._cancelling.add(task_id)
            if task is None:
                return task_id not in known  # one that is lost is answered by whoever decides on it
        if self._take_back(task):
            with self._lock:
                return self._live.pop(task_id, None) is not None
        told = self._end_running(task)
        logger.info("Task %s was cancelled; %s", task_id, "its worker is told" if told else "nothing can end it here")
        return False

    def _submit_again(self, again: Sequence[SpooledTask]) -> None:
        with self._lock:
            tasks = [task for task in again if task.task_id in self._waiting]  # the others were cancelled
        if tasks:
            self._spool.handed_over([task.task_id for task in tasks])
        for task in tasks:
            if task.attempt:
                self._repeated[task.task_id] = task.attempt + 1
        self._submit([replace(task, attempt=task.attempt + 1) for task in tasks])

    def _submit(self, tasks: Sequence[SpooledTask]) -> None:
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("To the engine: %s", ", ".join(str(task.task_id) for task in tasks))
        with self._lock:
            self._live.update((task.task_id, task) for task in tasks)
            if self._waiting:
                self._waiting.difference_update(task.task_id for task in tasks)
        for task, future in zip(tasks, self._engine.submit_all([_for_engine(task) for task in tasks]), strict=True):
            future.add_done_callback(partial(self._ended, task))

    # ---- on any thread ------------------------------------------------------------------------------------------

    def _ended(self, task: SpooledTask, future: Future[bytes]) -> None:
        error = future.exception()
        lost = isinstance(error, EngineFailure) and error.lost
        with self._lock:
            live = self._live.pop(task.task_id, None) is not None
            if live and lost:
                self._lost.add(task.task_id)  # so that its cancellation finds it until it is decided
            else:
                self._cancelling.discard(task.task_id)
        if not live:  # it was answered when it was cancelled
            self._repeated.pop(task.task_id, None)
            if error is None:  # its worker has seen that it must not run
                self._forget(task)
            return
        if error is None:
            self._outbox.put(task.task_id, future.result())
            return
        try:
            if isinstance(error, EngineFailure) and lost and self._settle(task, error):
                return
        except EndpointError as exc:
            # Nobody sees what a future's callback raises. The task is on disk, for an agent that can write there.
            logger.exception("What becomes of task %s can't be noted", task.task_id)
            self._on_failure(str(exc))
            return
        logger.warning("Task %s failed: %s", task.task_id, error)
        code = error.code if isinstance(error, EngineFailure) else ENGINE_FAILED
        self._outbox.put(task.task_id, failure(task.task_id, code, str(error)))

    def _settle(self, task: SpooledTask, why: EngineFailure) -> bool:
        """Decide on a task that the system lost: it was cancelled, or runs again, or else fails.

        Returns:
            Whether that is all; otherwise it fails.
        """
        with self._lock:
            cancelled = task.task_id in self._cancelling
        again = None if cancelled else self._again(task, why)
        with self._lock:
            self._lost.discard(task.task_id)
            cancelled = task.task_id in self._cancelling  # also if that came meanwhile
            self._cancelling.discard(task.task_id)
            if again is not None and not cancelled and not self._stopping:
                self._waiting.add(task.task_id)
                self._turns.put(again)
        if cancelled:
            text = "The task was cancelled, and ended with its worker."
            self._outbox.put(task.task_id, failure(task.task_id, TASK_CANCELLED, text))
        return cancelled or again is not None

    def _again(self, task: SpooledTask, why: EngineFailure) -> SpooledTask | None:
        """How a task that the system lost runs again, noted on disk; `None` if it may not."""
        if self._stopping and not self._keep:
            return None
        if not why.begun:
            self._spool.taken_back(task.task_id)
            return task
        # A task that never begins, however often it is handed over, may be what brings the workers down.
        if task.attempt < MAX_ATTEMPTS and self._take_back(task):
            logger.info("Task %s had not begun and will run again: %s", task.task_id, why)
            self._spool.taken_back(task.task_id)
            return task
        if task.failures < self._max_retries:
            logger.warning("Task %s will run again: %s", task.task_id, why)
            self._spool.failed(task.task_id)
            return replace(task, failures=task.failures + 1)
        return None


def _for_engine(task: SpooledTask) -> EngineTask:
    return EngineTask(
        task_id=task.task_id,
        body=task.body,
        resource_specification=task.headers.get("resources") or {},
        result_serializers=task.headers.get("serializers"),
        attempt=task.attempt,
        function=task.headers.get("function") or "",
        sender_python=task.headers.get("python"),  # missing in what an older agent left
        body_file=task.file,
    )


def _kept_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """What of a delivery's headers is needed to run its task (PROTOCOL.md section 5).

    Raises:
        _BadTaskError: They are not as they should be.
    """
    try:
        function = str(uuid.UUID(str(headers["function_uuid"])))
        text = headers.get("resource_specification")
        resources = json.loads(text) if text else None
        serializers = headers.get("result_serializers") or None
    except KeyError as exc:
        raise _BadTaskError(MALFORMED_TASK, f"The task came without the header {exc}.") from exc
    except (ValueError, TypeError) as exc:
        raise _BadTaskError(MALFORMED_TASK, f"The task's headers can't be understood: {exc}") from exc
    if resources is not None and not isinstance(resources, dict):
        raise _BadTaskError(MALFORMED_TASK, "The task's resource specification is no JSON object.")
    if serializers is not None and not (
        isinstance(serializers, list) and all(isinstance(one, str) for one in serializers)
    ):
        raise _BadTaskError(MALFORMED_TASK, "The task's result serializers are no list of names.")
    # Told by our own service only, and by word of the caller: whatever else it is, it tells nothing.
    python = _MINOR_VERSION.match(str(headers.get("python_version")))
    return {
        "function": function,
        "resources": resources,
        "serializers": serializers,
        "python": python and python[0],
    }
