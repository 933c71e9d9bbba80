"""EndpointAgent: joins spool, engine, intake, outbox and heartbeat, and owns their lifecycle."""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from parsl_globus.amqp import Consumer, Delivery, Publisher
from parsl_globus.endpoint import status_file
from parsl_globus.endpoint.config.model import EndpointModel, EngineModel
from parsl_globus.endpoint.control import Control
from parsl_globus.endpoint.engine import Engine, WorkerSettings
from parsl_globus.endpoint.heartbeat import Heartbeat, IdleClock, publisher_for, with_port
from parsl_globus.endpoint.htex_engine import HtexEngine
from parsl_globus.endpoint.intake import Intake
from parsl_globus.endpoint.marks import Marks
from parsl_globus.endpoint.outbox import Outbox
from parsl_globus.endpoint.outputs import prune
from parsl_globus.endpoint.recovery import Recovery
from parsl_globus.endpoint.site_commands import run_commands
from parsl_globus.endpoint.spool import SPOOL_FILE, Spool, SpooledTask
from parsl_globus.endpoint.tidying import Tidying
from parsl_globus.endpoint.trips import NOTES_FOLDER, LeftNotes
from parsl_globus.errors import EndpointStartFailed
from parsl_globus.wire.control import CANCEL, LOST_RESULTS
from parsl_globus.wire.documents import AgentCredentials

logger = logging.getLogger(__name__)

#: How often the agent looks whether its engine still lives; not on any task's way.
_WATCH_PERIOD_S = 1.0
#: An interchange that ends sooner, before any task has ended, is perhaps one that can't live; when that happens twice
#: within so long, the endpoint fails.
_SETTLED_S = 30.0
_TWICE_S = 600.0
#: How long a stopping agent waits for the engine to end, and for the broker to confirm what is left.
ENGINE_STOP_S = 6.0
FLUSH_S = 3.0
#: How long `endpoint_teardown` may take; one that is stopped has less, as its manager waits for so long only.
TEARDOWN_LIMIT_S = 60.0

#: Providers whose workers don't see the agent's files, so that no mark of a begun task can be left for it.
_NO_SHARED_FILES = frozenset({"KubernetesProvider", "AWSProvider", "AzureProvider", "GoogleCloudProvider"})


