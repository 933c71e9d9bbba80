"""Rows of blocks and nodes for Parsl's database: from the endpoint's reports, and from where tasks ran."""

from __future__ import annotations

import datetime
import logging
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from parsl.jobs.states import JobState
from parsl.monitoring.message_type import MessageType

from parsl_globus.errors import DecodeError, ServiceError
from parsl_globus.monitoring.records import Node

logger = logging.getLogger(__name__)

#: How often the last report is asked for, in seconds; endpoints report every 30 s by default.
PERIOD_S = 15.0
#: How long to wait for an answer of the service at the end, in seconds.
STOP_TIMEOUT_S = 5.0

_RUNNING = JobState.RUNNING.name


class EndpointWatch:
    """Writes a row when a block's status changes, and one for each node. Thread-safe.

    Args:
        put: Takes a message of Parsl's monitoring.
        run_id: Of the workflow.
        label: Of the executor.
        ask: The details of the service's word on an endpoint's status; `None` means the executor's endpoint, an id one
            of its user endpoints. May raise `ServiceError` or `DecodeError`.
    """

    def __init__(
        self,
        put: Callable[[tuple[Any, Any]], None],
        *,
        run_id: str,
        label: str,
        ask: Callable[[uuid.UUID | None], Mapping[str, Any]],
    ) -> None:
        self._put = put
        self._run_id = run_id
        self._label = label
        self._ask = ask
        self._lock = threading.Lock()  # of what follows
        self._served_by: set[uuid.UUID] = set()  # user endpoints that ran tasks
        self._nodes: dict[tuple[str, str], Node] = {}  # by uid and host
        self._statuses: dict[str, str] = {}  # the last by block id
        self._jobs: dict[str, str | None] = {}  # by block id
        self._newest: dict[str, datetime.datetime] = {}  # the last row by block id
        self._reported_nodes: dict[str, list[Mapping[str, Any]]] = {}  # by job id, where it had most
        self._closed = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{label}-monitoring", daemon=True)

    def start(self) -> None:
        """Start the thread that asks for reports."""
        self._thread.start()

    def stop(self) -> None:
        """Take in the last report, and what only the tasks know."""
        self._stopping.set()
        self._thread.join(STOP_TIMEOUT_S)
        with self._lock:
            try:
                self._finish()
            except Exception:
                # A report holds what an endpoint wrote; whatever that is, the executor's end goes on.
                logger.exception("The endpoint's blocks and nodes could not be told to the monitoring")
            self._closed = True

    def note(self, node: Node, endpoint_id: str | None) -> None:
        """A task ran on this node, by this user endpoint."""
        with self._lock:
            if self._closed:
                return
            key = (node.uid, node.hostname)
            if key not in self._nodes:
                self._nodes[key] = node
                self._put_node(
                    hostname=node.hostname,
                    uid=node.uid,
                    block_id=node.block_id or "",
                    cpu_count=node.cpu_count,
                    total_memory=node.total_memory_bytes,
                    worker_count=node.worker_count,
                    python_v=node.python_version,
                    timestamp=node.since,
                )
            try:
                self._served_by.add(uuid.UUID(endpoint_id or ""))
            except ValueError:
                pass  # it isn't told by every way that a result may take

    # ---- on the thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            ending = self._stopping.wait(PERIOD_S)
            try:
                for report in self._reports():
                    with self._lock:
                        if not self._closed:
                            self._take(report)
            except (ServiceError, DecodeError) as exc:
                logger.info("%s: the endpoint's report can't be asked for now: %s", self._label, exc)
            except Exception:
                # The outermost frame of this thread; monitoring must not end for one odd report.
                logger.exception("%s: the endpoint's report could not be taken in", self._label)
            if ending:
                return

    def _reports(self) -> Iterator[Mapping[str, Any]]:
        with self._lock:
            mine = set(self._served_by)
        details = self._ask(None)
        listed = {
            uuid.UUID(str(one["endpoint_id"])): one["report"]
            for one in (details.get("parsl_globus") or {}).get("user_endpoints", ())
        }
        if not mine and len(listed) == 1:  # with several, it isn't known yet which ones run this workflow's tasks
            mine = set(listed)
        for endpoint_id in mine:
            yield listed[endpoint_id] if endpoint_id in listed else self._ask(endpoint_id)

    # ---- with the lock ------------------------------------------------------------------------------------------

    def _take(self, report: Mapping[str, Any]) -> None:
        nodes = report.get("node_info")
        nodes = nodes if isinstance(nodes, dict) else {}
        for job_id, managers in nodes.items():
            if isinstance(managers, list) and len(managers) > len(self._reported_nodes.get(job_id, ())):
                self._reported_nodes[job_id] = managers
        told = report.get("blocks")
        if isinstance(told, dict):
            for block_id, block in told.items():
                self._put_block(str(block_id), block.get("job_id"), str(block["status"]))
            return
        for job_id in nodes:
            self._put_block(self._block_of(job_id), job_id, _RUNNING)
        if nodes or report.get("managers") == 0:
            for block_id, status in list(self._statuses.items()):
                if status == _RUNNING and self._jobs[block_id] not in nodes:
                    self._put_block(block_id, self._jobs[block_id], JobState.UNKNOWN.name)

    def _block_of(self, job_id: str) -> str:
        """The public agent's report tells jobs, its workers their blocks: the same, if a scheduler says so."""
        for block_id, known in self._jobs.items():
            if known == job_id:
                return block_id
        for node in self._nodes.values():
            if node.block_id is not None and node.job_id == job_id:
                return node.block_id
        blocks = {node.block_id for node in self._nodes.values() if node.block_id is not None}
        if len(blocks) == 1 and not self._jobs:
            return blocks.pop()
        return job_id

    def _put_block(self, block_id: str, job_id: object, status: str, at: datetime.datetime | None = None) -> None:
        job = str(job_id) if job_id is not None else None
        if self._statuses.get(block_id) == status and self._jobs.get(block_id) == job:
            return
        self._statuses[block_id], self._jobs[block_id] = status, job
        timestamp = at or datetime.datetime.now()
        if block_id in self._newest:  # together they are a key of the database
            timestamp = max(timestamp, self._newest[block_id] + datetime.timedelta(microseconds=1))
        self._newest[block_id] = timestamp
        row = {
            "run_id": self._run_id,
            "executor_label": self._label,
            "block_id": block_id,
            "job_id": job,
            "timestamp": timestamp,
            "status": status,
        }
        self._put((MessageType.BLOCK_INFO, [row]))

    def _put_node(self, *, timestamp: datetime.datetime, **columns: Any) -> None:
        row = {
            "run_id": self._run_id,
            **columns,
            "active": True,
            "timestamp": timestamp,
            "last_heartbeat": timestamp,
        }
        self._put((MessageType.NODE_INFO, row))

    def _finish(self) -> None:
        """What reports came too late for, or never tell."""
        for node in self._nodes.values():
            block_id = node.block_id
            if block_id is not None and self._statuses.get(block_id) in (None, JobState.PENDING.name):
                self._put_block(block_id, self._jobs.get(block_id, node.job_id), _RUNNING, at=node.since)
        blocks_of_jobs = {job_id: block_id for block_id, job_id in self._jobs.items()}
        for job_id, managers in self._reported_nodes.items():
            block_id = blocks_of_jobs.get(job_id, job_id)
            known = sum(1 for node in self._nodes.values() if node.block_id == block_id)
            for manager in managers[known:]:  # it ran no task, so nobody knows more of it
                self._put_node(
                    hostname="unknown",
                    uid="unknown",
                    block_id=block_id,
                    cpu_count=0,
                    total_memory=0,
                    worker_count=int(manager.get("worker_count", 0)),
                    python_v=str(manager.get("python_version", "unknown")),
                    timestamp=datetime.datetime.now(),
                )
