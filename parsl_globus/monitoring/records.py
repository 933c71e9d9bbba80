"""Monitoring records as they come home: JSON, checked against a schema, made into messages of Parsl's monitoring."""

from __future__ import annotations

import datetime
import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from parsl.monitoring.message_type import MessageType

if TYPE_CHECKING:
    import jsonschema

#: More than a runner ever sends.
RECORDS_LIMIT = 1000

# The limits keep out what the database can't hold: Parsl writes many rows at once, and one bad value costs all of them.
_TEXT = {"type": "string", "maxLength": 1024}
_COUNT = {"type": "integer", "minimum": 0, "maximum": 2**53}
_NUMBER = {"type": "number", "minimum": -1e18, "maximum": 1e18}
_TEXT_OR_NONE = {**_TEXT, "type": ["string", "null"]}
_ANY = {**_TEXT, **_NUMBER, "type": ["string", "number", "boolean", "null"]}
_TIME = {"type": "number", "minimum": 0, "maximum": 2**32}
_OF_A_TRY = {"run_id": _TEXT, "task_id": _COUNT, "try_id": _COUNT, "timestamp": _TIME, "hostname": _TEXT}
#: Measured values: they may be missing where a system doesn't tell them, but what comes is of the right type.
_MEASURED = (
    "psutil_process_pid",
    "psutil_process_memory_percent",
    "psutil_process_children_count",
    "psutil_process_time_user",
    "psutil_process_time_system",
    "psutil_process_memory_virtual",
    "psutil_process_memory_resident",
    "psutil_process_disk_read",
    "psutil_process_disk_write",
    "psutil_process_num_ctx_switches_voluntary",
    "psutil_process_num_ctx_switches_involuntary",
    "resource_monitoring_interval",
)

_SCHEMAS: dict[str, dict[str, Any]] = {
    "WORKER_TASK_INFO": {
        "type": "object",
        "properties": {
            **_OF_A_TRY,
            "type": {"const": "WORKER_TASK_INFO"},
            "first_msg": {"type": "boolean"},
            "last_msg": {"type": "boolean"},
            "block_id": _TEXT_OR_NONE,
        },
        "required": [*_OF_A_TRY, "first_msg", "last_msg"],
        "not": {"properties": {"first_msg": {"const": False}, "last_msg": {"const": False}}},
        "additionalProperties": _ANY,
    },
    "RESOURCE_INFO": {
        "type": "object",
        "properties": {
            **_OF_A_TRY,
            "type": {"const": "RESOURCE_INFO"},
            **dict.fromkeys(_MEASURED, _NUMBER),
            "psutil_process_status": _TEXT,
        },
        "required": list(_OF_A_TRY),
        "additionalProperties": _ANY,
    },
    "node": {
        "type": "object",
        "properties": {
            "hostname": _TEXT,
            "uid": _TEXT,
            "block_id": _TEXT_OR_NONE,
            "job_id": _TEXT_OR_NONE,
            "worker_count": _COUNT,
            "cpu_count": _COUNT,
            "total_memory": _COUNT,
            "python_v": _TEXT,
            "timestamp": _TIME,
        },
        "required": [
            "hostname",
            "uid",
            "block_id",
            "worker_count",
            "cpu_count",
            "total_memory",
            "python_v",
            "timestamp",
        ],
        "additionalProperties": _ANY,
    },
}


@dataclass(frozen=True)
class Node:
    """Where a task ran, as its worker says.

    Attributes:
        uid: Of the pool of workers there.
        block_id: `None` where workers are in no block.
        job_id: The scheduler's, where it tells it to its jobs.
        since: When the first monitored task of that worker began.
    """

    hostname: str
    uid: str
    block_id: str | None
    job_id: str | None
    worker_count: int
    cpu_count: int
    total_memory_bytes: int
    python_version: str
    since: datetime.datetime


@dataclass(frozen=True)
class Taken:
    """What of a task's monitoring can be used.

    Attributes:
        messages: For Parsl's database manager.
        troubles: What is missing, in words.
    """

    messages: list[tuple[MessageType, dict[str, Any]]] = field(default_factory=list)
    node: Node | None = None
    troubles: list[str] = field(default_factory=list)


def decode(home: object, run_id: str) -> Taken:
    """Check what came home, record by record.

    Args:
        home: From JSON.
        run_id: Whose records are taken.
    """
    taken = Taken()
    if not isinstance(home, dict) or not isinstance(home.get("records"), list):
        taken.troubles.append("they are not what a runner sends")
        return taken
    if home.get("trouble"):
        taken.troubles.append(f"the worker says: {str(home['trouble'])[:1000]}")
    seen: set[tuple[str, bool | None, float]] = set()
    for record in home["records"][:RECORDS_LIMIT]:
        kind = record.get("type") if isinstance(record, dict) else None
        if kind not in ("WORKER_TASK_INFO", "RESOURCE_INFO"):
            taken.troubles.append(f"a record has the unknown type {str(kind)[:100]!r}")
            continue
        trouble = _trouble(kind, record)
        if trouble is None and record["run_id"] != run_id:
            trouble = "a record is of another run"
        if trouble is not None:
            taken.troubles.append(trouble)
            continue
        key = kind, record.get("first_msg"), record["timestamp"]
        if key not in seen:  # as the database has it
            seen.add(key)
            content = {key: value for key, value in record.items() if key != "type"}
            taken.messages.append((MessageType[kind], {**content, "timestamp": _local(record["timestamp"])}))
    node = home.get("node")
    if node is None:
        return taken
    trouble = _trouble("node", node)
    if trouble is not None:
        taken.troubles.append(trouble)
        return taken
    return Taken(taken.messages, _node(node), taken.troubles)


def _node(node: dict[str, Any]) -> Node:
    return Node(
        hostname=node["hostname"],
        uid=node["uid"],
        block_id=node["block_id"],
        job_id=node.get("job_id"),
        worker_count=node["worker_count"],
        cpu_count=node["cpu_count"],
        total_memory_bytes=node["total_memory"],
        python_version=node["python_v"],
        since=_local(node["timestamp"]),
    )


def _local(seconds: float) -> datetime.datetime:
    """Parsl's database has local times without a zone: this machine's, wherever a task ran."""
    return datetime.datetime.fromtimestamp(seconds)


def _trouble(kind: str, record: object) -> str | None:
    error = next(_validators()[kind].iter_errors(record), None)
    if error is None:
        return None
    where = "/".join(map(str, error.absolute_path)) or "as a whole"
    return f"a record ({kind}, {where}) does not fit its schema: {error.message[:200]}"


@functools.cache
def _validators() -> dict[str, jsonschema.protocols.Validator]:
    import jsonschema  # of an extra, without which the executor works unmonitored

    return {kind: jsonschema.Draft202012Validator(schema) for kind, schema in _SCHEMAS.items()}
