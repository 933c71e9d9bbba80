"""Every error this package raises: one root, a branch for each kind of cause.

Callers branch on the class and read the fields; nobody has to parse the text. Every error can be pickled, since
Parsl ships exceptions between processes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any


class ParslGlobusError(Exception):
    """Root of all errors of this package.

    Attributes:
        fields: What the error was built from; each is also an attribute of its own.
        transient: Whether the same call may succeed later without any change.
    """

    transient: bool = False

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.fields = fields
        for name, value in fields.items():
            setattr(self, name, value)

    def __reduce__(self) -> tuple[Callable[..., ParslGlobusError], tuple[Any, ...]]:
        return _rebuild, (type(self), str(self), self.fields)


def _rebuild(cls: type[ParslGlobusError], message: str, fields: dict[str, Any]) -> ParslGlobusError:
    error = cls.__new__(cls)
    ParslGlobusError.__init__(error, message, **fields)
    return error


# ---- configuration --------------------------------------------------------------------------------------------


class ConfigError(ParslGlobusError):
    """A configuration file, option or argument that can't be used as it is.

    Attributes:
        file: The file, or `None` when the value came from elsewhere.
        line: Line in the file, counted from 1, or `None`.
        key_path: The key as `engine.provider.queue`, or `None`.
    """

    file: str | None
    line: int | None
    key_path: str | None

    def __init__(
        self, message: str, *, file: str | None = None, line: int | None = None, key_path: str | None = None
    ) -> None:
        where = ":".join(str(part) for part in (file, line) if part is not None)
        prefix = ": ".join(part for part in (where, key_path) if part)
        super().__init__(f"{prefix}: {message}" if prefix else message, file=file, line=line, key_path=key_path)


class MissingExtra(ConfigError):
    """An optional dependency is not installed.

    Attributes:
        extra: The extra of this package that brings it.
        module: The module that could not be imported.
    """

    extra: str
    module: str

    def __init__(self, *, extra: str, module: str) -> None:
        message = (
            f"This needs the Python module '{module}', which is not installed. "
            f"Install it with: pip install 'parsl-globus[{extra}]'"
        )
        ParslGlobusError.__init__(self, message, extra=extra, module=module, file=None, line=None, key_path=None)


# ---- wire -----------------------------------------------------------------------------------------------------


class WireError(ParslGlobusError):
    """Bytes or text that don't follow the protocol."""


class DecodeError(WireError):
    """A message or document that can't be decoded; the cause is chained.

    Attributes:
        what: What was expected, for example "result message".
        size_bytes: Length of the refused input.
    """

    what: str
    size_bytes: int

    def __init__(self, *, what: str, size_bytes: int, detail: str) -> None:
        super().__init__(
            f"Could not decode a {what} of {size_bytes} bytes: {detail}",
            what=what,
            size_bytes=size_bytes,
            detail=detail,
        )


# ---- link -----------------------------------------------------------------------------------------------------


class LinkError(ParslGlobusError):
    """The AMQP connection to the broker."""

    transient = True


class LinkGaveUp(LinkError):
    """No connection to the broker for longer than allowed.

    Attributes:
        after_s: How long it was tried, in seconds.
    """

    after_s: float

    def __init__(self, *, after_s: float, detail: str) -> None:
        super().__init__(
            f"No connection to the message broker for {after_s:.0f} s ({detail}). "
            "Check that the service runs and that this machine can reach it.",
            after_s=after_s,
            detail=detail,
        )


class LinkClosed(LinkError):
    """The link was closed while something was still waiting on it."""

    transient = False

    def __init__(self) -> None:
        super().__init__(
            "The connection to the message broker was closed before the broker had confirmed this message."
        )


class BrokerRefused(LinkError):
    """The broker did not take a message.

    Attributes:
        routing_key: The key of the refused message.
    """

    transient = False
    routing_key: str

    def __init__(self, *, routing_key: str, detail: str) -> None:
        super().__init__(
            f"The message broker refused a message for '{routing_key}': {detail}",
            routing_key=routing_key,
            detail=detail,
        )


# ---- service --------------------------------------------------------------------------------------------------


class ServiceError(ParslGlobusError):
    """A call to the service failed."""


#: Where the reader can start what is missing.
_ON_THIS_MACHINE = re.compile(r"https?://(localhost|127\.0\.0\.1|\[::1\])(:|/|$)")


