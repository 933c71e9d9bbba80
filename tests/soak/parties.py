"""The two ends of a soak's wires: an endpoint that answers at once, and a client that counts its answers."""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

from pydantic_core import to_json

from parsl_globus.amqp import Consumer, Delivery, Publisher
from parsl_globus.client.rest import ServiceClient
from parsl_globus.endpoint.heartbeat import Heartbeat, publisher_for
from parsl_globus.errors import RequestRefused, ServiceUnreachable
from parsl_globus.wire import codec
from parsl_globus.wire.documents import EndpointRegistration, StartCommand
from parsl_globus.wire.messages import Result, Task

logger = logging.getLogger(__name__)

_HEARTBEAT_S = 5.0
_PREFETCH = 1000
#: How long a batch is offered, again and again.
_SUBMIT_S = 120.0
_PAUSE_S = 0.2


class SimulatedEndpoint:
    """Registers, follows the start command and answers every task at once: all of the protocol, and no work.

    A task that comes again is answered again and differently, so that whoever lets the second answer through is seen.

    Args:
        client: To register by.
        name: Its name.
    """

    def __init__(self, client: ServiceClient, name: str) -> None:
        registered = client.register_endpoint(EndpointRegistration(endpoint_name=name), None)
        self.endpoint_id = registered.endpoint_id
        #: How often each task came.
        self.taken: Counter[uuid.UUID] = Counter()
        self.confirmed = 0
        self._site: _Site | None = None
        self._beats = _beats(
            self.endpoint_id, publisher_for(lambda: registered.heartbeat_queue_info, name="manager heartbeats")
        )
        command_info = registered.command_queue_info
        self._commands = Consumer(
            lambda: command_info.connection_url, command_info.queue, self._command, name="commands"
        )

    def start(self) -> None:
        self._beats.start()
        self._commands.start()

    def _command(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            command = StartCommand.model_validate_json(delivery.body)
            if self._site is None:
                self._site = _Site(command, self)
                self._site.start()
        self._commands.acknowledge(deliveries)

    def stop(self) -> None:
        self._commands.stop()
        if self._site is not None:
            self._site.stop()
        self._beats.stop()


class _Site:
    """The user endpoint."""

    def __init__(self, command: StartCommand, manager: SimulatedEndpoint) -> None:
        creds = command.arguments.amqp_creds
        self._manager = manager
        self._beats = _beats(creds.endpoint_id, publisher_for(lambda: creds.heartbeat_queue_info, name="heartbeats"))
        self._results = publisher_for(lambda: creds.result_queue_info, name="results")
        self._tasks = Consumer(
            lambda: creds.task_queue_info.connection_url,
            creds.task_queue_info.queue,
            self._take,
            name="tasks",
            exclusive=True,
            prefetch=_PREFETCH,
        )

    def start(self) -> None:
        self._beats.start()
        self._results.start()
        self._tasks.start()

    def _take(self, deliveries: list[Delivery]) -> None:
        left = threading.Semaphore(len(deliveries) - 1)

        def confirmed(future: Future[None]) -> None:
            if future.exception() is not None:
                logger.error("A result was not taken: %s", future.exception())
                return
            self._manager.confirmed += 1
            if not left.acquire(blocking=False):
                # As endpoints do: a task is given up when the broker has its result.
                self._tasks.acknowledge(deliveries)

        for delivery in deliveries:
            task_id = codec.unpack(delivery.body, Task).task_id
            self._manager.taken[task_id] += 1
            data = f"00\n{task_id} {self._manager.taken[task_id]} {uuid.uuid4()}"
            self._results.publish(codec.pack(Result(task_id=task_id, data=data))).add_done_callback(confirmed)

    def stop(self) -> None:
        self._tasks.stop()
        self._beats.stop()
        self._results.stop()


class _Beats:
    """A heartbeat with its publisher."""

    def __init__(self, beat: Heartbeat, publisher: Publisher) -> None:
        self._beat = beat
        self._publisher = publisher

    def start(self) -> None:
        self._publisher.start()
        self._beat.start()

    def stop(self) -> None:
        self._beat.stop({"active": False})
        self._publisher.stop()


def _beats(endpoint_id: uuid.UUID, publisher: Publisher) -> _Beats:
    beat = Heartbeat(endpoint_id, publisher.publish, period_s=_HEARTBEAT_S, state=lambda: {"active": True})
    return _Beats(beat, publisher)


class Answers:
    """Consumes a task group's queue as an executor does: the first answer to a task counts.

    Args:
        client: Tells where.
        group_id: The task group.
    """

    def __init__(self, client: ServiceClient, group_id: uuid.UUID) -> None:
        access = client.result_access()
        #: The first answer to each task.
        self.first: dict[uuid.UUID, str] = {}
        #: Messages that said the same once more.
        self.repeats = 0
        #: Messages that said something else: tasks that were answered twice.
        self.contradictions = 0
        #: The longest time without an answer, and how many there were before it.
        self.longest_pause_s = 0.0
        self.before_pause = 0
        self._last_s: float | None = None
        self.changed = threading.Condition()
        self._consumer = Consumer(
            lambda: access.connection_url, f"{access.queue_prefix}{group_id}", self._take, name="answers"
        )

    def start(self) -> None:
        self._consumer.start()

    def _take(self, deliveries: list[Delivery]) -> None:
        now_s = time.monotonic()
        with self.changed:
            if self._last_s is not None and now_s - self._last_s > self.longest_pause_s:
                self.longest_pause_s, self.before_pause = now_s - self._last_s, len(self.first)
            self._last_s = now_s
            for delivery in deliveries:
                result = codec.unpack(delivery.body, Result)
                known = self.first.setdefault(result.task_id, result.data)
                if known is not result.data:
                    self.repeats += known == result.data
                    self.contradictions += known != result.data
            self.changed.notify_all()
        self._consumer.acknowledge(deliveries)

    def wait(self, count: int, limit_s: float) -> bool:
        """Wait until so many tasks are answered; whether they are, once none was answered for `limit_s`."""
        with self.changed:
            while len(self.first) < count:
                seen = len(self.first)
                if not self.changed.wait_for(partial(self._more_than, seen), limit_s):
                    return False
            return True

    def _more_than(self, count: int) -> bool:
        return len(self.first) > count

    def stop(self) -> None:
        self._consumer.stop()


@dataclass
class Submitters:
    """Threads that submit batches through all processes in turn, each batch with a key of its own.

    Args:
        clients: One for each process, by name.
        endpoint_id: Where to.
        function_id: What runs.
        group_id: The task group.
        payload: Of each task.
        answers: Theirs.
        window: Most tasks submitted and not answered, so that the last submissions come when the last answers do.
    """

    clients: dict[str, ServiceClient]
    endpoint_id: uuid.UUID
    function_id: uuid.UUID
    group_id: uuid.UUID
    payload: str
    answers: Answers
    window: int
    #: Accepted tasks, by the process that accepted them.
    accepted: dict[str, list[uuid.UUID]] = field(default_factory=dict)
    #: Calls that got no answer, or the answer to come again.
    repeated: int = 0
    problems: list[BaseException] = field(default_factory=list)

    def start(self, sizes: Sequence[int], threads: int) -> None:
        """Begin to submit batches of these sizes."""
        self.accepted = {name: [] for name in self.clients}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._offered = 0
        self._left: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        for numbered in enumerate(sizes):
            self._left.put(numbered)
        self.threads = [threading.Thread(target=self._run, name=f"submitter {n}", daemon=True) for n in range(threads)]
        for thread in self.threads:
            thread.start()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                number, size = self._left.get_nowait()
                self._await_room(size)
                self._submit(number, size)
        except queue.Empty:
            return
        except BaseException as exc:  # noqa: BLE001 - told by `finish`
            self.problems.append(exc)

    def _await_room(self, size: int) -> None:
        changed, first = self.answers.changed, self.answers.first
        with changed:
            changed.wait_for(lambda: self._stopping.is_set() or self._offered + size - len(first) <= self.window)
            self._offered += size

    def _submit(self, number: int, size: int) -> None:
        key, names = uuid.uuid4(), list(self.clients)
        body = {
            "tasks": {str(self.function_id): [self.payload] * size},
            "create_queue": True,
            "task_group_id": str(self.group_id),
            "resource_specification": {},
        }
        deadline_s = time.monotonic() + _SUBMIT_S
        attempt = number
        while True:
            name = names[attempt % len(names)]
            attempt += 1
            try:
                reply = self.clients[name].submit(self.endpoint_id, [to_json(body)], idempotency_key=key)
            except (ServiceUnreachable, RequestRefused) as exc:
                if isinstance(exc, RequestRefused) and exc.http_status not in (502, 503, 504):
                    raise
                if time.monotonic() > deadline_s or self._stopping.is_set():
                    raise
                with self._lock:
                    self.repeated += 1
                if attempt % len(names) == number % len(names):  # all were tried
                    self._stopping.wait(_PAUSE_S)
                continue
            ids = [task_id for task_id in reply.tasks[self.function_id] if task_id is not None]
            assert len(ids) == size, json.dumps(reply.model_dump(mode="json"))[:1000]
            with self._lock:
                self.accepted[name] += ids
            return

    def finish(self) -> None:
        """Wait until all is accepted."""
        for thread in self.threads:
            thread.join()
        if self.problems:
            raise self.problems[0]

    def stop(self) -> None:
        """Break off."""
        self._stopping.set()
        with self.answers.changed:
            self.answers.changed.notify_all()
        for thread in self.threads:
            thread.join()
