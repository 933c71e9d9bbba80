"""The manager of an endpoint: registers it, starts user endpoints on the service's command, and ends all of them."""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import signal
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import wait
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue

from pydantic import ValidationError

from parsl_globus.amqp import Consumer, Delivery
from parsl_globus.client.rest import ServiceClient
from parsl_globus.endpoint.folder import EndpointFolder
from parsl_globus.endpoint.heartbeat import FAILURE_PERIOD_S, Heartbeat, publisher_for, report, with_port
from parsl_globus.endpoint.multiuser.child import Child, discard
from parsl_globus.endpoint.multiuser.identity import Mapped, NotMappedError
from parsl_globus.endpoint.multiuser.site import Site
from parsl_globus.endpoint.multiuser.spawn import EXIT_NOT_STARTED
from parsl_globus.endpoint.multiuser.stop_signals import StoppedError, StopSignals
from parsl_globus.endpoint.processes import Known, become_subreaper, end_marked, end_orphans, tree_mark
from parsl_globus.endpoint.user_endpoint import EXIT_FAILED
from parsl_globus.errors import ConfigError, EndpointStartFailed, RequestRefused, ServiceError
from parsl_globus.version import __version__
from parsl_globus.wire.documents import (
    START_COMMAND,
    START_COMMAND_LIFE_S,
    AgentCredentials,
    EndpointRegistered,
    EndpointRegistration,
    StartArguments,
    StartCommand,
)

logger = logging.getLogger(__name__)

#: How long user endpoints may take to end once they are told to; what is left then is killed.
STOP_GRACE_S = 12.0
#: Of user endpoints; it is the name of a folder, too.
_NAME = re.compile(r"uep\.[A-Za-z0-9._-]{1,200}")
_TELL_S = 3.0
_TELL_AWAY_S = 0.3


class _Stop:
    """Event: end."""


class _ChildEnded:
    """Event: one child or more has ended."""


class _QueueDeleted:
    """Event: the command queue was deleted, as the service does to end an endpoint."""


@dataclass(frozen=True)
class _Commands:
    """Event: deliveries from the command queue."""

    deliveries: list[Delivery]


class _RefusedError(Exception):
    """A start command that is not followed."""