class ServiceUnreachable(ServiceError):
    """The service did not answer.

    Attributes:
        url: Base URL of the service, or `None` when none is known.
        after_s: How long it was tried, in seconds; 0 when nothing was tried.
        maybe_received: Whether the request may have reached the service although no answer came.
    """

    transient = True
    url: str | None
    after_s: float
    maybe_received: bool

    def __init__(
        self, *, url: str | None, after_s: float = 0.0, detail: str = "", maybe_received: bool = False
    ) -> None:
        target = f"The service at {url}" if url else "No service is known here, so it"
        spent = f" after {after_s:.0f} s" if after_s >= 1 else ""
        because = f" ({detail})" if detail else ""
        if url is None or _ON_THIS_MACHINE.match(url):
            advice = "Start it with 'parsl-globus service start', or use another one: 'parsl-globus login --url URL'."
        else:
            advice = "Check its address, that it runs there, and that this machine can reach it."
        super().__init__(
            f"{target} can't be reached{spent}{because}. {advice}",
            url=url,
            after_s=after_s,
            detail=detail,
            maybe_received=maybe_received,
        )


class RequestRefused(ServiceError):
    """The service answered a request with an error.

    Attributes:
        http_status: HTTP status of the answer.
        code: The service's code, for example `ENDPOINT_NOT_FOUND`.
        reason: The service's own words.
    """

    http_status: int
    code: str
    reason: str

    def __init__(self, *, http_status: int, code: str, reason: str) -> None:
        super().__init__(
            f"The service refused the request: {reason} ({code}, HTTP {http_status})",
            http_status=http_status,
            code=code,
            reason=reason,
        )


class NotAuthorized(RequestRefused):
    """The credentials are missing, unknown, expired or not sufficient."""


class TooManyRequests(RequestRefused):
    """The service takes no more requests of this identity for a moment; nothing was done.

    Attributes:
        retry_after_s: How long to wait, in seconds.
    """

    transient = True
    retry_after_s: float

    def __init__(self, *, retry_after_s: float, reason: str) -> None:
        super().__init__(http_status=429, code="TOO_MANY_REQUESTS", reason=reason)
        self.retry_after_s = self.fields["retry_after_s"] = retry_after_s


class ExtensionMissing(ServiceError):
    """The service doesn't offer what was asked for; it is no part of Globus Compute's protocol.

    Attributes:
        extension: Its name.
        url: The service.
        detail: What that means here.
    """

    extension: str
    url: str
    detail: str

    def __init__(self, *, extension: str, url: str, detail: str) -> None:
        super().__init__(
            f"The service at {url} does not offer '{extension}': {detail}", extension=extension, url=url, detail=detail
        )


class SubmissionUncertain(ServiceError):
    """A submission was sent, no answer came, and the service can't recognise a repetition.

    The tasks may or may not run. They are not sent again, since that could run them twice.
    """

    def __init__(self, *, detail: str) -> None:
        super().__init__(
            f"The service's answer to this submission was lost ({detail}), and this service offers no idempotency "
            "key, so the task may or may not run. It was not sent again; resubmit it if running twice does no harm.",
            detail=detail,
        )


# ---- endpoint -------------------------------------------------------------------------------------------------


class EndpointError(ParslGlobusError):
    """An endpoint can't be found, configured, started or used."""


class EndpointNotFound(EndpointError):
    """No endpoint of this name is configured here, or the service knows no such id.

    Attributes:
        endpoint: The name or id that was asked for.
    """

    endpoint: str

    def __init__(self, *, endpoint: str, hint: str = "") -> None:
        super().__init__(f"There is no endpoint '{endpoint}'. {hint}".rstrip(), endpoint=endpoint, hint=hint)


class EndpointOffline(EndpointError):
    """The endpoint has not been heard of.

    Attributes:
        endpoint_id: Its id.
        after_s: How long the task waited, in seconds; 0 when nothing was sent.
    """

    transient = True
    endpoint_id: str
    after_s: float

    def __init__(self, *, endpoint_id: str, after_s: float = 0.0) -> None:
        waited = f" (waited {after_s:.0f} s)" if after_s >= 1 else ""
        super().__init__(
            f"Endpoint {endpoint_id} is offline{waited}. Start it on its site with 'parsl-globus endpoint start NAME'.",
            endpoint_id=endpoint_id,
            after_s=after_s,
        )


