"""`GlobusComputeRadio`: monitoring records of remote tasks come home with the tasks' results."""

from __future__ import annotations

import ast
import functools
import logging
import threading
from collections.abc import Callable
from importlib.resources import files
from multiprocessing.queues import Queue
from typing import TYPE_CHECKING, Any

from parsl.monitoring.radios.base import MonitoringRadioReceiver, MonitoringRadioSender, RadioConfig
from parsl.utils import RepresentationMixin

from parsl_globus.errors import ConfigError

if TYPE_CHECKING:
    from parsl_globus.monitoring.records import Node

logger = logging.getLogger(__name__)


class GlobusComputeRadio(RadioConfig, RepresentationMixin):
    """The radio that `GlobusComputeExecutor` uses unless it is given another.

    Workers need no connection to the workflow: what Parsl's monitoring sends there is kept in files until the task
    ends, and travels with its result. So "running" is seen when the result is, a lost worker's records are lost, and
    of a long series of samples every second one is left out until it has fewer than 240.

    Works on stock endpoints, too, as its class isn't needed on workers.
    """

    def create_receiver(self, *, run_dir: str, resource_msgs: Queue[Any]) -> Receiver:  # noqa: ARG002 - Parsl's names
        """Parsl calls it before it starts the executor.

        Raises:
            ConfigError: Packages for monitoring are missing.
        """
        try:
            import jsonschema  # noqa: F401
        except ImportError as exc:
            raise ConfigError("Monitoring needs more packages: pip install 'parsl-globus[monitoring]'.") from exc
        return Receiver(resource_msgs.put)

    def create_sender(self) -> MonitoringRadioSender:
        """Not used: in a task, what `persistent_id` gave makes the senders.

        Raises:
            ConfigError: Always; an executor of another class has this radio.
        """
        raise ConfigError(
            "A GlobusComputeRadio works with GlobusComputeExecutor only; give this executor another "
            "remote_monitoring_radio."
        )


class Receiver(MonitoringRadioReceiver):
    """Hands what came home to Parsl's database manager. Thread-safe.

    Args:
        put: Takes a message of Parsl's monitoring.
    """

    def __init__(self, put: Callable[[tuple[Any, Any]], None]) -> None:
        self._put = put
        self._lock = threading.Lock()
        self._run_id: str | None = None
        self._on_node: Callable[[Node, str | None], None] | None = None
        self._troubles: set[str] = set()
        self._closed = False

    def expect(self, run_id: str, on_node: Callable[[Node, str | None], None]) -> None:
        """From now on take records of this run.

        Args:
            run_id: Records of other runs are refused.
            on_node: Is told where a task ran, and the id of the endpoint that ran it.
        """
        self._run_id = run_id
        self._on_node = on_node

    def take(self, home: object, endpoint_id: str | None) -> None:
        """Take in what came with a result; what is wrong with it is logged, as the task's value is none the worse.

        Args:
            home: The part `monitoring` of a runner's record.
            endpoint_id: Who ran the task, if known.
        """
        try:
            self._take(home, endpoint_id)
        except Exception:
            # Whatever a worker sent: the task has its value, and its future must end.
            logger.exception("Monitoring records of a task could not be taken in")

    def _take(self, home: object, endpoint_id: str | None) -> None:
        from parsl_globus.monitoring.records import decode

        if self._run_id is None or self._on_node is None:
            return
        taken = decode(home, self._run_id)
        for trouble in taken.troubles:
            self._tell(trouble)
        with self._lock:
            if self._closed:
                return
            for message in taken.messages:
                self._put(message)
        if taken.node is not None:
            self._on_node(taken.node, endpoint_id)

    def _tell(self, trouble: str) -> None:
        """Once for each text: a full disk would be told of by every task."""
        with self._lock:
            if trouble in self._troubles or len(self._troubles) >= 100:
                return
            self._troubles.add(trouble)
        logger.warning("Monitoring records of a task are missing: %s", trouble)

    def shutdown(self) -> None:
        """Parsl closes its queue after this."""
        with self._lock:
            self._closed = True


def persistent_id(value: object) -> str | None:
    """For the pickler of functions: what travels in place of a radio, or `None` for anything else.

    It is the source of the class that stands in for it; the runner makes one.
    """
    return _stand_in() if isinstance(value, GlobusComputeRadio) else None


@functools.cache
def _stand_in() -> str:
    """Without docstrings and comments, as it is in every monitored task's message."""
    tree = ast.parse(files("parsl_globus.worker").joinpath("radio.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            del node.body[0]
    return ast.unparse(tree)