class EndpointAgent:
    """A user endpoint: takes tasks from the broker, has them run, sends the results.

    Args:
        config: Its configuration, with an engine.
        credentials: Gives the current credentials; they may be renewed.
        directory: Its folder: spool, logs, submit scripts.
        heartbeats: A started publisher of heartbeats.
        make_engine: Makes the engine; by default what the configuration says.
    """

    def __init__(
        self,
        config: EndpointModel,
        credentials: Callable[[], AgentCredentials],
        directory: Path,
        heartbeats: Publisher,
        *,
        make_engine: Callable[[EngineModel, WorkerSettings, Path], Engine] | None = None,
    ) -> None:
        assert config.engine is not None
        self._config = config
        self._credentials = credentials
        self._directory = directory
        self._heartbeats = heartbeats
        self.endpoint_id: uuid.UUID = credentials().endpoint_id
        self._worker = _worker_settings(config.engine, self.endpoint_id, directory)
        self._marks = Marks(Path(self._worker.marks_dir)) if self._worker.marks_dir is not None else None
        self._engine = (make_engine or build_engine)(config.engine, self._worker, directory)
        self._tidying = Tidying(
            [lambda: prune(self._worker.marks_dir), *([self._marks.prune] if self._marks is not None else [])]
        )
        self._ending = threading.Event()
        self._why = ""
        self._failed: str | None = None
        self._answering: threading.Thread | None = None
        self._idle = IdleClock(config.idle_heartbeats_soft, config.idle_heartbeats_hard)
        self._started_unix_s = int(time.time())
        self._spool = Spool(directory / SPOOL_FILE)
        self._results = publisher_for(
            lambda: credentials().result_queue_info, name="results", amqp_port=config.amqp_port
        )
        self._outbox = Outbox(self._spool, self._results.publish, on_spooled=self._forget_marks, on_failure=self._fail)
        self._intake = Intake(
            self._spool,
            self._engine,
            self._outbox,
            max_retries=config.engine.max_retries_on_system_failure,
            allowed_functions=config.allowed_functions,
            take_back=self._take_back,
            end_running=self._end_running,
            forget=self._forget_mark,
            on_failure=self._fail,
        )
        self._recovery = Recovery(
            self._spool,
            self._intake,
            self._outbox,
            marks=self._marks,
            notes=LeftNotes(directory / NOTES_FOLDER),
            retries=config.engine.max_retries_on_system_failure,
        )
        port = config.amqp_port
        self._tasks = Consumer(
            lambda: with_port(credentials().task_queue_info.connection_url, port),
            lambda: credentials().task_queue_info.queue,
            self._take,
            name="tasks",
            exclusive=True,
        )
        commands = {CANCEL: self._intake.cancel, LOST_RESULTS: self._outbox.asked_for}
        self._control = Control(credentials, port, commands)
        self._beats = Heartbeat(
            self.endpoint_id,
            heartbeats.publish,
            period_s=config.heartbeat_period,
            state=self._state,
            on_beat=self._beaten,
        )

    def run(self) -> str | None:
        """Work until `stop` is called, the idle clock runs out or the engine fails.

        Returns:
            Why it failed, or `None` when it ended as it should.

        Raises:
            EndpointStartFailed: It could not start; nothing is left running.
        """
        try:
            self._start()
        except EndpointStartFailed:
            self._end()
            raise
        except Exception as exc:
            # The outermost frame of the agent: the service is told, whatever its parts raise.
            self._end()
            raise EndpointStartFailed(endpoint_id=str(self.endpoint_id), detail=f"{exc}") from exc
        try:
            while not self._ending.wait(_WATCH_PERIOD_S):
                self._watch_engine()
                self._answer_questions()
                self._tidying.look()
                self._intake.tell()
                self._outbox.tidy()
        except Exception as exc:
            # The outermost frame again: whatever was started ends.
            logger.exception("The agent's loop ends")
            self._fail(f"{type(exc).__name__}: {exc}")
        logger.info("Ending: %s", self._why or "stopped")
        self._end()
        return self._failed

    def _answer_questions(self) -> None:
        # On a thread of its own: an interchange that hangs keeps whoever asks it waiting for ever.
        if status_file.is_asked(self._directory) and not (self._answering and self._answering.is_alive()):
            self._answering = threading.Thread(
                target=status_file.answer, args=(self._directory, self._local_state), name="status", daemon=True
            )
            self._answering.start()

    def stop(self, why: str = "stopped") -> None:
        """End `run` soon. Safe in a signal handler."""
        self._why = self._why or why
        self._ending.set()

    # ---- start and end ------------------------------------------------------------------------------------------

    def _start(self) -> None:
        # What an earlier agent left is sent first: if this one can't start, the service ends all that has no result.
        self._results.start()
        self._outbox.start()
        left = self._spool.recover()
        self._control.start()
        for task_id, body in left.results:
            self._outbox.put(task_id, body, spooled=True)
        setup = self._config.endpoint_setup
        if not run_commands("endpoint_setup", setup, self.endpoint_id, stopping=self._ending):
            return  # `run` sees that it is to end
        self._engine.start()
        if left.accepted or left.handed_over:
            self._control.wait_heard()
        # The intake starts afterwards: it must know these tasks when it hears that one of them was cancelled.
        self._recovery.answer_for(left)
        self._intake.start()
        self._beats.start()
        self._tasks.start()
        logger.info("Endpoint %s takes tasks", self.endpoint_id)

    def _take_back(self, task: SpooledTask) -> bool:
        return self._marks is not None and self._marks.take_back(task.task_id, task.attempt)

    def _end_running(self, task: SpooledTask) -> bool:
        return self._marks is not None and self._marks.ask_to_end(task.task_id, task.attempt)

    def _forget_mark(self, task: SpooledTask) -> None:
        if self._marks is not None:
            self._marks.forget(task.task_id, task.attempt)

    def _end(self) -> None:
        """Stop the parts in the order in which work flows; each is bounded, and a part that never started is too."""
        self._tasks.stop(2)
        self._control.stop()
        self._intake.stop(keep=self._failed is None)
        # HTEX waits for its interchange without a limit in places, and that may be what is dead.
        engine_end = threading.Thread(target=self._shut_engine, name="engine-end", daemon=True)
        engine_end.start()
        engine_end.join(ENGINE_STOP_S)
        if engine_end.is_alive():
            logger.error("The engine did not end within %.0f s", ENGINE_STOP_S)
        # With the broker away they can't be confirmed, and are safe where they are.
        if not self._outbox.wait_empty(0.0 if self._results.failing else FLUSH_S):
            logger.warning("%d results wait on disk for the next start", self._outbox.unconfirmed)
        self._results.stop(flush_timeout_s=0.1)
        self._outbox.stop()
        self._spool.close()
        self._beats.stop(self._last_words())
        teardown = self._config.endpoint_teardown
        try:
            run_commands("endpoint_teardown", teardown, self.endpoint_id, limit_s=TEARDOWN_LIMIT_S)
        except EndpointStartFailed as exc:
            logger.error("%s", exc.detail)

    def _shut_engine(self) -> None:
        try:
            self._engine.shutdown()
        except Exception:
            # The outermost frame of this thread; the manager ends what the engine leaves.
            logger.exception("The engine did not end as it should")

    def _watch_engine(self) -> None:
        why = self._engine.failed()
        if why is None:
            return
        if isinstance(self._engine, HtexEngine) and self._engine.lost_interchange and self._may_start_again():
            # The service starts it again, as tasks wait for it: what has not begun is on disk, and the next agent has
            # an interchange.
            logger.error("%s The endpoint ends, to be started again", why)
            self.stop("its interchange is gone")
        else:
            self._fail(why)

    def _may_start_again(self) -> bool:
        if self._outbox.moved > 0 or time.time() - self._started_unix_s > _SETTLED_S:
            return True
        note = self._directory / "interchange-lost"
        again = note.exists() and time.time() - note.stat().st_mtime < _TWICE_S
        note.touch()
        return not again

    def _last_words(self) -> Mapping[str, Any]:
        words: dict[str, Any] = {"heartbeat_period": self._config.heartbeat_period, "active": False}
        if self._failed is not None:
            words["error"] = self._failed
        return words

    # ---- called by the parts ------------------------------------------------------------------------------------

    def _take(self, deliveries: list[Delivery]) -> None:
        self._intake.take(self._tasks, deliveries)

    def _fail(self, why: str) -> None:
        if self._failed is None:
            logger.error("The endpoint can't go on: %s", why)
            self._failed = why
        self.stop("failed")

    def _forget_marks(self, task_ids: list[uuid.UUID]) -> None:
        for task_id in task_ids:
            attempt = self._intake.attempt(task_id)
            if self._marks is not None:
                self._marks.forget(task_id, attempt)

    def _state(self) -> Mapping[str, Any]:
        return {
            **asdict(self._engine.status()),
            "active": True,
            "start_unix": self._started_unix_s,
            "unconfirmed_results": self._outbox.unconfirmed,
        }

    def _local_state(self) -> Mapping[str, Any]:
        tasks = {"accepted": self._intake.received, "done": self._outbox.done, "failed": self._outbox.failed}
        return {**self._state(), "pid": os.getpid(), "tasks": tasks}

    def _beaten(self) -> None:
        moved = self._intake.received + self._outbox.moved
        outstanding = self._intake.outstanding + self._outbox.unconfirmed
        why = self._idle.beat(moved=moved, outstanding=outstanding)
        if why is not None:
            self.stop(why)