class EndpointStartFailed(EndpointError):
    """The endpoint could not be started; the message is the site's own.

    Attributes:
        endpoint_id: Its id, or `None` when it never got one.
        detail: What the site said.
    """

    endpoint_id: str | None
    detail: str

    def __init__(self, *, endpoint_id: str | None, detail: str) -> None:
        super().__init__(f"The endpoint could not start: {detail}", endpoint_id=endpoint_id, detail=detail)


# ---- task -----------------------------------------------------------------------------------------------------


class TaskError(ParslGlobusError):
    """One task ended without a value; all others are unaffected."""


class TaskFailed(TaskError):
    """The remote side reports a failure that is not an exception of the app itself.

    Attributes:
        task_id: The service's id of the task, or `None`.
        code: The reporter's code.
        remote_traceback: Its text, often a traceback.
    """

    task_id: str | None
    code: str
    remote_traceback: str

    def __init__(self, *, task_id: str | None, code: str, remote_traceback: str) -> None:
        super().__init__(
            f"The task failed on the endpoint ({code}):\n{remote_traceback}",
            task_id=task_id,
            code=code,
            remote_traceback=remote_traceback,
        )


class TaskLost(TaskFailed):
    """The endpoint accepted the task but can't account for it any more, or its result was lost on the way."""

    transient = True


class WorkerLost(TaskFailed):
    """The worker process died while it ran the task."""

    transient = True


class InvalidResourceSpecification(TaskFailed):
    """The endpoint's engine can't give what the task's `parsl_resource_specification` asks for; it did not run."""


class TaskTimedOut(TaskError):
    """The task ran longer than its endpoint allows, by `GC_TASK_TIMEOUT` in the workers' environment.

    Attributes:
        limit_s: The limit in seconds, or `None` when it isn't known here.
    """

    limit_s: float | None

    # Without arguments, too: Python makes it itself when it is raised in another thread.
    def __init__(self, *, limit_s: float | None = None, detail: str = "") -> None:
        limit = f"{limit_s:g} s" if limit_s is not None else "its endpoint allows"
        super().__init__(detail or f"The task ran longer than {limit}.", limit_s=limit_s, detail=detail)


class VersionMismatch(TaskError):
    """Sender and worker run different Python versions, so the task was not unpickled.

    Attributes:
        sender: Versions at the sender, for example `{"python": "3.11", "parsl": "2026.10.26"}`.
        worker: Versions at the worker.
        detail: Why it could not be sent as source; empty if that was not tried.
    """

    sender: dict[str, str]
    worker: dict[str, str]
    detail: str

    def __init__(self, *, sender: dict[str, str], worker: dict[str, str], detail: str = "") -> None:
        def say(side: dict[str, str]) -> str:
            return ", ".join(f"{name} {version}" for name, version in sorted(side.items()))

        because = f": {detail}" if detail else ""
        super().__init__(
            f"This workflow runs with {say(sender)}, but the worker with {say(worker)}. Functions travel between "
            f"different minor versions of Python as source only{because}. Use the same version on both sides.",
            sender=sender,
            worker=worker,
            detail=detail,
        )


class NotSerializable(TaskError):
    """A function, an argument or a result can't be pickled.

    Attributes:
        what: Which one, for example "argument 2" or "the result".
        detail: What pickle said.
    """

    what: str
    detail: str

    def __init__(self, *, what: str, detail: str) -> None:
        super().__init__(f"{what[:1].upper()}{what[1:]} can't be serialized: {detail}", what=what, detail=detail)


class NotDeserializable(TaskError):
    """What was sent arrived, but can't be unpickled at the other side.

    Attributes:
        what: Which part, for example "the function".
        detail: What was said there, often a traceback.
    """

    what: str
    detail: str

    def __init__(self, *, what: str, detail: str) -> None:
        super().__init__(
            f"{what[:1].upper()}{what[1:]} can't be unpickled at the other side; is a module missing there?\n{detail}",
            what=what,
            detail=detail,
        )


class PayloadTooLarge(TaskError):
    """The encoded task is larger than the service takes.

    Attributes:
        size_bytes: Its encoded size.
        limit_bytes: The limit.
    """

    size_bytes: int
    limit_bytes: int

    def __init__(self, *, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"The encoded task has {size_bytes} bytes; the limit is {limit_bytes}. "
            "Pass large data by file or by reference.",
            size_bytes=size_bytes,
            limit_bytes=limit_bytes,
        )


