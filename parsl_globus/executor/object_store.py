"""Large arguments and results by reference: through an object store instead of the task's message.

Both travel as pickles. What workers do is in `worker/objects.py`, which is shipped as text.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from typing import Any

from parsl_globus.errors import (
    ExecutorShutDown,
    NotDeserializable,
    ObjectStoreFailed,
    ParslGlobusError,
    PayloadTooLarge,
    ResultTooLarge,
    ServiceError,
    VersionMismatch,
    WorkerLacksModule,
)
from parsl_globus.executor.functions import sender_versions
from parsl_globus.executor.object_lanes import Job, Lane
from parsl_globus.executor.object_pickles import Pickled, pickled, this_python, unpickled
from parsl_globus.executor.object_places import Place
from parsl_globus.executor.object_shipped import with_objects
from parsl_globus.executor.outcome import fail
from parsl_globus.executor.streams import Stream, StreamsFuture

logger = logging.getLogger(__name__)

#: Larger values go by reference. Each costs three requests; in a message, base64 makes it larger by a third.
DEFAULT_THRESHOLD_BYTES = 1024 * 1024

#: How many values go each way at once; a service gives one user 16 turns, workers included.
_TRANSFERS = 3
#: How long transfers that go on may take to end, and then what is no longer needed to be removed, at the end.
_TIDY_S = 3.0
_END_S = 10.0
#: What is kept in memory while it waits to be sent.
_KEEP_BYTES = 4 * 1024 * 1024
#: How often a result that broke off is fetched again.
_TRIES = 3
_ENVELOPE = "parsl_globus_objects"

#: Submits a call: future, group of requests, function, positional and keyword arguments. Raises `ParslGlobusError`.
Send = Callable[[Future[Any], tuple[str, str], Callable[..., Any], tuple[Any, ...], Mapping[str, Any]], None]


class ObjectFuture(StreamsFuture):
    """A future whose result may have to be fetched.

    Args:
        objects: Fetches it.
        streams: As for `StreamsFuture`; may be empty.
    """

    def __init__(self, objects: ObjectStore, streams: Mapping[str, Stream]) -> None:
        super().__init__(streams)
        self._objects = objects

    def set_result(self, result: Any) -> None:
        """Complete with what the worker sent, or have it fetched first."""
        self._objects.arrived(self, result)

    def complete(self, value: Any) -> None:
        """Complete with the value itself."""
        try:
            if self._streams and isinstance(value, dict):
                super().set_result(value)
            else:
                Future.set_result(self, value)
        except InvalidStateError:
            pass  # cancelled, or answered before: results may come twice


class ObjectStore:
    """Sends large arguments of one executor by reference, and fetches large results. Thread-safe.

    An argument's object lives until its task's future is done, a result's until it was fetched.

    Args:
        place: Where they are kept.
        send: Submits what is left of a call.
        check: Raises what `send` would, of a group of requests and a function.
        threshold_bytes: Larger ones go there.
        label: Of the executor, for messages.
        durable: Whether results are left in the store, and workers' access with them, for a later run of the
            workflow: a journal may refer to them.
    """

    def __init__(
        self,
        place: Place,
        send: Send,
        check: Callable[[tuple[str, str], Callable[..., Any]], None],
        *,
        threshold_bytes: int,
        label: str,
        durable: bool = False,
    ) -> None:
        self._place = place
        self._send = send
        self._check = check
        self._threshold_bytes = threshold_bytes
        self._label = label
        self._durable = durable
        self._up = Lane(f"{label}-objects-up", _TRANSFERS)
        self._down = Lane(f"{label}-objects-down", _TRANSFERS)
        self._evictions = Lane(f"{label}-objects-evict", 1)
        self._renewing = False
        self._ended = False

    def start(self) -> None:
        """Start the threads."""
        for lane in (self._up, self._down, self._evictions):
            lane.start()

    def __len__(self) -> int:
        """How many futures wait for a transfer."""
        return len(self._up) + len(self._down)

    def stop(self, error: ParslGlobusError) -> None:
        """End; futures that wait for a transfer fail with `error`, and what is no longer needed is removed."""
        self._ended = True
        for lane in (self._up, self._down):
            lane.stop(error, timeout_s=_TIDY_S)
        if not self._evictions.drain(_END_S):
            logger.warning("%s: %d objects are left in the object store", self._label, len(self._evictions))
        self._place.close(for_good=not self._durable)  # what is tried again and again ends with it
        self._evictions.stop(error, timeout_s=_TIDY_S)

    # ---- arguments ----------------------------------------------------------------------------------------------

    def submit(
        self,
        future: Future[Any],
        group: tuple[str, str],
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        """Submit a call, its arguments by reference if they are large: these are pickled now and sent soon.

        Args:
            future: Whom to answer.
            group: See `Waiting`.
            function: What to call.
            args: For `function`.
            kwargs: For `function`.

        Raises:
            PayloadTooLarge: The arguments are larger than the store takes.
            NotSerializable: The function can't be pickled; nothing was sent.
            ParslGlobusError: Its submission fails at once.
        """
        self._renew_soon()
        recipe = {"store": self._place.recipe(), "limit": self._threshold_bytes}
        function = with_objects(function)
        pickle = self._large(args, kwargs)
        if pickle is None:
            self._send(future, group, function, args, {**kwargs, f"_{_ENVELOPE}": recipe})
            return
        limit_bytes = self._place.limit_bytes
        if limit_bytes is not None and pickle.size_bytes > limit_bytes:
            pickle.close()
            raise PayloadTooLarge(size_bytes=pickle.size_bytes, limit_bytes=limit_bytes)
        try:
            self._check(group, function)  # before its arguments are sent for nothing
        except ParslGlobusError:
            pickle.close()
            raise

        def send_with(key: Any) -> None:
            self._send(future, group, function, (), {f"_{_ENVELOPE}": {**recipe, "key": key, "python": pickle.python}})

        self._up.put(Job(lambda: self._upload(future, pickle, send_with), _giving_up(future, pickle)))

    def _large(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Pickled | None:
        """The arguments as a pickle if they are large; what can't be pickled is told when it is encoded."""
        try:
            pickle = pickled((args, dict(kwargs)), max(self._threshold_bytes, _KEEP_BYTES))
        except Exception:  # noqa: BLE001 - whatever an object's own reduction raises
            return None
        if pickle.size_bytes > self._threshold_bytes:
            return pickle
        pickle.close()
        return None

    def _upload(self, future: Future[Any], pickle: Pickled, send_with: Callable[[Any], None]) -> None:
        with pickle:
            if future.done():
                return
            try:
                put_file = getattr(self._place.connector, "put_file", None)
                file = pickle.file()
                key = self._place.connector.put(file.read()) if put_file is None else put_file(file)
            except Exception as exc:  # noqa: BLE001 - whatever a connector raises
                fail(future, self._failed("the arguments", exc))
                return
        future.add_done_callback(lambda done: self._ended_with(done, key))
        try:
            send_with(key)
        except ParslGlobusError as exc:
            fail(future, exc)

    def _ended_with(self, future: Future[Any], key: Any) -> None:
        """A task has ended; with a journal, one that was only given up here may be taken up by a later run."""
        if self._durable and not future.cancelled() and isinstance(future.exception(), ExecutorShutDown):
            return
        self._evict_soon(key)

    # ---- results ------------------------------------------------------------------------------------------------

    def arrived(self, future: ObjectFuture, result: Any) -> None:
        """What a worker sent for a future: never raises."""
        kind = result.get(_ENVELOPE) if isinstance(result, dict) else None
        if kind == "value":
            future.complete(result["value"])
        elif kind == "key":
            self._down.put(Job(lambda: self._fetch(future, result), _giving_up(future)))
        elif kind == "problem":
            fail(future, _told(result))
        else:
            future.complete(result)  # what Parsl made of an exception

    def _fetch(self, future: ObjectFuture, result: Mapping[str, Any]) -> None:
        value, error = None, None
        try:
            if not future.done():
                value = self._fetched(result)
        except ParslGlobusError as exc:
            error = exc
        if not self._durable:
            # Before others hear of the result, who may go on to the end.
            self._evict_soon(result["key"])
        if error is not None:
            fail(future, error)
        else:
            future.complete(value)

    def _fetched(self, result: Mapping[str, Any]) -> Any:
        if result["python"] not in (None, this_python()):
            raise VersionMismatch(sender=sender_versions(), worker={"python": result["python"]})
        for attempt in range(_TRIES):
            try:
                file = self._open(result["key"])
            except Exception as exc:
                raise self._failed("the result", exc) from exc
            if file is None:
                raise ObjectStoreFailed(what="the result", detail="it is not in the object store any more")
            try:
                with file:
                    return unpickled(file, quick=result["python"] is None)
            except ParslGlobusError as exc:
                # Of the connector: it broke off, or was not as it was put.
                if attempt + 1 == _TRIES:
                    raise self._failed("the result", exc) from exc
            except Exception as exc:
                raise NotDeserializable(what="the result", detail=f"{type(exc).__name__}: {exc}") from exc
        raise AssertionError("unreachable")

    def _open(self, key: Any) -> Any:
        connector = self._place.connector
        get_file = getattr(connector, "get_file", None)
        if get_file is not None:
            return get_file(key)
        data = connector.get(key)
        return None if data is None else io.BytesIO(data)

    # ---- what is no longer needed ---------------------------------------------------------------------------------

    def _evict_soon(self, key: Any) -> None:
        def evict() -> None:
            try:
                self._place.connector.evict(key)
            except Exception as exc:  # noqa: BLE001 - whatever a connector raises
                logger.warning("%s: an object is left in the object store: %s", self._label, exc)

        self._evictions.put(Job(evict, lambda exc: logger.warning("%s: an object is left: %s", self._label, exc)))

    def _renew_soon(self) -> None:
        """Long before what workers have got ends, give later tasks something new."""
        if not self._place.is_stale() or self._renewing:
            return
        self._renewing = True

        def renew() -> None:
            try:
                self._place.renew()
            except ServiceError as exc:
                logger.warning("%s: workers' access to the object store could not be renewed: %s", self._label, exc)
            finally:
                self._renewing = False

        self._evictions.put(Job(renew, lambda _exc: None))

    def _failed(self, what: str, exc: Exception) -> ParslGlobusError:
        if self._ended:
            return ExecutorShutDown(label=self._label)
        transient = isinstance(exc, ParslGlobusError) and exc.transient
        detail = str(exc) if isinstance(exc, ParslGlobusError) else f"{type(exc).__name__}: {exc}"
        return ObjectStoreFailed(what=what, detail=detail, transient=transient)


def _giving_up(future: Future[Any], pickle: Pickled | None = None) -> Callable[[BaseException], None]:
    def give_up(exc: BaseException) -> None:
        if pickle is not None:
            pickle.close()
        fail(future, exc)

    return give_up


def _told(record: Mapping[str, Any]) -> ParslGlobusError:
    """The error that a worker's record tells of."""
    kind, what = record["kind"], record["what"]
    if kind == "missing":
        return WorkerLacksModule(module=str(record["module"]), host=record["host"])
    if kind == "mismatch":
        return VersionMismatch(sender=sender_versions(), worker={"python": record["python"]})
    if kind == "unpickle":
        return NotDeserializable(what=what, detail=record["text"])
    if record["http_status"] == 413:
        return ResultTooLarge(task_id=None, code="BLOB_TOO_LARGE", remote_traceback=record["detail"])
    return ObjectStoreFailed(what=what, detail=record["detail"], host=record["host"], transient=record["transient"])
