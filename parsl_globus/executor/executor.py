"""`GlobusComputeExecutor`: the contract of a Parsl executor, with no detail of the protocol."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import typeguard
from globus_compute_sdk import Client, Executor
from parsl.executors.base import ParslExecutor
from parsl.monitoring.radios.base import RadioConfig
from parsl.usage_tracking.api import UsageInformation
from parsl.utils import RepresentationMixin

from parsl_globus.client.connect import default_client, is_self_hosted
from parsl_globus.client.rest import ServiceClient
from parsl_globus.errors import (
    DecodeError,
    ExecutorShutDown,
    ParslGlobusError,
    PayloadTooLarge,
    ServiceError,
)
from parsl_globus.executor.adoption import as_endpoint_id, serializers_of, settings_of
from parsl_globus.executor.batcher import ENVELOPE_BYTES, HOSTED_RATE, Batcher, RateLimit, Waiting
from parsl_globus.executor.calls import Calls
from parsl_globus.executor.cancel import Cancellation, CancelOutcome
from parsl_globus.executor.endpoint_status import EndpointStatus, status_from
from parsl_globus.executor.facade import ConcurrentExecutor
from parsl_globus.executor.functions import Encoder, runner_registration
from parsl_globus.executor.journal import DEFAULT_LIMIT_BYTES, Journal, open_journal
from parsl_globus.executor.journal_resume import Service, take_up
from parsl_globus.executor.object_places import place_of
from parsl_globus.executor.object_store import DEFAULT_THRESHOLD_BYTES, ObjectFuture, ObjectStore
from parsl_globus.executor.outcome import Monitor, fail
from parsl_globus.executor.registered import RegisteredFunctions
from parsl_globus.executor.results import Results
from parsl_globus.executor.streams import StreamsFuture, names_for_worker, streams_of, with_streams
from parsl_globus.executor.submission import Submission, group_of, warn_if_offline
from parsl_globus.executor.task_log import TaskFuture, TaskLog
from parsl_globus.monitoring.endpoint_watch import EndpointWatch
from parsl_globus.monitoring.radio import GlobusComputeRadio, Receiver
from parsl_globus.version import __version__
from parsl_globus.wire.documents import (
    DEFAULT_PAYLOAD_LIMIT_BYTES,
    EXTENSION_CANCEL,
    EXTENSION_IDEMPOTENCY,
    EXTENSION_PER_TASK,
)
from parsl_globus.wire.payload import Payload

logger = logging.getLogger(__name__)


class GlobusComputeExecutor(ParslExecutor, RepresentationMixin, UsageInformation):
    """Runs Parsl apps on a Globus Compute endpoint.

    Works with Globus's hosted service and with a self-hosted one (`parsl-globus service run`), with endpoints of this
    package and with `globus-compute-endpoint`. A configuration for `parsl.executors.GlobusComputeExecutor` works when
    only its import line is changed: what its `executor` says is adopted.

    Example::

        import parsl
        from parsl.config import Config
        from parsl_globus import GlobusComputeExecutor

        parsl.load(Config(executors=[
            GlobusComputeExecutor("9a6a5f0c-...", label="polaris"),
            GlobusComputeExecutor("1f4e8c7d-...", label="perlmutter"),
        ]))

    A task's `parsl_resource_specification` wins over `resource_specification`, and its key `user_endpoint_config`
    over the argument of that name.

    Args:
        endpoint_id: The endpoint. Not needed with `executor`.
        label: Name of this executor in the Parsl configuration.
        client: The service and the login, as from `parsl_globus.connect`. `None` takes the service that runs on this
            machine if there is one, otherwise Globus's with the SDK's own login.
        executor: A `globus_compute_sdk.Executor` whose client, endpoint, specification, user configuration,
            serializers and batch size are adopted. Nothing is submitted through it, and it is never shut down.
        resource_specification: What each task needs, for example `{"num_nodes": 2}` for MPI.
        user_endpoint_config: Values for the endpoint's configuration template.
        storage_access: Parsl staging providers; `None` means Parsl's default ones.
        working_dir: Folder for files that Parsl stages.
        remote_monitoring_radio: How tasks report to Parsl's monitoring; `None` means with their results.
        max_batch: Most tasks submitted in one request.
        linger_s: How long a lone task waits for company, in seconds. 0 is right unless requests are scarce.
        service_timeout_s: How long to go on trying when the service can't be reached, in seconds; then the tasks
            concerned fail with `ServiceUnreachable`. `None` tries for ever.
        offline_timeout_s: How long tasks may wait for an endpoint that is offline, in seconds; then they fail with
            `EndpointOffline`. `None` waits for ever, as Globus does.
        object_store: Where arguments and results go that are larger than `object_threshold_bytes`: a `Store` or a
            connector of ProxyStore; `"service"` for the blobs of a service of one's own; or the URL by which workers
            reach it for that. `None` sends all with the task, and what is too large fails with `PayloadTooLarge`.
        object_threshold_bytes: Larger values go by reference.
        function_ids: Functions that are registered already, by app (or function): for endpoints that run listed ones
            only, see "Endpoints that run listed functions only" in the documentation. All others go as ever.
        journal: A file that remembers what was submitted: a workflow that was killed and is started again takes up
            its tasks instead of running them twice, see "Starting again" in the documentation.
        journal_limit_bytes: How much the journal may keep, in bytes; then it forgets the oldest results.

    Raises:
        ConfigError: From the constructor, when the arguments contradict each other, or the SDK's serializers can't be
            adopted.
    """

    @typeguard.typechecked
    def __init__(
        self,
        endpoint_id: uuid.UUID | str | Executor | None = None,
        label: str = "GlobusComputeExecutor",
        client: Client | None = None,
        executor: Executor | None = None,
        resource_specification: dict[str, Any] | None = None,
        user_endpoint_config: dict[str, Any] | None = None,
        storage_access: list[Any] | None = None,
        working_dir: str | None = None,
        remote_monitoring_radio: RadioConfig | None = None,
        max_batch: int | None = None,
        linger_s: float | int = 0.0,
        service_timeout_s: float | int | None = 600.0,
        offline_timeout_s: float | int | None = None,
        object_store: Any = None,
        object_threshold_bytes: int = DEFAULT_THRESHOLD_BYTES,
        function_ids: Mapping[Any, uuid.UUID | str] | None = None,
        journal: str | Path | None = None,
        journal_limit_bytes: int = DEFAULT_LIMIT_BYTES,
    ) -> None:
        super().__init__()
        if isinstance(endpoint_id, Executor):  # Parsl's own class takes it first
            endpoint_id, executor = None, endpoint_id
        lent = settings_of(executor)
        self.label = label
        self.endpoint_id = as_endpoint_id(endpoint_id or lent.endpoint_id)
        self.executor = executor
        self.client = client or lent.client
        self.resource_specification = resource_specification or lent.resource_specification
        self.user_endpoint_config = user_endpoint_config or lent.user_endpoint_config
        self.storage_access = storage_access
        self.working_dir = working_dir
        # Of its own: Parsl changes radios.
        self.remote_monitoring_radio = remote_monitoring_radio or GlobusComputeRadio()
        self.max_batch = max_batch or lent.batch_size or 1000
        self.linger_s = linger_s
        self.service_timeout_s = service_timeout_s
        self.offline_timeout_s = offline_timeout_s
        self.object_store = object_store
        self.object_threshold_bytes = object_threshold_bytes
        self.function_ids = function_ids
        self.journal = journal
        self.journal_limit_bytes = journal_limit_bytes

        self._serializers = serializers_of(executor, client)
        self._registered = RegisteredFunctions(function_ids, self._serializers, label=label)
        self._calls = Calls(Encoder(self._serializers), self._submit_again, label=label)
        self._make_place = place_of(object_store)
        self._objects: ObjectStore | None = None
        self._service: ServiceClient | None = None
        self._view: ServiceClient | None = None  # asks once; whoever needs the answer asks again, unless told to stop
        self._batcher: Batcher | None = None
        self._results: Results | None = None
        self._watch: EndpointWatch | None = None
        self._cancellation: Cancellation | None = None
        self._journal: Journal | None = None
        self._submission: Submission | None = None
        self._log = TaskLog(label, self.endpoint_id, None)

    def start(self) -> None:
        """Connect to the service and register the runner.

        Raises:
            ServiceUnreachable: The service doesn't answer.
            NotAuthorized: It doesn't know this user, or the user may not use this endpoint.
            EndpointNotFound: It knows no such endpoint.
            JournalInUse: Another workflow that runs uses the journal.
        """
        super().start()
        try:
            self._connect(self.client or default_client())
        except BaseException:
            self.shutdown()  # nothing is left open, so that it can be started again
            raise

    def _connect(self, client: Client) -> None:
        self._log = TaskLog(self.label, self.endpoint_id, self.run_id)
        service = self._service = ServiceClient(client)
        journal = self._journal = open_journal(
            self.journal, endpoint_id=self.endpoint_id, label=self.label, limit_bytes=self.journal_limit_bytes
        )
        extensions = service.version().extensions
        self._objects = self._new_objects(client)
        warn_if_offline(service, self.endpoint_id, label=self.label, offline_timeout_s=self.offline_timeout_s)
        runner = runner_registration(self._serializers)
        view = self._view = ServiceClient(client, max_retries=0)
        submission = self._submission = Submission(
            view,
            self.endpoint_id,
            runner,
            service.register_function(runner),
            result_serializers=self._serializers.results,
            per_task=EXTENSION_PER_TASK in extensions,
        )
        idempotent = EXTENSION_IDEMPOTENCY in extensions
        results = self._results = Results(
            view,
            endpoint_id=self.endpoint_id,
            label=self.label,
            service_timeout_s=self.service_timeout_s,
            offline_timeout_s=self.offline_timeout_s,
            cancels=EXTENSION_CANCEL in extensions,
            monitor=self._start_monitoring(),
            keep=journal.answered if journal is not None else None,
        )
        batcher = self._batcher = Batcher(
            submission.post,
            self._submitted,
            renew=submission.renew_runner,
            under_way=results.pending.expecting,
            idempotent=idempotent,
            endpoint_id=self.endpoint_id,
            label=self.label,
            max_batch=self.max_batch,
            linger_s=self.linger_s,
            service_timeout_s=self.service_timeout_s,
            rate=None if is_self_hosted(client) else RateLimit(*HOSTED_RATE),
        )
        if journal is not None:
            asked = Service(view.task_statuses, submission.post, self._submitted, idempotent)
            submission.task_group_id = take_up(journal, batcher, asked, label=self.label)
        self._cancellation = Cancellation(service, batcher, offered=EXTENSION_CANCEL in extensions, log=self._log)
        if self._objects is not None:
            self._objects.start()
        results.start()
        batcher.start()
        logger.info("%s: endpoint %s at %s", self.label, self.endpoint_id, service.url)

    def submit(
        self, func: Callable[..., Any], resource_specification: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Future[Any]:
        """Run `func(*args, **kwargs)` on the endpoint.

        Encodes the call here and now, so a bad argument fails this task's future and no other's; all else happens on
        other threads.

        Args:
            func: What to run.
            resource_specification: The task's own; the executor's is taken when it is empty. May hold
                `user_endpoint_config`.
            args: For `func`.
            kwargs: For `func`.

        Returns:
            A future for the value. It raises the app's own exception, or a `ParslGlobusError` that says what went
            wrong on the way.
        """
        streams = streams_of(func, kwargs) if "stdout" in kwargs or "stderr" in kwargs else {}
        future = StreamsFuture(streams) if streams else TaskFuture()
        if self._objects is not None:
            future = ObjectFuture(self._objects, streams)
        future.parsl_executor_task_id = str(uuid.uuid4())
        self._log.follow(future)
        try:
            if self._batcher is None:
                raise ExecutorShutDown(label=self.label)
            specification = resource_specification or self.resource_specification or {}
            registered = self._registered.find(func)
            if registered is not None:
                group = group_of(specification, self.user_endpoint_config, registered.function_id)
                self._put(future, group, self._registered.enter(future, registered, args, kwargs, group, self._journal))
                return future
            group = group_of(specification, self.user_endpoint_config)
            journal = self._journal
            if journal is not None:
                journal.enter(future, func, args, kwargs, group, streams)
            if streams:
                func = with_streams(func)
                kwargs |= {"_parsl_globus_streams": names_for_worker(streams)}
            if self._objects is not None:
                self._objects.submit(future, group, func, args, kwargs)
            else:
                self._send(future, group, func, args, kwargs)
        except ParslGlobusError as exc:
            fail(future, exc)
        return future

    def cancel(self, *tasks: Future[Any] | uuid.UUID | str) -> list[CancelOutcome]:
        """Cancel tasks: those that have not begun never run, those that run are ended, as far as their engine allows.

        With `retries` in Parsl's configuration, a `retry_handler` should not repeat what raises `TaskCancelled`.

        Args:
            tasks: Futures of `submit`, Parsl's futures of apps, or ids of tasks.

        Returns:
            What it has come to, for each.

        Raises:
            ExtensionMissing: The service can't cancel tasks, and some had been sent; those that had not are cancelled.
            ExecutorShutDown: It does not run.
            ServiceUnreachable: The service doesn't answer.
        """
        if self._cancellation is None:
            raise ExecutorShutDown(label=self.label)
        return self._cancellation.cancel(tasks)

    def as_concurrent(self, resource_specification: dict[str, Any] | None = None) -> ConcurrentExecutor:
        """This executor as a `concurrent.futures.Executor`, for join_apps and libraries that take one.

        An executor that doesn't run yet is started, and is shut down with what is returned. One that Parsl has started
        stays Parsl's.

        Args:
            resource_specification: What each call needs; the executor's own by default.

        Raises:
            ServiceError: As from `start`.
        """
        return ConcurrentExecutor(self, resource_specification, owned=self._batcher is None)

    def shutdown(self) -> None:
        """Stop; futures without a result fail with `ExecutorShutDown`. Calling it twice is harmless."""
        if self._batcher is not None:
            self._batcher.stop()
        if self._results is not None:
            self._results.stop(ExecutorShutDown(label=self.label))
        if self._objects is not None:
            self._objects.stop(ExecutorShutDown(label=self.label))
            self._objects = None
        if self._watch is not None:
            self._watch.stop()
            self._watch = None
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        for service in (self._service, self._view):
            if service is not None:
                service.close()
        self._batcher = self._results = self._service = self._view = self._cancellation = self._submission = None
        super().shutdown()

    def outstanding(self) -> int:
        """How many tasks have neither a result nor an error yet."""
        if self._batcher is None or self._results is None:
            return 0
        return len(self._batcher) + len(self._results.pending) + len(self._objects or ())

    def running_tasks(self) -> int | None:
        """How many tasks the endpoint's workers run now, as of its last report to the service.

        Returns:
            `None` when it isn't known: the service doesn't answer or doesn't say; Globus's own doesn't.
        """
        return self.endpoint_status().running

    def endpoint_status(self) -> EndpointStatus:
        """Whether the endpoint is there, and what it has to run tasks with, as of its last report to the service.

        Returns:
            "unknown" when the service doesn't answer, or the executor doesn't run.
        """
        if self._view is None:
            return EndpointStatus("unknown")
        try:
            return status_from(self._view.endpoint_status(self.endpoint_id))
        except (ServiceError, DecodeError):
            return EndpointStatus("unknown")

    def get_usage_information(self) -> dict[str, str]:
        """What Parsl's `usage_tracking` tells from level 2 on: our version, and nothing of the user."""
        return {"version": __version__}

    # ---- called by the parts ------------------------------------------------------------------------------------

    def _send(
        self,
        future: Future[Any],
        group: tuple[str, str],
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        self._put(future, group, self._calls.encode(future, group, func, args, kwargs))

    def _put(self, future: Future[Any], group: tuple[str, str], payload: Payload) -> None:
        if self._batcher is None:
            raise ExecutorShutDown(label=self.label)
        if len(payload) > DEFAULT_PAYLOAD_LIMIT_BYTES - ENVELOPE_BYTES:
            raise PayloadTooLarge(size_bytes=len(payload), limit_bytes=DEFAULT_PAYLOAD_LIMIT_BYTES)
        self._batcher.put(Waiting(payload=payload, future=future, group=group))

    def _submit_again(self, task: Waiting) -> None:
        if self._batcher is None:
            raise ExecutorShutDown(label=self.label)
        self._log.again(task.future, "as source, since the worker has another Python")
        if self._cancellation is not None:
            self._cancellation.resubmitted(task.future)
        self._batcher.put(task)

    def _submitted(self, task_ids: Sequence[uuid.UUID], futures: Sequence[Future[Any]]) -> None:
        if self._results is None or self._submission is None:
            return  # shut down meanwhile; the futures have been told
        group_id = self._submission.task_group_id
        assert group_id is not None
        self._log.submitted(task_ids, futures)
        journal = self._journal
        if journal is not None:
            journal.submitted(task_ids, futures, group_id)
        self._results.watch(group_id, dict(zip(task_ids, futures, strict=True)))
        if self._cancellation is not None:
            self._cancellation.submitted(task_ids, futures)

    def _new_objects(self, client: Client) -> ObjectStore | None:
        if self._make_place is None:
            return None
        patience_s = float("inf") if self.service_timeout_s is None else self.service_timeout_s
        return ObjectStore(
            self._make_place(client, patience_s),
            self._send,
            self._calls.check,
            threshold_bytes=self.object_threshold_bytes,
            label=self.label,
            # What a journal tells of belongs to a later run, too.
            durable=self.journal is not None,
        )

    def _start_monitoring(self) -> Monitor | None:
        """With monitoring on, Parsl has given a queue by now, and a receiver of the radio."""
        if self.monitoring_messages is None:
            return None
        put, run_id = self.monitoring_messages.put, str(self.run_id)
        self._watch = EndpointWatch(put, run_id=run_id, label=self.label, ask=self._endpoint_details)
        self._watch.start()
        if not isinstance(self.monitoring_receiver, Receiver):
            return None  # another radio has its own way home
        self.monitoring_receiver.expect(run_id, self._watch.note)
        return self.monitoring_receiver.take

    def _endpoint_details(self, user_endpoint_id: uuid.UUID | None) -> Mapping[str, Any]:
        view = self._view
        if view is None:
            return {}
        return view.endpoint_status(user_endpoint_id or self.endpoint_id).get("details") or {}