def build_engine(engine: EngineModel, worker: WorkerSettings, directory: Path) -> Engine:
    """The engine that the configuration names.

    Raises:
        ConfigError: It can't be built here.
    """
    if engine.type == "ThreadPoolEngine":
        from parsl_globus.endpoint.threads_engine import ThreadPoolEngine

        return ThreadPoolEngine(worker=worker, **engine.options)
    if engine.type == "ProcessPoolEngine":
        from parsl_globus.endpoint.processes_engine import ProcessPoolEngine

        return ProcessPoolEngine(worker=worker, **engine.options)
    from parsl_globus.endpoint.config.build import build_executor, stays_here
    from parsl_globus.endpoint.mpi_engine import MpiEngine
    from parsl_globus.endpoint.plain_path import plain_path

    run_dir = plain_path(directory, stays_here=stays_here(engine.provider))
    make = MpiEngine if engine.type == "GlobusMPIEngine" else HtexEngine
    executor = build_executor(engine, run_dir=run_dir)
    poller = engine.poller.model_dump()
    return make(executor, run_dir=run_dir, worker=worker, poller=poller, fuse=engine.fuse_short_tasks)


def _worker_settings(engine: EngineModel, endpoint_id: uuid.UUID, directory: Path) -> WorkerSettings:
    marks: Path | None = None
    if engine.provider.type not in _NO_SHARED_FILES:
        marks = directory / "begun"
    return WorkerSettings(
        endpoint_id=str(endpoint_id),
        run_dir=str(directory / engine.working_dir),
        marks_dir=str(marks) if marks is not None else None,
        run_in_sandbox=engine.run_in_sandbox,
        task_deserializers=engine.allowed_serializers,
    )
