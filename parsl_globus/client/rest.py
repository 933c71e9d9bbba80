"""The service's REST interface: globus_sdk's clients, with typed replies and our errors."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import globus_sdk
import requests
import urllib3
from globus_sdk.transport import RetryCheckCollection, RetryCheckResult, RetryConfig, RetryContext
from pydantic import ValidationError

from parsl_globus.client.blobs import BlobCalls
from parsl_globus.client.direct_post import DirectPost, never_connected
from parsl_globus.client.trust import trust
from parsl_globus.errors import DecodeError, NotAuthorized, RequestRefused, ServiceUnreachable
from parsl_globus.wire.documents import (
    IDEMPOTENCY_HEADER,
    PREFER_HEADER,
    PREFER_PER_TASK,
    Document,
    EndpointRegistered,
    EndpointRegistration,
    FunctionRegistration,
    ResultAccess,
    Submitted,
    TaskStatus,
)

_D = TypeVar("_D", bound=Document)

#: Most ids asked for in one `batch_status` call.
STATUS_BATCH = 500


@dataclass(frozen=True)
class ServiceVersion:
    """What the service says about itself.

    Attributes:
        extensions: Names of the protocol extensions it offers (PROTOCOL.md section 10); none on Globus's own.
        version: Version of this package there, or `None` when it is another service.
        blob_limit_bytes: Largest blob it takes, or `None` when it takes none.
    """

    extensions: frozenset[str]
    version: str | None
    blob_limit_bytes: int | None = None


class Login(Protocol):
    """Who calls, and where: a `globus_compute_sdk.Client` is one, without which this module loads in half the time.

    Attributes:
        web_service_address: Base URL of the service.
        app: A `globus_sdk.UserApp` or `ClientApp` that logs in when it must.
        authorizer: What shows a token, where there is no `app`.
    """

    @property
    def web_service_address(self) -> Any: ...

    @property
    def app(self) -> Any: ...

    @property
    def authorizer(self) -> Any: ...


class ServiceClient(BlobCalls):
    """Calls to the service with the identity of a `globus_compute_sdk.Client`.

    Uses connections of its own: the SDK's client serializes all calls with a lock. Thread-safe.

    Every call raises `ServiceUnreachable` when no answer comes, `NotAuthorized` on HTTP 401 and 403, `RequestRefused`
    on other error answers, `DecodeError` when the answer isn't what it should be.

    Args:
        client: Whose login and address are used.
        max_retries: How often a call other than a submission is repeated when the service can't be reached. A login
            that the service does not accept any more is renewed, and the call made again, in any case.
    """

    def __init__(self, client: Login, *, max_retries: int = 5) -> None:
        self.url: str = client.web_service_address
        login: dict[str, Any] = {"app": client.app} if client.app else {"authorizer": client.authorizer}
        patient = RetryConfig(max_retries=max_retries) if max_retries else _once()
        self._app = client.app
        self._v2 = globus_sdk.ComputeClientV2(base_url=self.url, retry_config=patient, **login)
        self._v3 = globus_sdk.ComputeClientV3(base_url=self.url, retry_config=patient, **login)
        for part in (self._v2, self._v3):
            trust(part, self.url)
        # globus_sdk's retry repeats a POST, and a repeated submission runs twice (PROTOCOL.md section 4).
        self._submitting = DirectPost(self._v3, client.app, self.url)

    def version(self) -> ServiceVersion:
        """Ask what the service offers."""
        with self._mapped("version document"):
            document = _object(self._v2.get_version(service="all").data)
        ours = document.get("parsl_globus") or {}
        return ServiceVersion(
            extensions=frozenset(ours.get("extensions", ())),
            version=ours.get("version"),
            blob_limit_bytes=ours.get("blob_limit_bytes"),
        )

    def identities(self) -> frozenset[uuid.UUID]:
        """The identities of the caller: agents serve start commands for these."""
        auth = globus_sdk.AuthClient(app=self._app) if self._app else self._v2
        with self._mapped("userinfo document"):
            document = _object(auth.get("/v2/oauth2/userinfo").data)
            found = [document.get("sub"), *(entry.get("sub") for entry in document.get("identity_set", []))]
            return frozenset(uuid.UUID(text) for text in found if text)

    def register_function(self, registration: FunctionRegistration) -> uuid.UUID:
        """Register a function."""
        with self._mapped("function registration"):
            reply = self._v3.register_function(registration.model_dump(mode="json", exclude_none=True))
            return uuid.UUID(reply["function_uuid"])

    def submit(
        self,
        endpoint_id: uuid.UUID,
        submission: Sequence[bytes],
        *,
        idempotency_key: uuid.UUID | None = None,
        per_task: bool = False,
    ) -> Submitted:
        """Submit a batch; the answer comes when the tasks are safe. Never repeated here.

        Args:
            endpoint_id: Where to.
            submission: The JSON of a `documents.Submission`, in parts.
            idempotency_key: Only for services with the extension `idempotency`: the same key has the same effect once.
            per_task: Only with the extension `per-task`: refused tasks don't fail the others.
        """
        headers: dict[str, str] = {}
        if idempotency_key is not None:
            headers[IDEMPOTENCY_HEADER] = str(idempotency_key)
        if per_task:
            headers[PREFER_HEADER] = PREFER_PER_TASK
        with self._mapped("submission reply"):
            reply = self._submitting.post(f"/v3/endpoints/{endpoint_id}/submit", submission, headers)
            return _decode_json(Submitted, reply)

    def result_access(self) -> ResultAccess:
        """Where and how to consume results."""
        with self._mapped("result access document"):
            return _decode(ResultAccess, self._v2.get_result_amqp_url().data)

    def task_statuses(self, task_ids: Iterable[uuid.UUID]) -> dict[uuid.UUID, TaskStatus]:
        """Where these tasks stand; ids that the service doesn't know are left out."""
        wanted = [str(task_id) for task_id in task_ids]
        statuses: dict[uuid.UUID, TaskStatus] = {}
        for start in range(0, len(wanted), STATUS_BATCH):
            with self._mapped("batch status document"):
                reply = self._v2.get_task_batch(wanted[start : start + STATUS_BATCH])
                for text, entry in reply["results"].items():
                    statuses[uuid.UUID(text)] = _decode(TaskStatus, {"task_id": text, **entry})
        return statuses

    def cancel(self, task_ids: Iterable[uuid.UUID]) -> dict[uuid.UUID, str]:
        """Have these tasks not run, or end if they do. Only for services with the extension `cancel`.

        Returns:
            What it has come to for each: "cancelled", "requested", "finished" or "unknown".
        """
        wanted = [str(task_id) for task_id in task_ids]
        outcomes: dict[uuid.UUID, str] = {}
        for start in range(0, len(wanted), STATUS_BATCH):
            with self._mapped("answer to a cancellation"):
                reply = self._v3.post("/v3/tasks/cancel", data={"task_ids": wanted[start : start + STATUS_BATCH]})
                outcomes.update((uuid.UUID(text), str(word)) for text, word in reply["results"].items())
        return outcomes

    def register_endpoint(
        self, registration: EndpointRegistration, endpoint_id: uuid.UUID | None
    ) -> EndpointRegistered:
        """Register an endpoint, under an id it had before if there is one."""
        body = registration.model_dump(mode="json", exclude_none=True)
        with self._mapped("endpoint registration"):
            if endpoint_id is None:
                reply = self._v3.register_endpoint(body)
            else:
                reply = self._v3.update_endpoint(endpoint_id, body)
            return _decode(EndpointRegistered, reply.data)

    def endpoint(self, endpoint_id: uuid.UUID) -> dict[str, Any]:
        """What is registered about an endpoint."""
        with self._mapped("endpoint document"):
            return _object(self._v2.get_endpoint(endpoint_id).data)

    def endpoint_status(self, endpoint_id: uuid.UUID) -> dict[str, Any]:
        """`{"status": "online" or "offline", "details": {...}}`."""
        with self._mapped("endpoint status document"):
            return _object(self._v2.get_endpoint_status(endpoint_id).data)

    def endpoints(self) -> list[dict[str, Any]]:
        """The caller's endpoints."""
        with self._mapped("list of endpoints"):
            return [_object(entry) for entry in self._v2.get_endpoints().data]

    def delete_endpoint(self, endpoint_id: uuid.UUID) -> None:
        """Forget an endpoint."""
        with self._mapped("deletion"):
            self._v2.delete_endpoint(endpoint_id)

    def close(self) -> None:
        """Close all connections."""
        for client in (self._submitting, self._v2, self._v3):
            client.close()

    @contextmanager
    def _mapped(self, what: str) -> Iterator[None]:
        """All that can go wrong with a call that should give `what`, mapped to our errors."""
        started = time.monotonic()
        try:
            yield
        except globus_sdk.GlobusAPIError as exc:
            raise _refusal(exc) from exc
        except globus_sdk.NetworkError as exc:
            raise ServiceUnreachable(
                url=self.url,
                after_s=time.monotonic() - started,
                detail=network_reason(exc.underlying_exception),
                maybe_received=not _never_connected(exc.underlying_exception),
            ) from exc
        except urllib3.exceptions.HTTPError as exc:
            raise ServiceUnreachable(
                url=self.url,
                after_s=time.monotonic() - started,
                detail=network_reason(exc),
                maybe_received=not never_connected(exc),
            ) from exc
        except (KeyError, TypeError, AttributeError, ValueError) as exc:
            raise DecodeError(what=what, size_bytes=0, detail=f"{type(exc).__name__}: {exc}") from exc


