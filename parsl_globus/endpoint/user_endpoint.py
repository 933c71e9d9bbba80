"""The process of a user endpoint, started by the manager: `python -m parsl_globus.endpoint.user_endpoint`.

Its first line on stdin holds all it needs, credentials included: neither its arguments nor its environment tell any.
Further lines are renewed credentials. When stdin ends the manager is gone, and this process ends as well.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from parsl_globus.endpoint.heartbeat import FAILURE_PERIOD_S, publisher_for, report
from parsl_globus.errors import ParslGlobusError
from parsl_globus.wire import buffers
from parsl_globus.wire.documents import AgentCredentials

if TYPE_CHECKING:
    from parsl_globus.amqp import Publisher
    from parsl_globus.endpoint.agent import EndpointAgent

logger = logging.getLogger(__name__)

#: It failed, and the service knows why: told apart from what Python itself exits with.
EXIT_FAILED = 70
#: How long the news of a failed start may take.
_TELL_S = 5.0
#: And how long the last words of one that was stopped, when the broker is away.
_TELL_AWAY_S = 0.3


class _Process:
    """State that the threads of this process share."""

    def __init__(self, credentials: AgentCredentials) -> None:
        self.credentials = credentials
        self.agent: EndpointAgent | None = None
        self.stopping = threading.Event()

    def stop(self, why: str) -> None:
        self.stopping.set()
        if self.agent is not None:
            self.agent.stop(why)

    def follow(self, lines: Iterable[str]) -> None:
        """Take renewed credentials, until the manager is gone."""
        for line in lines:
            try:
                self.credentials = AgentCredentials.model_validate_json(line)
                logger.info("The manager sent new credentials")
            except ValueError:
                logger.error("The manager sent something that is no credentials")
        self.stop("the manager is gone")


def main() -> NoReturn:
    """Read the start document, run the agent, and exit."""
    start = json.loads(sys.stdin.readline())
    debug = bool(start.get("debug"))
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # as for the manager
    logging.getLogger("parsl").setLevel(logging.DEBUG if debug else logging.WARNING)
    buffers.keep_freed()
    buffers.seek_cycles_rarely()
    process = _Process(AgentCredentials.model_validate(start["credentials"]))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: process.stop("told to stop"))
    threading.Thread(target=process.follow, args=(sys.stdin,), name="stdin", daemon=True).start()
    # With engines that run tasks in this process, what they fork closes sys.stdin first, and would wait for ever for
    # the thread that reads it.
    sys.stdin = open(os.devnull)  # noqa: SIM115 - for as long as the process lives
    code = _serve(process, start)
    logging.shutdown()
    sys.stderr.flush()
    # Not sys.exit: it would wait for threads of Parsl that may wait for an interchange that is gone.
    os._exit(code)


def _serve(process: _Process, start: dict[str, Any]) -> int:
    # The link connects while Parsl is being imported, which takes longer.
    heartbeats = publisher_for(
        lambda: process.credentials.heartbeat_queue_info, name="heartbeats", amqp_port=start.get("amqp_port")
    )
    heartbeats.start()
    failure: str | None
    try:
        _forget_failed(start)
        failure = _run_agent(process, _config_text(start), Path(start["directory"]), heartbeats, start["config_file"])
    except ParslGlobusError as exc:
        logger.error("%s", exc)
        failure = str(getattr(exc, "detail", exc))
        _tell(heartbeats, process.credentials.endpoint_id, failure)
    except Exception as exc:
        # The outermost frame of this process: tasks wait for this endpoint, so the service must hear of it.
        logger.exception("The user endpoint failed")
        failure = f"{type(exc).__name__}: {exc}"
        _tell(heartbeats, process.credentials.endpoint_id, failure)
    if failure is not None:
        from parsl_globus.endpoint.spool import discard_tasks

        # The service ends all tasks of an endpoint that failed, so none of them may run at the next start.
        discard_tasks(Path(start["directory"]))
    # Without a broker, that it fails is still worth waiting for; that it stops is not.
    heartbeats.stop(flush_timeout_s=_TELL_AWAY_S if failure is None and heartbeats.failing else _TELL_S)
    return 0 if failure is None else EXIT_FAILED


def _config_text(start: dict[str, Any]) -> str:
    """The configuration, made from the site's template where this process isn't the manager's account.

    Raises:
        ConfigError: The user's options don't fit.
    """
    if "config" in start:
        return str(start["config"])
    from parsl_globus.endpoint.multiuser.template import render

    return render(file=Path(start["config_file"]), **start["template"])


def _forget_failed(start: dict[str, Any]) -> None:
    """Forget what the manager has told to have failed since the last start, in files that are not its own."""
    told, path = start.get("discard"), Path(start["directory"]) / "discarded"
    if told is None or (path.exists() and path.read_text() == told):
        return
    from parsl_globus.endpoint.spool import discard_tasks

    discard_tasks(path.parent)
    path.write_text(told)


def _run_agent(
    process: _Process, config_text: str, directory: Path, heartbeats: Publisher, config_file: str | None
) -> str | None:
    from parsl_globus.endpoint.agent import EndpointAgent
    from parsl_globus.endpoint.config.load import located, parse_config
    from parsl_globus.errors import ConfigError

    config = parse_config(config_text, file=config_file)
    if config.engine is None:
        raise ConfigError(
            "The configuration has no 'engine', so there is nothing that could run tasks.", file=config_file
        )
    try:
        process.agent = EndpointAgent(config, lambda: process.credentials, directory, heartbeats)
    except ConfigError as exc:
        raise located(exc, config_text, config_file) from exc
    if process.stopping.is_set():
        process.agent.stop("told to stop")
    return process.agent.run()


def _tell(heartbeats: Publisher, endpoint_id: uuid.UUID, why: str) -> None:
    heartbeats.publish(report(endpoint_id, {"error": why, "heartbeat_period": FAILURE_PERIOD_S}))


if __name__ == "__main__":
    main()
