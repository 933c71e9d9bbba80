"""An executor as a `concurrent.futures.Executor`, for code that knows nothing of Parsl."""

from __future__ import annotations

import concurrent.futures
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from parsl_globus.errors import ExtensionMissing, ParslGlobusError

logger = logging.getLogger(__name__)

_T = TypeVar("_T")


class ParslLike(Protocol):
    """What the facade stands before."""

    label: str

    def start(self) -> None:
        """Connect."""

    def submit(
        self, func: Callable[..., Any], resource_specification: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Future[Any]:
        """Run a call."""

    def cancel(self, *tasks: Future[Any]) -> Any:
        """Cancel calls."""

    def shutdown(self) -> None:
        """Stop."""


class ConcurrentExecutor(concurrent.futures.Executor):
    """Runs calls on an endpoint, without a DataFlowKernel; see `GlobusComputeExecutor.as_concurrent`.

    Futures raise what the call raised, or a `ParslGlobusError`. `Future.cancel` gives up waiting and leaves the task
    alone; `GlobusComputeExecutor.cancel` ends it.

    Args:
        executor: Runs the calls.
        resource_specification: What each call needs.
        owned: Whether `executor` is started now, and shut down with this one.
    """

    def __init__(self, executor: ParslLike, resource_specification: dict[str, Any] | None, *, owned: bool) -> None:
        self._executor = executor
        self._specification = dict(resource_specification or {})
        self._owned = owned
        self._lock = threading.Lock()
        self._pending: set[Future[Any]] = set()
        self._shut = False
        if owned:
            executor.start()

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        """Run `fn(*args, **kwargs)` on the endpoint.

        Raises:
            RuntimeError: It was shut down.
        """
        with self._lock:
            if self._shut:
                raise RuntimeError(f"'{self._executor.label}' was shut down and takes no more calls.")
            future: Future[_T] = self._executor.submit(fn, self._specification, *args, **kwargs)
            self._pending.add(future)
        future.add_done_callback(self._ended)
        return future

    def _ended(self, future: Future[Any]) -> None:
        with self._lock:
            self._pending.discard(future)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; calling it twice is harmless.

        Args:
            wait: Return when all calls have ended. Otherwise at once, and what runs goes on.
            cancel_futures: End those that have not begun, and those that run as far as their endpoint can.
        """
        with self._lock:
            first, self._shut = not self._shut, True
            pending = list(self._pending)
        if cancel_futures and pending:
            self._cancel(pending)
        if wait:
            concurrent.futures.wait(pending)
        if not (first and self._owned):
            return
        if wait:
            self._executor.shutdown()
        else:
            threading.Thread(target=self._shut_down_after, args=(pending,), name="shutdown", daemon=True).start()

    def _shut_down_after(self, pending: list[Future[Any]]) -> None:
        concurrent.futures.wait(pending)
        self._executor.shutdown()

    def _cancel(self, pending: list[Future[Any]]) -> None:
        try:
            self._executor.cancel(*pending)
        except ExtensionMissing as exc:
            logger.warning("%s", exc)
            for future in pending:
                future.cancel()
        except ParslGlobusError as exc:
            logger.warning("%d calls could not be cancelled: %s", len(pending), exc)
