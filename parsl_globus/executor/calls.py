"""Calls on their way to the workers, and once more as source where the workers have another Python.

Nobody knows their Python before a task got there: what an endpoint tells is its agent's. So the first calls go as they
are. A worker that can't run one says so before it has touched it, and it goes again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from parsl_globus.errors import ParslGlobusError, PayloadTooLarge, VersionMismatch
from parsl_globus.executor.batcher import ENVELOPE_BYTES, Waiting
from parsl_globus.executor.functions import Encoder, sender_versions
from parsl_globus.executor.outcome import AS_SOURCE, SENT, fail
from parsl_globus.executor.source_code import NoSource
from parsl_globus.wire.documents import DEFAULT_PAYLOAD_LIMIT_BYTES
from parsl_globus.wire.payload import Payload

logger = logging.getLogger(__name__)

#: Specification and user configuration as JSON; the second may decide which Python the workers have.
_Group = tuple[str, str]
#: Shared by all calls without: each would keep an empty dictionary of its own.
_NO_KEYWORDS: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class _Settled:
    """Of a call to workers that have this Python, as far as is known; nothing is kept of it."""

    calls: Calls
    config: str

    def again(self, future: Future[Any], worker: dict[str, str]) -> None:
        self.calls.note(self.config, worker)
        fail(future, _mismatch(worker, "other workers of this endpoint have the Python of this workflow"))

    def arrived(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class _Call:
    """Of a call to workers of which nothing is known yet: all that is needed to send it again."""

    calls: Calls
    group: _Group
    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    fingerprint: int  # of its encoding, as what it refers to may be changed meanwhile

    def again(self, future: Future[Any], worker: dict[str, str]) -> None:
        self.calls.note(self.group[1], worker)
        try:
            self.calls.send_source(self, future, worker)
        except ParslGlobusError as exc:
            fail(future, exc)

    def arrived(self) -> None:
        self.calls.settle(self.group[1])


class Calls:
    """Encodes calls, and sends again what has to go as source. Thread-safe.

    Args:
        encoder: Encodes calls for workers that have this Python.
        submit: Submits what goes again; may raise `ExecutorShutDown`.
        label: Of the executor, for messages.
    """

    def __init__(self, encoder: Encoder, submit: Callable[[Waiting], None], *, label: str) -> None:
        self._encoder = encoder
        self._source_encoder = encoder.for_any_python()
        self._submit = submit
        self._label = label
        # Both by user configuration.
        self._settled: dict[str, _Settled] = {}
        self._others: dict[str, dict[str, str]] = {}

    def encode(
        self,
        future: Future[Any],
        group: _Group,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Payload:
        """The call as a submission carries it.

        Args:
            future: Whom to answer.
            group: What decides which workers get it.
            function: What to call.
            args: For it.
            kwargs: For it.

        Raises:
            NotSerializable: The function or an argument can't be pickled.
            VersionMismatch: The workers have another Python, and this can't go as source.
        """
        worker = self._others.get(group[1])
        if worker is not None:
            return self._encode_source(future, function, args, kwargs, worker)
        payload = self._encoder.encode(function, args, kwargs)
        sent: _Settled | _Call | None = self._settled.get(group[1])
        if sent is None:
            sent = _Call(self, group, function, args, kwargs or _NO_KEYWORDS, hash(payload))
        setattr(future, SENT, sent)
        return payload

    def check(self, group: _Group, function: Callable[..., Any]) -> None:
        """Encode a function that is about to be called: before much is done for its arguments. It is encoded once.

        Raises:
            NotSerializable: It can't be pickled.
            VersionMismatch: The workers have another Python, and it can't go as source.
        """
        worker = self._others.get(group[1])
        try:
            (self._encoder if worker is None else self._source_encoder).encode(function, (), {})
        except NoSource as exc:
            raise _mismatch(worker or {}, str(exc)) from exc

    def send_source(self, call: _Call, future: Future[Any], worker: dict[str, str]) -> None:
        """Send `call` as source.

        Raises:
            ParslGlobusError: That can't be done.
        """
        if hash(self._encoder.encode(call.function, call.args, call.kwargs)) != call.fingerprint:
            raise _mismatch(worker, "its arguments don't pickle as they did when it was submitted")
        payload = self._encode_source(future, call.function, call.args, call.kwargs, worker)
        if len(payload) > DEFAULT_PAYLOAD_LIMIT_BYTES - ENVELOPE_BYTES:
            raise PayloadTooLarge(size_bytes=len(payload), limit_bytes=DEFAULT_PAYLOAD_LIMIT_BYTES)
        self._submit(Waiting(payload=payload, future=future, group=call.group))

    def settle(self, config: str) -> None:
        """Workers of this configuration have this Python."""
        self._settled.setdefault(config, _Settled(self, config))

    def note(self, config: str, worker: dict[str, str]) -> None:
        """Workers of this configuration have these versions."""
        if config in self._others:
            return
        self._others[config] = worker
        logger.warning(
            "%s: workers have Python %s, and this is %s; functions go to them as source from now on",
            self._label,
            worker.get("python"),
            sender_versions()["python"],
        )

    def _encode_source(
        self,
        future: Future[Any],
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        worker: dict[str, str],
    ) -> Payload:
        try:
            payload = self._source_encoder.encode(function, args, kwargs)
        except NoSource as exc:
            raise _mismatch(worker, str(exc)) from exc
        setattr(future, AS_SOURCE, worker)
        return payload


def _mismatch(worker: dict[str, str], detail: str) -> VersionMismatch:
    return VersionMismatch(sender=sender_versions(), worker=worker, detail=detail)
