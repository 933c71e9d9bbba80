"""Whether a result message tells of a failure, and its text; by JSON alone, nothing is unpickled."""

from __future__ import annotations

import json
from dataclasses import dataclass

from parsl_globus.errors import DecodeError
from parsl_globus.service.store.views import RUNNER_FAILURES
from parsl_globus.wire import codec
from parsl_globus.wire.messages import Result
from parsl_globus.wire.states import TaskStage

#: The serialization strategy of plain JSON, in which our runner writes its records.
_JSON_STRATEGY = "11\n"
_MISMATCH = "The function was not run: the worker's Python is another than the sender's."


@dataclass(frozen=True)
class Failure:
    """What went wrong.

    Attributes:
        code: One word for it.
        message: A sentence, where the result has one.
        text: The traceback, or whatever the result has instead.
    """

    code: str
    message: str
    text: str

    def has(self, wanted: str) -> bool:
        """Whether `wanted`, in small letters, is in any of its texts."""
        return any(wanted in part.casefold() for part in (self.code, self.message, self.text))


def looks_failed(stage: TaskStage, head: bytes) -> bool:
    """Whether a task failed, by the beginning of its result message."""
    return stage is TaskStage.FAILED or (stage.final and any(mark in head for mark in RUNNER_FAILURES))


def failure_of(body: bytes) -> Failure | None:
    """The failure in a result message; `None` when it holds a value, or can't be read."""
    try:
        result = codec.unpack(body, Result)
    except DecodeError as exc:
        return Failure("ResultUnreadable", str(exc), "")
    if result.error_details is not None:
        return Failure(result.error_details.code, result.error_details.user_message or "", result.data)
    return _of_runner(result.data)


def _of_runner(data: str) -> Failure | None:
    """A failure that `GlobusComputeExecutor`'s runner wrote down, as text in JSON."""
    if not data.startswith(_JSON_STRATEGY):
        return None
    try:
        record = json.loads(data[len(_JSON_STRATEGY) :])
    except (ValueError, RecursionError):
        return None
    kind = record.get("kind") if isinstance(record, dict) else None
    if kind == "value" and "raised" in record:
        return Failure("AppRaised", "The app raised an exception.", str(record["raised"]))
    if kind == "raised":
        return Failure("AppRaised", "The app raised an exception.", str(record.get("text", "")))
    if kind == "broken":
        return Failure("AppBroken", f"The worker could not handle {record.get('what')}.", str(record.get("text", "")))
    if kind == "mismatch":
        return Failure("VersionMismatch", _MISMATCH, json.dumps(record.get("worker"), default=str))
    return None