def _once() -> RetryConfig:
    """One call, and a second one only when the first was refused for a login that could be renewed."""
    checks = RetryCheckCollection()
    checks.register_check(_only_for_the_login)  # before those that every client registers
    return RetryConfig(max_retries=1, backoff=lambda _ctx: 0.0, checks=checks)


def _only_for_the_login(ctx: RetryContext) -> RetryCheckResult:
    refused = ctx.response is not None and ctx.response.status_code == 401
    return RetryCheckResult.no_decision if refused else RetryCheckResult.do_not_retry


def _decode(document: type[_D], data: Any) -> _D:
    try:
        return document.model_validate(data)
    except ValidationError as exc:
        raise _bad(exc) from None


def _decode_json(document: type[_D], data: bytes) -> _D:
    try:
        return document.model_validate_json(data)
    except ValidationError as exc:
        raise _bad(exc) from None


def _bad(exc: ValidationError) -> ValueError:
    # Without the input: a document may hold a password.
    return ValueError("; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors(include_input=False)))


def _object(data: Any) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ValueError(f"it is a {type(data).__name__}, not an object")
    return data


def _refusal(exc: globus_sdk.GlobusAPIError) -> RequestRefused:
    body = exc.raw_json if isinstance(exc.raw_json, dict) else {}
    reason = str(body.get("reason") or exc.message or exc.http_reason)
    code = str(body.get("code") or exc.code or "UNKNOWN")
    kind = NotAuthorized if exc.http_status in (401, 403) else RequestRefused
    return kind(http_status=exc.http_status, code=code, reason=reason)


def network_reason(exc: BaseException) -> str:
    """Why no answer came, in the words of the system: those of requests and urllib3 fill a screen."""
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(exc)


def _never_connected(exc: Exception) -> bool:
    """Whether the failure came before a byte of the request was sent."""
    if isinstance(exc, requests.ConnectTimeout):
        return True
    cause = exc.args[0] if exc.args else None
    reason = getattr(cause, "reason", None)  # of urllib3's MaxRetryError
    return isinstance(reason, (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError))