class ResultTooLarge(TaskFailed):
    """The encoded result is larger than the endpoint sends.

    Attributes:
        size_bytes: Its encoded size; `None` where who refused it did not say.
        limit_bytes: The limit; the same.
    """

    size_bytes: int | None
    limit_bytes: int | None

    def __init__(
        self,
        *,
        task_id: str | None,
        code: str,
        remote_traceback: str,
        size_bytes: int | None = None,
        limit_bytes: int | None = None,
    ) -> None:
        super().__init__(task_id=task_id, code=code, remote_traceback=remote_traceback)
        self.size_bytes = self.fields["size_bytes"] = size_bytes
        self.limit_bytes = self.fields["limit_bytes"] = limit_bytes


class ObjectStoreFailed(TaskError):
    """A large value did not come through the object store.

    Attributes:
        what: Which one: "the arguments" or "the result".
        detail: Why.
        host: The worker's machine where it happened; `None` if it was here.
    """

    what: str
    detail: str
    host: str | None

    def __init__(self, *, what: str, detail: str, host: str | None = None, transient: bool = False) -> None:
        where = f", as the worker on {host} was told" if host else ""
        super().__init__(
            f"{what[:1].upper()}{what[1:]} did not come through the object store{where}: {detail}",
            what=what,
            detail=detail,
            host=host,
            transient=transient,
        )


class WorkerLacksModule(TaskError):
    """The worker's Python has no module that is needed to reach the object store.

    Attributes:
        module: Its name.
        host: The worker's machine.
    """

    module: str
    host: str

    def __init__(self, *, module: str, host: str) -> None:
        super().__init__(
            f"The Python of the worker on {host} has no module '{module}', without which it can't reach the object "
            "store. Install it there, in the environment of the endpoint's worker_init: "
            "pip install 'parsl-globus[proxystore]'",
            module=module,
            host=host,
        )


class FunctionNotAllowed(TaskError):
    """The endpoint runs listed functions only.

    Attributes:
        endpoint_id: Its id, or `None` when the teller didn't say.
        detail: What was said.
    """

    endpoint_id: str | None
    detail: str

    def __init__(self, *, endpoint_id: str | None, detail: str) -> None:
        which = f"Endpoint {endpoint_id}" if endpoint_id else "The endpoint"
        super().__init__(f"{which} does not allow this function: {detail}", endpoint_id=endpoint_id, detail=detail)


class NotForRegisteredFunction(TaskError):
    """A function of the executor's `function_ids` was called in a way that needs more to run than the function.

    Attributes:
        what: What can't go with it, for example "walltime".
        function_id: The function's id.
    """

    what: str
    function_id: str

    def __init__(self, *, what: str, function_id: str) -> None:
        super().__init__(
            f"Function {function_id} runs as it was registered, so this call of it can't have what wraps a function on "
            f"the worker: {what}. Leave it out, or have the function itself do it.",
            what=what,
            function_id=function_id,
        )


class TaskCancelled(TaskError):
    """The task was cancelled before it had a result."""

    def __init__(self, *, detail: str) -> None:
        super().__init__(f"The task was cancelled: {detail}", detail=detail)


class ExecutorShutDown(TaskError):
    """The executor was shut down before the task had a result."""

    def __init__(self, *, label: str) -> None:
        super().__init__(f"Executor '{label}' was shut down before this task had a result.", label=label)


# ---- journal --------------------------------------------------------------------------------------------------


class JournalError(ParslGlobusError):
    """The journal of an executor can't be used.

    Attributes:
        path: The file.
        detail: What is wrong with it.
    """

    path: str
    detail: str

    def __init__(self, *, path: str, detail: str) -> None:
        super().__init__(
            f"The journal {path} can't be used: {detail}. Give another path, or move the file away: then nothing of "
            "an earlier run is taken up.",
            path=path,
            detail=detail,
        )


class JournalInUse(JournalError):
    """Another executor, here or in another process, uses the journal."""

    def __init__(self, *, path: str) -> None:
        ParslGlobusError.__init__(
            self,
            f"The journal {path} is used by another workflow that runs, or by another executor of this one. "
            "Wait for its end, or give this one a journal of its own.",
            path=path,
            detail="in use",
        )


# ---- tests ----------------------------------------------------------------------------------------------------


class SchedulerError(ParslGlobusError):
    """A scheduler or host of `parsl_globus.testing.schedulers` does not work here.

    Attributes:
        what: The scheduler, host or command.
        detail: What it said.
    """

    what: str
    detail: str

    def __init__(self, *, what: str, detail: str) -> None:
        super().__init__(f"This could not be set up or done: {what}: {detail}", what=what, detail=detail)