class Manager:
    """A registered endpoint.

    Args:
        folder: Where it lives.
        site: Its files.
        client: For the registration.
        on_ready: Called with the endpoint's id once it is registered and takes commands.
    """

    def __init__(
        self, folder: EndpointFolder, site: Site, client: ServiceClient, on_ready: Callable[[uuid.UUID], None]
    ) -> None:
        self._folder = folder
        self._site = site
        self._client = client
        self._on_ready = on_ready
        self._events: SimpleQueue[_Stop | _ChildEnded | _QueueDeleted | _Commands] = SimpleQueue()
        self._children: dict[str, Child] = {}
        self._identities: frozenset[uuid.UUID] = frozenset()
        self._ready = False
        # Putting into a SimpleQueue is safe in a signal handler.
        self._signals = StopSignals(lambda: self._events.put(_Stop()))

    def run(self) -> None:
        """Register, and serve until SIGTERM or SIGINT; call it in the main thread.

        Raises:
            ServiceError: The registration failed.
        """
        become_subreaper()
        left = end_marked(tree_mark(self._folder.path), grace_s=1.0)
        if left:
            logger.warning("Ended %d processes that an earlier run of this endpoint left behind", left)
        self._signals.install()
        signal.signal(signal.SIGCHLD, lambda *_: self._events.put(_ChildEnded()))
        try:
            # A service that is away is asked again and again, for longer than whoever wants an end can wait.
            with self._signals.cut():
                registered = self._register()
        except StoppedError:
            logger.info("Endpoint '%s' was told to stop before it was registered", self._folder.name)
            self._client.close()
            return
        port = self._site.config.amqp_port
        heartbeats = publisher_for(lambda: registered.heartbeat_queue_info, name="heartbeats", amqp_port=port)
        beats = Heartbeat(
            registered.endpoint_id,
            heartbeats.publish,
            period_s=self._site.config.heartbeat_period,
            state=lambda: {"user_endpoints": len(self._children)},
        )
        commands = Consumer(
            lambda: with_port(registered.command_queue_info.connection_url, port),
            registered.command_queue_info.queue,
            lambda deliveries: self._events.put(_Commands(deliveries)),
            name="commands",
            on_open=partial(self._taking_commands, registered.endpoint_id),
            on_deleted=lambda: self._events.put(_QueueDeleted()),
        )
        heartbeats.start()
        beats.start()
        commands.start()
        try:
            self._serve(commands, registered.endpoint_id)
        finally:
            commands.stop(2)
            # Said first, so that the service starts nothing anew while the user endpoints end.
            beats.stop({"heartbeat_period": 0})
            self._end_children()
            # With the broker away, its last words are not worth waiting for: it is missed anyway.
            heartbeats.stop(flush_timeout_s=_TELL_AWAY_S if heartbeats.failing else _TELL_S)
            self._client.close()
            logger.info("Endpoint '%s' has ended", self._folder.name)

    # ---- registration -------------------------------------------------------------------------------------------

    def _register(self) -> EndpointRegistered:
        registered = self._client.register_endpoint(self._registration(), self._folder.endpoint_id)
        self._folder.remember_id(registered.endpoint_id, self._client.url)
        if self._site.identities is not None:
            self._site.identities.serve(registered.endpoint_id)
        else:
            self._identities = self._client.identities()
        logger.info("Endpoint '%s' is registered as %s", self._folder.name, registered.endpoint_id)
        return registered

    def _registration(self) -> EndpointRegistration:
        config = self._site.config
        return EndpointRegistration(
            endpoint_name=self._folder.name,
            display_name=config.display_name or self._folder.name,
            # Whether it maps: if not, those whom it is shared with run tasks in this account, and the service says so.
            multi_user=self._site.identities is not None,
            public=config.public,
            high_assurance=config.high_assurance,
            allowed_functions=config.allowed_functions,
            authentication_policy=config.authentication_policy,
            subscription_uuid=config.subscription_id,
            admins=config.admins,
            metadata={
                "endpoint_version": f"parsl-globus {__version__}",
                "python_version": platform.python_version(),
                "hostname": socket.gethostname(),
                "local_user": _user_name(),
                "endpoint_config": self._site.config_text,
                "user_config_template": None if self._site.plain else self._site.template,
                "user_config_schema": self._site.schema,
            },
        )

    def _wanted(self, endpoint_id: uuid.UUID) -> bool:
        """Whether the service still wants this endpoint, which has lost its queue; if so, the queue is there again."""
        try:
            with self._signals.cut():
                self._client.endpoint(endpoint_id)  # one that was deleted must not be registered anew by this
                self._client.register_endpoint(self._registration(), endpoint_id)
        except RequestRefused as exc:
            logger.error("Endpoint '%s' ends, as the service wants: %s", self._folder.name, exc)
            return False
        except ServiceError as exc:
            logger.warning("The queue of commands is gone, and the service can't be asked why: %s", exc)
        except StoppedError:
            return False
        return True

    def _taking_commands(self, endpoint_id: uuid.UUID) -> None:
        if not self._ready:
            self._ready = True
            self._on_ready(endpoint_id)

    # ---- main loop ----------------------------------------------------------------------------------------------

    def _serve(self, commands: Consumer, endpoint_id: uuid.UUID) -> None:
        while True:
            event = self._events.get()
            if isinstance(event, _Stop):
                return
            if isinstance(event, _ChildEnded):
                self._reap()
            elif isinstance(event, _QueueDeleted):
                if not self._wanted(endpoint_id):
                    return
            else:
                for delivery in event.deliveries:
                    self._follow(delivery)
                commands.acknowledge(event.deliveries)

    def _follow(self, delivery: Delivery) -> None:
        """Do what one start command says; the service hears why if it can't be done."""
        try:
            command = _decode(delivery)
        except _RefusedError as exc:
            logger.error("A command was refused: %s", exc)
            return
        start = command.arguments
        try:
            mapped = self._check(command)
            running = self._children.get(start.name)
            if running is None:
                self._spawn(start, mapped)
                logger.info(
                    "Started %s for %s%s, process %d",
                    start.name,
                    command.globus_username,
                    f" as {mapped.account.name}" if mapped is not None else "",
                    self._children[start.name].pid,
                )
            elif running.account != (mapped.account if mapped is not None else None):
                raise _RefusedError(f"'{start.name}' runs in another account; it has to end first.")
            else:
                running.renew(start.amqp_creds)
        except (_RefusedError, ConfigError, EndpointStartFailed) as exc:
            logger.error("User endpoint %s is not started: %s", start.name, exc)
            if not isinstance(exc, _RefusedError):  # otherwise even its name can't be trusted
                discard(self._folder.path, start.name)
            self._tell(start.amqp_creds, {"error": str(exc), "heartbeat_period": FAILURE_PERIOD_S})

    def _check(self, command: StartCommand) -> Mapped | None:
        """See whether a command may be followed, and as whom; `None` is this account.

        Raises:
            _RefusedError: It may not.
            ConfigError: The site's mapping can't be used any more.
        """
        name = command.arguments.name
        if not _NAME.fullmatch(name):
            raise _RefusedError(f"'{name:.80}' can't be the name of a user endpoint.")
        if self._site.identities is not None:
            try:
                return self._site.identities.account_for(command)
            except NotMappedError as exc:
                raise _RefusedError(str(exc)) from exc
        asking = {str(entry.get("sub")) for entry in command.globus_identity_set}
        if not asking & {str(identity) for identity in self._identities}:
            raise _RefusedError(
                f"Identity {command.globus_effective_identity} ({command.globus_username}) may not use this endpoint."
            )
        return None

    def _spawn(self, start: StartArguments, mapped: Mapped | None) -> None:
        self._children[start.name] = Child(
            self._folder.path,
            start,
            self._site.user_config(start) if mapped is None else self._site.unrendered(start, mapped),
            config_file=str(self._site.template_file),
            environment=self._site.environment,
            debug=self._site.config.debug,
            amqp_port=self._site.config.amqp_port,
            mapped=mapped,
        )

    # ---- ends ---------------------------------------------------------------------------------------------------

    def _reap(self, *, restart: bool = True) -> None:
        by_pid = {child.pid: child for child in self._children.values()}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = by_pid.get(pid)
            if child is not None:  # otherwise an orphan of one, see become_subreaper
                self._ended(child, os.waitstatus_to_exitcode(status), restart=restart)

    def _ended(self, child: Child, code: int, *, restart: bool) -> None:
        del self._children[child.name]
        child.ended(code)
        # What the others have started is theirs, though some of it, such as a LocalProvider's blocks, are our children.
        others = {other.pid for other in self._children.values()}
        end_orphans(Known(others, tree_mark(self._folder.path)), grace_s=0.5)
        logger.log(logging.INFO if code == 0 else logging.ERROR, "%s ended with exit code %d", child.name, code)
        if code < 0:
            # Killed: what it had accepted is in its spool. The service starts it again if tasks wait for it.
            self._tell(child.start.amqp_creds, {"heartbeat_period": FAILURE_PERIOD_S, "active": False})
        elif code not in (0, EXIT_FAILED):  # it tells the service itself before these
            why = child.last_words()
            if code != EXIT_NOT_STARTED:
                why = f"The user endpoint ended with exit code {code}: {why}"
            discard(self._folder.path, child.name)
            self._tell(child.start.amqp_creds, {"error": why, "heartbeat_period": FAILURE_PERIOD_S})
        elif code == 0 and restart and self._asked_for_lately(child):
            logger.info("%s was asked for while it ended; starting it again", child.name)
            self._respawn(child)
        child.forget()

    def _asked_for_lately(self, child: Child) -> bool:
        grace_s = self._site.config.mu_child_ep_grace_period_s
        return child.repeated_at_s is not None and time.monotonic() - child.repeated_at_s < grace_s

    def _respawn(self, child: Child) -> None:
        try:
            self._spawn(child.start, child.mapped)
        except (ConfigError, EndpointStartFailed) as exc:
            logger.error("User endpoint %s is not started again: %s", child.name, exc)

    def _end_children(self) -> None:
        """Let all user endpoints end in order, as long as they may; then by force."""
        for child in self._children.values():
            child.stop()
        deadline = time.monotonic() + STOP_GRACE_S
        while self._children:
            self._reap(restart=False)
            left_s = deadline - time.monotonic()
            if not self._children or left_s <= 0:
                break
            try:
                self._events.get(timeout=left_s)
            except Empty:
                break
        for child in self._children.values():
            logger.warning("%s did not end within %.0f s; it is killed", child.name, STOP_GRACE_S)
        end_marked(tree_mark(self._folder.path), grace_s=0.5)
        end_orphans((), grace_s=0.5)
        self._reap(restart=False)

    def _tell(self, credentials: AgentCredentials, state: Mapping[str, object]) -> None:
        """Report for a user endpoint that can't do so itself, with its own credentials."""
        publisher = publisher_for(
            lambda: credentials.heartbeat_queue_info, name="tell", amqp_port=self._site.config.amqp_port
        )
        publisher.start()
        wait([publisher.publish(report(credentials.endpoint_id, state))], timeout=_TELL_S)
        publisher.stop(flush_timeout_s=0)


def _decode(delivery: Delivery) -> StartCommand:
    """The start command in `delivery` (PROTOCOL.md section 5).

    Raises:
        _RefusedError: There is none, or it is too old.
    """
    if delivery.content_type != "application/json" or delivery.timestamp_s is None:
        raise _RefusedError("it has no content type or no timestamp")
    skew_s = abs(time.time() - delivery.timestamp_s)
    if skew_s > START_COMMAND_LIFE_S:
        raise _RefusedError(f"it is {skew_s:.0f} s off this machine's clock, more than {START_COMMAND_LIFE_S}")
    try:
        command = StartCommand.model_validate(json.loads(delivery.body))
    except ValidationError as exc:
        # Without the values: a command holds passwords.
        wrong = sorted({".".join(str(part) for part in entry["loc"]) for entry in exc.errors()})
        raise _RefusedError(f"it has wrong fields: {', '.join(wrong) or 'it is no object'}") from None
    except (ValueError, UnicodeDecodeError) as exc:
        raise _RefusedError(f"it is no JSON: {exc}") from None
    if command.command != START_COMMAND:
        raise _RefusedError(f"there is no command '{command.command:.60}'")
    return command


def _user_name() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # containers run under ids that have no account
        return str(os.getuid())
